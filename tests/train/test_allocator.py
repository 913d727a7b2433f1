from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from archlab.train.allocator import keep_freed_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
COUNT = """
import resource, sys
import torch
from archlab.train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for i in range(8):
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Of seven large tensors, one after the other, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc
def test_pages_of_what_was_freed_are_used_again() -> None:
    pages = 7 * 64 * 2**20 // resource.getpagesize()
    assert page_faults("given back") > pages * 3 // 4
    assert page_faults("kept") < pages // 4


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archlab.train.allocator.platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()

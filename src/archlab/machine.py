"""The machine and the code that produced a result: what a number needs to be compared with another one."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.layers.packed import PackedLinear, can_pack

_GIB = 2**30
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def describe() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, versions, and the graphics processor or None."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def git_commit(folder: Path | None = None) -> str:
    """Commit of the checkout that this package runs from, with "-dirty" if tracked files were changed, else "unknown".

    A package installed into somebody else's checkout is not part of it: git must know this very file.

    Args:
        folder: where to look; the package's own by default.
    """
    folder = folder or Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return "unknown"
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown"


def matmul_peak(
    precision: Literal["float32", "bfloat16"] = "float32",
    *,
    sizes: Sequence[int] = (512, 1024, 2048),
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The fastest square matrix product found, in GFLOP/s (1e9 additions and multiplications per second).

    A measured ceiling for everything that is made of matrix products: the same library, the same threads, no overhead.

    Args:
        precision: of both factors and of the product.
        sizes: rows of the square matrices.
        repeats: products timed per size, after one that is not.
        clock: seconds.
    """
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size).to(_DTYPES[precision]) for _ in range(2))
        product = left @ right
        for _ in range(repeats):
            start = clock()
            torch.mm(left, right, out=product)
            best = max(best, 2 * size**3 / (clock() - start) / 1e9)
    return best


def matvec_bandwidth(
    precision: Literal["float32", "bfloat16"] = "float32",
    *,
    megabytes: int = 512,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """How fast matrix-vector products read their matrix, in GB/s (1e9 bytes per second): the fastest of several.

    A measured ceiling for decoding one sequence, which reads every weight once per token: matrices in rows, and in
    blocks where the processor has such products. They are together larger than any of its caches.

    Args:
        precision: of matrix and vector.
        megabytes: size of all matrices, each of 4096 columns.
        repeats: passes over all matrices that are timed, after one that is not.
        clock: seconds.
    """
    dtype, columns, count = _DTYPES[precision], 4096, 8
    rows = max(1, megabytes * 10**6 // (count * columns * dtype.itemsize))
    vector = torch.ones(1, columns, dtype=dtype)
    layouts: list[Callable[[Tensor], Callable[[Tensor], Tensor]]] = [lambda matrix: lambda x: F.linear(x, matrix)]
    if can_pack(dtype):
        layouts.append(lambda matrix: PackedLinear(matrix, None, 1))
    best = 0.0
    for lay_out in layouts:
        products = [lay_out(torch.ones(rows, columns, dtype=dtype)) for _ in range(count)]
        for attempt in range(1 + repeats):
            start = clock()
            for product in products:
                product(vector)
            seconds = clock() - start
            if attempt:
                best = max(best, count * rows * columns * dtype.itemsize / seconds / 1e9)
    return best


def _cpu_model() -> str:
    """`platform.processor` is empty or only the architecture on Linux, where the kernel knows the name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on; a container often has fewer than the machine."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def computing_threads() -> int:
    """Threads that a model computes with while it serves: the last core is left to what answers the requests."""
    return max(1, usable_cores() - 1)


def memory_limit() -> int:
    """Bytes of memory that this process may take: the machine's, or less where a container limits it (cgroups 2, 1)."""
    limits = [psutil.virtual_memory().total]
    for file in _MEMORY_LIMITS:
        try:
            limits.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, None if there is no git or it refuses."""
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None

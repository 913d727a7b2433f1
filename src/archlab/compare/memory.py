"""Peak memory of a piece of work: of a process of its own with all that it holds, or of tensors alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

_MIB = 2**20
NOT_MEASURED = "not measured"


def peak_memory_of(function: Callable[..., object], *arguments: Any) -> dict[str, Any]:
    """Run `function(*arguments)` in a fresh process and report the most memory that was resident.

    In a process of its own, one arm's peak does not hide another's. It is spawned, not forked: a fork begins with the
    parent's memory, and the threads that compute matrix products do not survive one. So `function` must be importable
    (no lambda) and its arguments small and picklable: have it build or load its model itself.

    Returns:
        `peak_memory_mib`: high water of the resident set, with Python, PyTorch and everything that was loaded;
        `start_memory_mib`: resident before `function` ran, hence the share of the libraries that importing it loads;
        `gpu_memory`: MiB allocated at the peak, or "not measured" without a graphics processor.

    Raises:
        MemoryError: the process was killed, as the operating system does when memory runs out.
        Exception: whatever `function` raised.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, torch.get_num_threads(), function, arguments).result()
        except BrokenProcessPool:
            raise MemoryError(
                f"{function.__name__}: its process was killed while its memory was measured; "
                f"the machine has {psutil.virtual_memory().total / 2**30:.1f} GiB"
            ) from None


def peaks_of(function: Callable[..., object], calls: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """`peak_memory_of` for each call, two processes at a time: unlike time, memory does not depend on the neighbour."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda arguments: peak_memory_of(function, *arguments), calls))


def peak_allocation(function: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that exist at once while `function` runs, beyond those from before.

    It counts what PyTorch's allocator hands out, temporary memory of its own kernels included, but not what other
    libraries take by themselves. It is exact, and the same in every run.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or else it prints a line when it starts and when it stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in changes), default=0)


def _measure(threads: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> dict[str, Any]:
    torch.set_num_threads(threads)
    start = psutil.Process().memory_info().rss
    function(*arguments)
    gpu = round(torch.cuda.max_memory_allocated() / _MIB, 1) if torch.cuda.is_available() else NOT_MEASURED
    return {
        "peak_memory_mib": round(_high_water() / _MIB, 1),
        "start_memory_mib": round(start / _MIB, 1),
        "gpu_memory": gpu,
    }


def _high_water() -> int:
    """Largest resident set of this process so far, in bytes.

    Not `getrusage` on Linux: there a spawned process inherits the maximum of the one that started it.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS

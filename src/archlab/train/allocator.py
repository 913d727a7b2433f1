"""Memory that one training step frees is kept for the next, which needs as much of it again."""

from __future__ import annotations

import ctypes
import platform

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether its allocator can be told to.

    glibc gives blocks of more than 32 MiB back to the system at once, which clears every page of the next one: of
    logits over a large vocabulary, a step can spend more time on that than on its products.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))

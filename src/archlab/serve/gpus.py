"""Memory of the machine's GPUs as their driver tells it, whichever process computes on them."""

from contextlib import suppress

import pynvml


class Gpus:
    """Those that the driver knows; none where there is no driver. No process needs CUDA to ask it."""

    def __init__(self) -> None:
        self._count = 0
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._count = pynvml.nvmlDeviceGetCount()

    def memory(self) -> dict[tuple[str, str], float]:
        """(number, "used" or "total") -> bytes; without one that does not answer."""
        found: dict[tuple[str, str], float] = {}
        for number in range(self._count):
            with suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number))
                found |= {(str(number), "used"): memory.used, (str(number), "total"): memory.total}
        return found

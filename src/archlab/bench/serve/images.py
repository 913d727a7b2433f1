"""What an image request costs at least: decoding and computing, timed by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np

from archlab.bench.serve.workload import LABELS, pictures
from archlab.compare.latency import alternate
from archlab.data.images import decode
from archlab.serve.engine import Engine
from archlab.serve.uploads import FORMATS

BATCHES = (1, 8, 32)
_PICTURES = 16
_QUESTION = "what is this"
_MOST_PIXELS = 25_000_000


def image_floor(engine: Engine, *, rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Milliseconds of one image: decoded, and classified among `LABELS` at each size of batch, one thread each.

    VL-JEPA has the vectors of the labels before, as the service has from its cache.

    Returns:
        "decode_ms"; "compute_ms" by size of batch; "floor_ms", decoding and the fastest way to compute together.
    """
    files, side = pictures(_PICTURES), engine.about.image_size
    turns = cycle(files)

    def decoded() -> np.ndarray:
        return decode(next(turns), side, max_pixels=_MOST_PIXELS, formats=FORMATS)

    images = [decoded() for _ in files]

    def computing(batch: int) -> Callable[[], object]:
        rows, questions = list(islice(cycle(images), batch)), [_QUESTION] * batch
        if engine.about.scale is not None:
            return lambda: engine.operations["embed_images"](rows, questions)
        return lambda: engine.operations["choose"](rows, questions, [LABELS] * batch)

    calls: dict[str, Callable[[], object]] = {"decode": decoded}
    calls |= {str(batch): computing(batch) for batch in BATCHES}
    seconds = alternate(calls, rounds=rounds, warmup=3, clock=clock)
    decoding = float(np.median(seconds["decode"]) * 1e3)
    compute = {str(batch): float(np.median(seconds[str(batch)]) * 1e3 / batch) for batch in BATCHES}
    return {"decode_ms": decoding, "compute_ms": compute, "floor_ms": decoding + min(compute.values())}

"""The learning rate as a pure function of the step: a resumed run needs no schedule state."""

from __future__ import annotations

import math

from archlab.config import OptimizerConfig


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up to the peak, then constant or a half cosine towards zero.

    Args:
        step: updates done before this one, 0 to `config.steps - 1`. The rate is positive at every one of them.
    """
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return config.learning_rate * ((step + 1) / warmup)
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (config.steps - warmup)))

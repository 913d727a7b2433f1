"""The learning rate as a pure function of the step: a resumed run needs no schedule state."""

from __future__ import annotations

import math
from typing import Literal

from archlab.config import OptimizerConfig

Shape = Literal["cosine", "constant", "wsd", "inverse-sqrt"]


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up to the peak, then constant or a half cosine towards zero.

    Args:
        step: updates done before this one, 0 to `config.steps - 1`. The rate is positive at every one of them.
    """
    warmup = round(config.warmup_fraction * config.steps)
    return config.learning_rate * share_of_peak(step, config.steps, warmup, config.schedule)


def share_of_peak(
    step: int, steps: int, warmup: int, shape: Shape, *, final: float = 0.0, decay_fraction: float = 0.2
) -> float:
    """Learning rate of a step as a share of its peak.

    Args:
        step: updates done before this one, 0 to `steps - 1`.
        warmup: steps of the linear rise.
        shape: what follows it. "cosine": half a cosine down to `final`. "wsd": warm-up, stable, decay (arXiv
            2404.06395, section 4.2), here with the linear decay of arXiv 2405.18392. "inverse-sqrt": "Attention is all
            you need", section 5.3, with the peak given instead of derived from the width.
        final: share that cosine and wsd end at.
        decay_fraction: share of the steps that wsd decays in.
    """
    if step < warmup:
        return (step + 1) / warmup
    if shape == "cosine":
        return final + (1 - final) * (0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))
    if shape == "wsd":
        decay = max(1, min(round(decay_fraction * steps), steps - warmup))
        return final + (1 - final) * min(1.0, (steps - step) / decay)
    if shape == "inverse-sqrt":
        return math.sqrt(max(warmup, 1) / max(step + 1, warmup, 1))
    return 1.0

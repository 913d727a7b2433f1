"""How rotary frequencies are changed so that a model reads further than it was pretrained to.

Each scaling is a section of a model's configuration; `RotaryEmbedding` calls its `scale` once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from archlab.config import Section
from archlab.errors import UserError


class RotaryScaling(Protocol):
    """What `RotaryEmbedding` asks of a scaling."""

    def scale(self, frequencies: Tensor) -> Tensor:
        """Changed frequencies (D / 2) of frequencies (D / 2), in radians per position."""
        ...


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(Section):
    """LLaMA 3.1 (arXiv 2407.21783, section 3.4.2; the formula is in Meta's released code).

    Slow frequencies, those that turn less than `low_frequency` times within the original context, are divided by
    `factor`; fast ones, more than `high_frequency` turns, stay; between the two the change is linear in the turns.
    """

    factor: float = 8.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_context: int = 8192
    """Tokens per sequence in pretraining."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_frequency <= self.low_frequency:
            raise UserError(
                f"high_frequency={self.high_frequency!r}: must be more than low_frequency={self.low_frequency!r}"
            )

    def scale(self, frequencies: Tensor) -> Tensor:
        """See `RotaryScaling.scale`."""
        turns = self.original_context * frequencies / (2 * math.pi)
        kept = ((turns - self.low_frequency) / (self.high_frequency - self.low_frequency)).clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies

"""How rotary frequencies are changed so that a model reads further than it was pretrained to.

Each scaling is a section of a model's configuration; `kind` tells them apart in a file. `RotaryEmbedding` uses them.

Shape legend: D width of a head, n = D / 2 frequencies, fastest first: base^(-i / n) radians per position.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from archlab.config import Section
from archlab.errors import UserError
from archlab.rules import Count, Positive


class RotaryScaling(Section, ABC):
    """What `RotaryEmbedding` asks of a scaling."""

    @abstractmethod
    def scale(self, frequencies: Tensor, base: float) -> Tensor:
        """Changed frequencies (n) of frequencies (n), in radians per position."""

    @property
    def attention_scale(self) -> float:
        """Factor of turned queries and of turned keys: scores are multiplied by its square."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(RotaryScaling):
    """LLaMA 3.1 (arXiv 2407.21783, section 3.4.2; the formula is in Meta's released code).

    Slow frequencies, those that turn less than `low_frequency` times within the original context, are divided by
    `factor`; fast ones, more than `high_frequency` turns, stay; between the two the change is linear in the turns.
    """

    kind: Literal["llama3"] = "llama3"
    factor: Positive = 8.0
    low_frequency: Positive = 1.0
    high_frequency: Positive = 4.0
    original_context: Count = 8192
    """Tokens per sequence in pretraining."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_frequency <= self.low_frequency:
            raise UserError(
                f"high_frequency={self.high_frequency!r}: must be more than low_frequency={self.low_frequency!r}"
            )

    def scale(self, frequencies: Tensor, base: float) -> Tensor:
        """See `RotaryScaling.scale`."""
        turns = self.original_context * frequencies / (2 * math.pi)
        kept = ((turns - self.low_frequency) / (self.high_frequency - self.low_frequency)).clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@dataclass(frozen=True, kw_only=True)
class LinearScaling(RotaryScaling):
    """Position interpolation (arXiv 2306.15595, equation 4): every position is divided by `factor`."""

    kind: Literal["linear"] = "linear"
    factor: Positive = 4.0

    def scale(self, frequencies: Tensor, base: float) -> Tensor:
        """See `RotaryScaling.scale`."""
        return frequencies / self.factor


@dataclass(frozen=True, kw_only=True)
class NTKScaling(RotaryScaling):
    """NTK-aware interpolation (YaRN, arXiv 2309.00071, section 3.1): a larger base, whatever the sequence's length.

    The base becomes base * factor^(D / (D - 2)): the fastest frequency stays and the slowest is divided by `factor`.
    """

    kind: Literal["ntk"] = "ntk"
    factor: Positive = 4.0

    def scale(self, frequencies: Tensor, base: float) -> Tensor:
        """See `RotaryScaling.scale`."""
        return frequencies * self.factor ** -_ramp(frequencies)


@dataclass(frozen=True, kw_only=True)
class DynamicNTKScaling(RotaryScaling):
    """Dynamic NTK (YaRN, arXiv 2309.00071, section 3.3): nothing up to the original context, then more and more.

    Differs from `transformers`: every sequence is scaled by its own length, not by the longest of the batch nor by one
    seen earlier, so that a result depends on its own sequence only. As there, a cache keeps keys as they were turned
    when they came: beyond the original context, reading in pieces is not the same as reading at once.
    """

    kind: Literal["dynamic"] = "dynamic"
    factor: Positive = 4.0
    original_context: Count = 2048
    """Tokens per sequence in pretraining."""

    def scale(self, frequencies: Tensor, base: float) -> Tensor:
        """Those of short sequences: unchanged."""
        return frequencies

    def scale_for(self, frequencies: Tensor, lengths: Tensor) -> Tensor:
        """Frequencies (B, n) for sequences of `lengths` (B) tokens, of frequencies (n)."""
        stretch = self.factor * lengths.float() / self.original_context - (self.factor - 1)  # (B)
        return frequencies * stretch.clamp(min=1)[:, None] ** -_ramp(frequencies)


@dataclass(frozen=True, kw_only=True)
class YarnScaling(RotaryScaling):
    """YaRN (arXiv 2309.00071, sections 3.2 and 3.4): slow frequencies are divided by `factor`, fast ones stay.

    Differs from the paper, as its released code does: between the two the change is linear in the index of the
    frequency and not in its turns.
    """

    kind: Literal["yarn"] = "yarn"
    factor: Positive = 4.0
    original_context: Count = 2048
    """Tokens per sequence in pretraining."""
    fast_turns: Positive = 32.0
    """Frequencies that turn more often than this within the original context stay (beta of the paper)."""
    slow_turns: Positive = 1.0
    """Those that turn less often are divided by `factor` (alpha of the paper)."""
    truncate: bool = True
    """Whether the indices where the change begins and ends are rounded outwards to whole ones."""
    attention_factor: float | None = None
    """`attention_scale`; None computes it: 0.1 ln(factor) + 1 (equation 22)."""
    magnitude: float | None = None
    """With `magnitude_all`, the ratio of 0.1 * magnitude * ln(factor) + 1 for both (DeepSeek)."""
    magnitude_all: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fast_turns <= self.slow_turns:
            raise UserError(f"fast_turns={self.fast_turns!r}: must be more than slow_turns={self.slow_turns!r}")
        if (self.magnitude is None) != (self.magnitude_all is None):
            raise UserError(
                f"magnitude={self.magnitude!r}: must be given with magnitude_all, here {self.magnitude_all!r}, or not"
            )
        for name in ("attention_factor", "magnitude", "magnitude_all"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name}={value!r}: must be positive and finite")

    def scale(self, frequencies: Tensor, base: float) -> Tensor:
        """See `RotaryScaling.scale`."""
        count = len(frequencies)
        first, last = (self._index(turns, count, base) for turns in (self.fast_turns, self.slow_turns))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * count - 1)
        span = last - first if last != first else 0.001
        indices = torch.arange(count, dtype=torch.float32, device=frequencies.device)
        divided = ((indices - first) / span).clamp(0, 1)
        return frequencies / self.factor * divided + frequencies * (1 - divided)

    @property
    def attention_scale(self) -> float:
        """See `RotaryScaling.attention_scale`."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.magnitude is None or self.magnitude_all is None:
            return self._magnitude(1.0)
        return self._magnitude(self.magnitude) / self._magnitude(self.magnitude_all)

    @property
    def score_scale(self) -> float:
        """Further factor of scores, where features that are not turned take part in them as well (DeepSeek)."""
        return 1.0 if self.magnitude_all is None else self._magnitude(self.magnitude_all) ** 2

    def _magnitude(self, strength: float) -> float:
        return 0.1 * strength * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def _index(self, turns: float, count: int, base: float) -> float:
        """Index, not whole, of the frequency that turns so often within the original context."""
        return count * math.log(self.original_context / (turns * 2 * math.pi)) / math.log(base)


AnyRotaryScaling = Llama3Scaling | LinearScaling | NTKScaling | DynamicNTKScaling | YarnScaling
"""For the configuration of a model that may have any of them; a file that names no `kind` means the first."""


def _ramp(frequencies: Tensor) -> Tensor:
    """From 0 at the fastest to 1 at the slowest of frequencies (n), in equal steps."""
    count = len(frequencies)
    return torch.arange(count, dtype=torch.float32, device=frequencies.device) / max(count - 1, 1)

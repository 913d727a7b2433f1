"""Comparisons of one family alone, with a reference that `transformers` does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from archlab.interop.parity.faults import Edit
from archlab.interop.parity.results import Outcome
from archlab.interop.parity.states import middle
from archlab.layers.attention import Implementation, set_implementation


@dataclass(frozen=True)
class Pair:
    """Ours with random weights, and its reference.

    Attributes:
        model: ours, which may be changed before it is compared.
        layers: those of its layers that a bug may be planted in.
        compare: both give the same, and the same gradients.
    """

    model: nn.Module
    layers: Sequence[nn.Module]
    compare: Callable[[], Outcome]


@dataclass(frozen=True)
class Extra:
    """One such comparison.

    Attributes:
        build: makes the pair, of the family's tiny configuration.
        cause: what is wrong where this comparison fails and those with `transformers` do not.
        faults: bugs that it must notice, by what is wrong.
    """

    build: Callable[[Any], Pair]
    cause: str
    faults: Mapping[str, Edit]

    def compare(self, config: Any, attention: Implementation, fault: str = "") -> Outcome:
        """Of a new pair, with one of the bugs planted in the middle layer of ours if it is named."""
        pair = self.build(config)
        set_implementation(pair.model, attention)
        if fault:
            self.faults[fault](pair.model, middle(pair.layers))
        return pair.compare()

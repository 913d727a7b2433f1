"""Linear layers that read the same input, as one product: a processor reads one large matrix faster than several small.

Shape legend: W width, N features of all the layers together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SharedInput(nn.Module):
    """A layer of which several linear maps read the same input.

    They stay layers with names and weights of their own. After `join` their matrices lie side by side in memory, and
    where no gradient is wanted `project` multiplies by all of them at once: what replaces a layer comes before.
    """

    _joined: tuple[Tensor, Tensor | None] | None = None

    @abstractmethod
    def projections(self) -> tuple[nn.Linear, ...]:
        """The linear maps; all have a bias, or none has."""

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """What each of the maps makes of (..., W)."""
        if self._joined is None or torch.is_grad_enabled():
            return [layer(x) for layer in self.projections()]
        return F.linear(x, *self._joined).split([layer.out_features for layer in self.projections()], -1)

    def join(self) -> None:
        """Put matrices and biases side by side, each matrix stored column by column; see `generate.layout`."""
        layers = self.projections()
        weight = torch.cat([layer.weight.detach() for layer in layers]).T.contiguous().T  # (N, W)
        bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])  # (N)
        start = 0
        for layer in layers:
            share = slice(start, start := start + layer.out_features)
            layer.weight.data = weight[share]
            if bias is not None:
                layer.bias.data = bias[share]
        self._joined = weight, bias

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._joined = None  # moved or cast, every layer has memory of its own again
        return super()._apply(fn, recurse)

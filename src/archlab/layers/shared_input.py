"""Linear layers that read the same input, as one product: a processor reads one large matrix faster than several small.

Shape legend: W width, N features of all the layers together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class SharedInput(nn.Module):
    """A layer of which several linear maps read the same input.

    They are layers with names and weights of their own until `join` makes one of them: what replaces one comes before.
    """

    joined: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.joined = None

    @abstractmethod
    def projections(self) -> tuple[nn.Linear, ...]:
        """The linear maps; all have a bias, or none has."""

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """What each of the maps makes of (..., W)."""
        if self.joined is None:
            return [layer(x) for layer in self.projections()]
        product: Tensor = self.joined(x)
        return product.split([layer.out_features for layer in self.projections()], -1)

    def join(self, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
        """Let one layer stand for all, which lose their weights; see `generate.layout`.

        Args:
            make: the layer of a matrix (N, W) and a bias (N) or None.
        """
        layers = self.projections()
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        self.joined = make(torch.cat([layer.weight for layer in layers]), bias)
        for layer in layers:
            layer.register_parameter("weight", None)
            layer.register_parameter("bias", None)

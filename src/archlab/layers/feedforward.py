"""Position-wise feed-forward layers, plain and gated.

Shape legend: W width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    """Two linear layers around an activation ("Attention is all you need", section 3.3; exact GELU as in ViT).

    Args:
        width: W.
        hidden: F.
        activation: "gelu" is the exact one, "gelu-tanh" its approximation (arXiv 1606.08415, section 2) as in GPT-2.
        bias: whether both layers have one.
    """

    def __init__(
        self, width: int, hidden: int, *, activation: Literal["gelu", "gelu-tanh", "relu"] = "gelu", bias: bool = True
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return self.down_proj(_ACTIVATIONS[self.activation](self.up_proj(x)))


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU with "silu", GeGLU with "gelu" (arXiv 2002.05202, section 2).

    Args:
        width: W.
        hidden: F.
        activation: of the gate.
        bias: whether the three layers have one.
    """

    def __init__(
        self, width: int, hidden: int, *, activation: Literal["silu", "gelu", "gelu-tanh"] = "silu", bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return self.down_proj(_ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x))

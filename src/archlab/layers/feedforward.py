"""Position-wise feed-forward layers, plain and gated.

Shape legend: W width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.layers.shared_input import SharedInput


def _quick_gelu(x: Tensor) -> Tensor:
    return x * (1.702 * x).sigmoid()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-quick": _quick_gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    """Two linear layers around an activation ("Attention is all you need", section 3.3; exact GELU as in ViT).

    Args:
        width: W.
        hidden: F.
        activation: "gelu" is the exact one, "gelu-tanh" and "gelu-quick" its approximations by tanh and by sigmoid
            (arXiv 1606.08415, section 2) as in GPT-2 and CLIP.
        bias: whether both layers have one.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Literal["gelu", "gelu-tanh", "gelu-quick", "relu", "silu"] = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return self.down_proj(_ACTIVATIONS[self.activation](self.up_proj(x)))


class GatedMLP(SharedInput):
    """down(activation(gate(x)) * up(x)): SwiGLU with "silu", GeGLU with a GELU (arXiv 2002.05202, section 2).

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
        gate, up = self.project(x)
        return self.down_proj(_ACTIVATIONS[self.activation](gate) * up)

    def projections(self) -> tuple[nn.Linear, ...]:
        """See `SharedInput`."""
        return self.gate_proj, self.up_proj

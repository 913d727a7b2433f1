"""Root-mean-square normalisation; layer normalisation is PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (arXiv 1910.07467, equation 4).

    The statistics are computed in float32 and the result has the type of the input, as in `torch.nn.RMSNorm`.

    Args:
        width: size of the last axis.
        eps: added to the mean square.
        unit_offset: multiply by 1 + weight instead (Gemma), so that a weight of zero, where it starts, changes nothing.
    """

    def __init__(self, width: int, *, eps: float = 1e-6, unit_offset: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.unit_offset = unit_offset
        self.weight = nn.Parameter(torch.zeros(width) if unit_offset else torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        wide = x.float()  # itself where it is float32 already
        # The squared norm and not the mean of squares: no squared copy of x is written, forwards or backwards.
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]
        inverse = (mean_square + self.eps).rsqrt()
        gain = 1 + self.weight.float() if self.unit_offset else self.weight
        return (wide * inverse * gain).to(x.dtype)

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
    """

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        wide = x.float()  # itself where it is float32 already
        # The squared norm and not the mean of squares: no squared copy of x is written, forwards or backwards.
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]
        inverse = (mean_square + self.eps).rsqrt()
        return (wide * inverse * self.weight).to(x.dtype)

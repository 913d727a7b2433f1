"""Regularisers that keep embeddings from collapsing to a point or a line.

Shape legend: n samples, K dimensions, M random directions, T knots.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_KNOTS, _LARGEST_FREQUENCY = 17, 3.0


def sigreg(embeddings: Tensor, directions: int = 256) -> Tensor:
    """Sketched isotropic Gaussian regularisation (LeJEPA, arXiv 2511.08544, section 4).

    Along random directions, the Epps-Pulley statistic measures how far the samples are from a standard normal: the
    squared distance between their characteristic function and the normal one, weighted by the latter, integrated over
    -3 to 3 (17 knots from 0 on: the integrand is even) and multiplied by n.

    Args:
        embeddings: (n, K).
        directions: M; drawn anew at each call, from the global random state.

    Returns:
        Mean statistic, a scalar; about 1.05 for standard normal samples, whatever n is.
    """
    count, width = embeddings.shape
    unit = F.normalize(torch.randn(width, directions, device=embeddings.device), dim=0)
    knots = torch.linspace(0, _LARGEST_FREQUENCY, _KNOTS, device=embeddings.device)
    normal = torch.exp(-knots.square() / 2)  # characteristic function of a standard normal, (T,)
    phases = (embeddings.float() @ unit)[:, :, None] * knots  # (n, M, T)
    distance = (phases.cos().mean(0) - normal).square() + phases.sin().mean(0).square()  # (M, T)
    return 2 * count * torch.trapezoid(distance * normal, knots).mean()

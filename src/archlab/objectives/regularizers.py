"""Regularisers that keep embeddings from collapsing to a point or a line.

Shape legend: n samples, K dimensions, M random directions, T knots.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.objectives.global_batch import mean, place, same

DIRECTIONS = 256
"""Random directions along which SIGReg looks, by default."""

_KNOTS, _LARGEST_FREQUENCY = 17, 3.0


def sigreg(embeddings: Tensor, directions: int = DIRECTIONS) -> Tensor:
    """Sketched isotropic Gaussian regularisation (LeJEPA, arXiv 2511.08544, section 4).

    Along random directions, the Epps-Pulley statistic measures how far the samples are from a standard normal: the
    squared distance between their characteristic function and the normal one, weighted by the latter, integrated over
    -3 to 3 (17 knots from 0 on: the integrand is even) and multiplied by n.

    Args:
        embeddings: (n, K).
        directions: M; drawn anew at each call, from the global random state.

    Returns:
        Mean statistic, a scalar; about 1.05 for standard normal samples, whatever n is. Where the batch is spread over
        processes, it is that of all samples, the same for every process.
    """
    count, width = place(len(embeddings))[1], embeddings.shape[1]
    unit = F.normalize(same(torch.randn(width, directions, device=embeddings.device)), dim=0)
    knots = torch.linspace(0, _LARGEST_FREQUENCY, _KNOTS, device=embeddings.device)
    normal = torch.exp(-knots.square() / 2)  # characteristic function of a standard normal, (T,)
    phases = (embeddings.float() @ unit)[:, :, None] * knots  # (n, M, T)
    distance = (mean(phases.cos()) - normal).square() + mean(phases.sin()).square()  # (M, T)
    return 2 * count * torch.trapezoid(distance * normal, knots).mean()


def variance_hinge(embeddings: Tensor, eps: float = 1e-4) -> Tensor:
    """VICReg's variance term (arXiv 2105.04906, equation 1): how far each dimension's deviation falls short of 1.

    Args:
        embeddings: (n, K), n at least 2.
        eps: added to the variance, so that the gradient of a constant dimension is finite.

    Returns:
        Mean over dimensions of max(0, 1 - sqrt(variance + eps)), a scalar.
    """
    return F.relu(1 - (embeddings.float().var(0) + eps).sqrt()).mean()


def covariance_penalty(embeddings: Tensor) -> Tensor:
    """VICReg's covariance term (arXiv 2105.04906, equations 3 and 4) of (n, K), n at least 2.

    Returns:
        Sum of the squared covariances of different dimensions, divided by K: a scalar.
    """
    count, width = embeddings.shape
    centred = embeddings.float() - embeddings.float().mean(0)
    covariance = centred.T @ centred / (count - 1)  # (K, K)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / width

"""Prediction of the target's embedding without negatives: distances, and what keeps a trained target from collapse.

The paper ablates the distances with a frozen target encoder (VL-JEPA, table 7), and mentions the regularisers only.

Differs from the paper: where it does not say whether embeddings are normalised, ours are not. Normalised, the squared
distance would be the cosine again.

Shape legend: B samples, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import EmbeddingArmConfig, SIGRegConfig, VICRegConfig
from archlab.objectives.contrastive import GivesEmbeddings, InfoNCE
from archlab.objectives.global_batch import gather, share
from archlab.objectives.output import Output
from archlab.objectives.regularizers import covariance_penalty, sigreg, variance_hinge

if TYPE_CHECKING:
    from archlab.data.batch import Batch


def cosine_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cosine over rows (B, E)."""
    return (1 - F.cosine_similarity(predicted, target, dim=-1)).mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_distance,
    "l1": F.l1_loss,
    "l2": F.mse_loss,
}
"""Name -> distance of predicted and target embeddings (B, E); "l1" and "l2" are means over rows and dimensions."""


class Distance(nn.Module):
    """A distance of `DISTANCES`. Nothing in it keeps a trained target encoder from giving all texts one embedding.

    Args:
        name: of the distance.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, model: GivesEmbeddings, batch: Batch) -> Output:
        """`loss` is the mean distance."""
        predicted, target = (embedding.float() for embedding in model.embed(batch))
        loss = share(DISTANCES[self.name](predicted, target), len(predicted))
        return Output(loss, {self.name: loss.detach()}, _watched(predicted, target))


class SIGReg(nn.Module):
    """Squared distance, and both sides as an isotropic Gaussian (LeJEPA, arXiv 2511.08544, equation 6).

    No negatives, no frozen or averaged target, and no stop of the gradient. Draws its directions from the global random
    state.
    """

    def __init__(self, config: SIGRegConfig) -> None:
        super().__init__()
        self.regularization = config.regularization

    def forward(self, model: GivesEmbeddings, batch: Batch) -> Output:
        """`parts` are the terms, unweighted."""
        predicted, target = (embedding.float() for embedding in model.embed(batch))
        invariance = share(F.mse_loss(predicted, target), len(predicted))
        with torch.autocast(predicted.device.type, enabled=False):  # phases in bfloat16 would be noise
            gaussian = (sigreg(predicted) + sigreg(target)) / 2
        loss = (1 - self.regularization) * invariance + self.regularization * gaussian
        parts = {"invariance": invariance.detach(), "gaussian": gaussian.detach()}
        return Output(loss, parts, _watched(predicted, target))


class VICReg(nn.Module):
    """Squared distance, variance and covariance (arXiv 2105.04906, equation 6), the latter two on both sides."""

    def __init__(self, config: VICRegConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: GivesEmbeddings, batch: Batch) -> Output:
        """`parts` are the terms, unweighted."""
        predicted, target = (embedding.float() for embedding in model.embed(batch))
        invariance = share(F.mse_loss(predicted, target), len(predicted))
        with torch.autocast(predicted.device.type, enabled=False):
            both = gather(predicted), gather(target)
            variance = variance_hinge(both[0]) + variance_hinge(both[1])
            covariance = covariance_penalty(both[0]) + covariance_penalty(both[1])
        own = self.config
        loss = own.invariance * invariance + own.variance * variance + own.covariance * covariance
        parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return Output(loss, {name: part.detach() for name, part in parts.items()}, _watched(predicted, target))


def build_prediction(config: EmbeddingArmConfig) -> nn.Module:
    """What prediction and target are trained by: a model that gives embeddings and a batch -> `Output`."""
    if config.objective == "info-nce":
        return InfoNCE(config.loss)
    if config.objective == "sigreg":
        return SIGReg(config.sigreg)
    if config.objective == "vicreg":
        return VICReg(config.vicreg)
    return Distance(config.objective)


def _watched(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {"predicted": predicted.detach(), "target": target.detach()}

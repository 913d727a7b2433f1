"""The objective of LeJEPA on local features (`models.lejepa`).

Shape legend: V views, B images, C channels, H x W pixels, n points, K dimensions.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from archlab.models.lejepa import LeJEPA
from archlab.objectives.global_batch import share
from archlab.objectives.output import Output
from archlab.objectives.regularizers import sigreg


class HasViews(Protocol):
    """A batch of views; see `data.views.ViewBatch`."""

    @property
    def images(self) -> Tensor: ...

    @property
    def clean(self) -> Tensor: ...

    @property
    def points(self) -> Tensor: ...

    @property
    def visible(self) -> Tensor: ...


class LocalInvariance(nn.Module):
    """Embeddings of one spot agree across views, all of them together are an isotropic Gaussian.

    Args:
        regularization: lambda of the paper's equation 6, the weight of SIGReg against the invariance.
        reconstruction: weight of the thumbnails' squared error.
    """

    def __init__(self, regularization: float, reconstruction: float) -> None:
        super().__init__()
        self.regularization, self.reconstruction = regularization, reconstruction

    def forward(self, model: LeJEPA, batch: HasViews) -> Output:
        """`parts` are the three terms, unweighted."""
        local = model(batch.images, batch.clean, batch.points)
        embeddings = local.embeddings[:, batch.visible].float()  # (V, m, K), m points that every view shows
        invariance = share((embeddings - embeddings.mean(0)).square().mean(), embeddings.shape[1])
        gaussian = sigreg(embeddings.flatten(0, 1))
        error = (local.reconstruction.float() - local.thumbnails).square().mean()
        reconstruction = share(error, len(batch.visible))
        loss = (
            (1 - self.regularization) * invariance
            + self.regularization * gaussian
            + self.reconstruction * reconstruction
        )
        parts = {"invariance": invariance, "gaussian": gaussian, "reconstruction": reconstruction}
        return Output(loss, {name: part.detach() for name, part in parts.items()})

"""The objective of the masked autoencoder (arXiv 2111.06377, section 3).

Shape legend: B samples, C channels, H x W pixels, N patches, n visible patches, P pixel values per patch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from archlab.layers.embeddings import patchify
from archlab.models.mae import MaskedAutoencoder
from archlab.objectives.global_batch import own_rows_of, share
from archlab.objectives.output import Output


class HasImages(Protocol):
    """A batch of images as the encoder sees them and clean, as it must reconstruct them; both (B, C, H, W).

    The two are the same in the paper. Noise on the input alone makes a denoising autoencoder.
    """

    @property
    def images(self) -> Tensor: ...

    @property
    def clean(self) -> Tensor: ...


class MaskedReconstruction(nn.Module):
    """Hide random patches and score the prediction of their normalised pixels.

    Args:
        mask_ratio: share of the patches that is hidden.
    """

    def __init__(self, mask_ratio: float = 0.75) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio

    def forward(self, model: MaskedAutoencoder, batch: HasImages) -> Output:
        """`loss` is the mean squared error against the clean images; draws the masks from the global random state."""
        images, config = batch.images, model.encoder.config
        visible = random_visible(len(images), config.patches, self.mask_ratio, device=images.device)
        prediction, masked = model(images, visible)
        loss = share(reconstruction_loss(prediction, patchify(batch.clean, config.patch_size), masked), len(images))
        return Output(loss, {"reconstruction": loss.detach()})


def random_visible(
    samples: int,
    patches: int,
    mask_ratio: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Indices of the visible patches: a uniformly random subset for each sample.

    Args:
        samples: B.
        patches: N.
        mask_ratio: share of hidden patches; n is N * (1 - mask_ratio), rounded down, but at least one.

    Returns:
        (B, n), ascending in each row.
    """
    count = max(1, int(patches * (1 - mask_ratio) + 1e-6))  # 1 - 0.9 is a little less than 0.1
    noise = own_rows_of(lambda rows: torch.rand(rows, patches, generator=generator, device=device), samples)
    return noise.argsort(1)[:, :count].sort(1).values


def reconstruction_loss(prediction: Tensor, patches: Tensor, masked: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean squared error on masked patches; each patch's pixels are normalised by its own mean and deviation.

    Args:
        prediction: (B, N, P).
        patches: true pixels (B, N, P).
        masked: True at the patches that count, (B, N).
        eps: added to the variance; a patch of one colour becomes zeros.
    """
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    error = (prediction.float() - (patches - mean) / (variance + eps).sqrt()).square().mean(-1)  # (B, N)
    return error[masked].mean()

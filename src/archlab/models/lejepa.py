"""LeJEPA (arXiv 2511.08544) on local features: what two views of an image show at one point must embed alike.

Shape legend: V views, B images, C channels, H x W pixels, N patches, n points, D width, K dimensions of the embedding,
P values of a patch's thumbnail.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.layers.embeddings import patchify
from archlab.models.vit import ViT, ViTConfig

_THUMBNAIL = 4  # pixels per side that are averaged before they are reconstructed


class LocalViews(NamedTuple):
    """`embeddings` (V, B, n, K) at the points, `reconstruction` and `thumbnails` (V, B, N, P) of every patch."""

    embeddings: Tensor
    reconstruction: Tensor
    thumbnails: Tensor


class LeJEPA(nn.Module):
    """A ViT with a projector that is thrown away after pretraining.

    Differs from the paper: local features are compared instead of pooled ones (as in VICRegL, arXiv 2210.01571, section
    3.1), since visual tokens are what is kept; and a linear map must recover each patch's thumbnail, because views
    whose colours differ teach a model to forget colour.

    Args:
        encoder: shape of the ViT that is kept, `self.encoder`.
        projector: width of the projector's hidden layers.
        embedding: K.
    """

    def __init__(self, encoder: ViTConfig, projector: int, embedding: int) -> None:
        super().__init__()
        width = encoder.transformer.width
        self.projector = nn.Sequential(
            nn.Linear(width, projector),
            nn.BatchNorm1d(projector),
            nn.ReLU(inplace=True),
            nn.Linear(projector, projector),
            nn.BatchNorm1d(projector),
            nn.ReLU(inplace=True),
            nn.Linear(projector, embedding),
        )
        self.thumbnail = nn.Linear(width, encoder.channels * (encoder.patch_size // _THUMBNAIL) ** 2)
        self.encoder = ViT(encoder)

    def forward(self, images: Tensor, clean: Tensor, points: Tensor) -> LocalViews:
        """Embed views at points.

        Args:
            images: views as the encoder sees them, (V, B, C, H, W).
            clean: the same without noise.
            points: (V, B, n, 2), x and y from -1 to 1 across the view's picture; the i-th point of every view of an
                image shows the same spot.
        """
        views = images.shape[:2]
        states = self.encoder(images.flatten(0, 1))  # (V * B, N, D)
        grid = states.transpose(1, 2).unflatten(2, self.encoder.config.grid)  # (V * B, D, h, w)
        # In float32: bilinear weights are too coarse in bfloat16.
        local = F.grid_sample(grid.float(), points.flatten(0, 1)[:, :, None], align_corners=False)[..., 0]
        embeddings = self.projector(local.transpose(1, 2).flatten(0, 1))  # (V * B * n, K)
        thumbnails = patchify(
            F.avg_pool2d(clean.flatten(0, 1), _THUMBNAIL), self.encoder.config.patch_size // _THUMBNAIL
        )
        return LocalViews(
            embeddings.unflatten(0, points.shape[:3]),
            self.thumbnail(states).unflatten(0, views),
            thumbnails.unflatten(0, views),
        )

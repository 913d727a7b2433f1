"""The frozen X-encoder: a pretrained ViT whose patch states are merged to a few visual tokens.

Shape legend: B images, H x W pixels, N visual tokens, D features per visual token.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config import PretrainConfig
from archlab.errors import UserError
from archlab.layers.pooling import merge_patches
from archlab.models.vit import ViT, ViTConfig
from archlab.train.checkpoint import fingerprint, load_checkpoint

PIXEL_CENTRE, PIXEL_SCALE = 127.5, 60.0  # uint8 to roughly unit variance; part of the weights' contract

_SHRINKAGE = 1e-3  # added to the variance of every direction, in units of a feature's


class WhitenedViT(ViT):
    """A ViT and a linear map behind it that whitens its states: mean 0, and as much variance in every direction.

    What a pretraining objective tells images apart by is not what questions are about: without the map a few directions
    hold nearly all variance, and a trunk learns what the others hold many times more slowly. See `whitened`.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.whitening = nn.Linear(config.transformer.width, config.transformer.width)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Whitened states of patches; arguments and result are those of `ViT`."""
        states: Tensor = self.whitening(super().forward(images, keep))
        return states


@torch.no_grad()
def whitened(vit: ViT, images: Tensor) -> WhitenedViT:
    """A copy of `vit`, in evaluation mode, whose states are whitened over the patches of `images`.

    Whitening is that of the correlations (ZCA-cor, arXiv 1512.00809): each feature stays as close to itself as it can.

    Args:
        images: training images as the encoder reads them, (B, C, H, W).
    """
    with torch.random.fork_rng(devices=[]):  # measuring must not change what is drawn next
        copy = WhitenedViT(vit.config)
    copy.load_state_dict(vit.state_dict(), strict=False)
    copy.eval()
    states = torch.cat([ViT.forward(copy, part) for part in images.split(128)]).flatten(0, 1).double()
    mean, deviation = states.mean(0), states.std(0).clamp(min=1e-6)
    values, vectors = torch.linalg.eigh(((states - mean) / deviation).T.cov())
    # Directions without variance, as the one that a LayerNorm takes away, stay small instead of becoming noise.
    weight = vectors @ torch.diag((values.clamp(min=0) + _SHRINKAGE).rsqrt()) @ vectors.T / deviation
    copy.whitening.weight.copy_(weight)
    copy.whitening.bias.copy_(-weight @ mean)
    return copy


@dataclass(frozen=True)
class FrozenEncoder:
    """A ViT that is never trained here.

    Attributes:
        vit: the model with its whitening, in evaluation mode.
        merge: neighbouring patches merged per side.
        digest: hash of the weights.
        metrics: what was measured when it was pretrained, its probes included.
    """

    vit: WhitenedViT
    merge: int
    digest: str
    metrics: dict[str, Any]

    @classmethod
    def load(cls, weights: str) -> FrozenEncoder:
        """Open the encoder shipped as `archlab/weights/<weights>`, or the one at a path.

        Raises:
            UserError: there is none, or it is damaged.
        """
        shipped = Path(str(resources.files("archlab"))) / "weights"
        folder = shipped / weights if (shipped / weights).is_dir() else Path(weights)
        if not folder.is_dir():
            names = ", ".join(sorted(path.name for path in shipped.iterdir() if path.is_dir())) or "none"
            raise UserError(f"encoder.weights={weights!r}: is neither shipped ({names}) nor a folder")
        checkpoint = load_checkpoint(folder, PretrainConfig)
        vit = WhitenedViT(vit_config(checkpoint.config))
        checkpoint.load_into(vit)
        return cls(vit.eval().requires_grad_(False), checkpoint.config.merge, checkpoint.digest(), checkpoint.metrics)

    @classmethod
    def random(cls, config: PretrainConfig) -> FrozenEncoder:
        """The same encoder with random weights: the control that a probe must clearly beat."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            vit = WhitenedViT(vit_config(config))
            nn.init.eye_(vit.whitening.weight)
            nn.init.zeros_(vit.whitening.bias)
        return cls(vit.eval().requires_grad_(False), config.merge, f"random-{fingerprint(config)}", {})

    @property
    def image_size(self) -> int:
        """H and W of the images it reads."""
        return self.vit.config.image_size

    @property
    def tokens(self) -> int:
        """N."""
        return self.vit.config.patches // self.merge**2

    @property
    def width(self) -> int:
        """D."""
        return self.vit.config.transformer.width * self.merge**2

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Visual tokens, float32 (B, N, D), of uint8 RGB images (B, H, W, 3), where the weights lie."""
        return self.features(images.to(next(self.vit.parameters()).device))

    def features(self, images: Tensor) -> Tensor:
        """`encode` as the ViT's own mode and device would have it; what is exported."""
        return merge_patches(self.vit(normalise(images)), self.vit.config.grid, self.merge)


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to what the ViT reads, float32 (B, 3, H, W)."""
    return ((images.float() - PIXEL_CENTRE) / PIXEL_SCALE).permute(0, 3, 1, 2)


def vit_config(config: PretrainConfig) -> ViTConfig:
    """Shape of the ViT that a pretraining run makes."""
    return ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        transformer=config.encoder,
        stem=config.stem,
        class_token=False,
        positions="sinusoidal",
    )

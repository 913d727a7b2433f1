"""The project's own frozen X-encoder: a pretrained ViT whose patch states are merged to a few visual tokens.

Those of others are in `vl.pretrained_encoder`; `vl.x_encoder` opens either.

Shape legend: B images or clips, T frames, f moments, H x W pixels, N visual tokens, D features per visual token.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config import PretrainConfig
from archlab.data.device import device_of
from archlab.data.example import Split
from archlab.layers.pooling import merge_patches
from archlab.models import vjepa
from archlab.models.vit import ViT, ViTConfig
from archlab.train.checkpoint import fingerprint, load_checkpoint
from archlab.vl.whitening import zca

SHIPPED = Path(str(resources.files("archlab"))) / "weights"

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

    def raw(self, images: Tensor) -> Tensor:
        """States (B, N, D) before they are whitened."""
        return super().forward(images)


class WhitenedVideoEncoder(vjepa.Encoder):
    """The encoder of a V-JEPA on clips, or on still images, which fill a tubelet each, with the same map behind it."""

    def __init__(self, config: vjepa.VJEPAConfig) -> None:
        super().__init__(config)
        self.whitening = nn.Linear(config.transformer.width, config.transformer.width)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Whitened states (B, N, D) of images (B, C, H, W) or clips (B, T, C, H, W), or of patches `keep` (B, n)."""
        states: Tensor = self.whitening(super().forward(vjepa.as_clips(images, self.config.tubelet), keep))
        return states

    def raw(self, images: Tensor) -> Tensor:
        """States (B, N, D) before they are whitened."""
        return super().forward(vjepa.as_clips(images, self.config.tubelet))


Whitened = WhitenedViT | WhitenedVideoEncoder


@torch.no_grad()
def whitened(encoder: ViT | vjepa.Encoder, images: Tensor) -> Whitened:
    """A copy of `encoder`, in evaluation mode, whose states are whitened (`vl.whitening`) over the patches of `images`.

    Args:
        images: training images as the encoder reads them, (B, C, H, W).
    """
    with torch.random.fork_rng(devices=[]):  # measuring must not change what is drawn next
        copy = _shaped(encoder.config)
    copy.load_state_dict(encoder.state_dict(), strict=False)
    device = device_of(encoder)
    copy.eval().to(device)
    states = torch.cat([copy.raw(part.to(device)).cpu() for part in images.split(128)]).flatten(0, 1).double()
    # Directions without variance, as the one that a LayerNorm takes away, stay small instead of becoming noise.
    weight, bias = zca(states, lambda variances: variances + _SHRINKAGE)
    copy.whitening.weight.copy_(weight)
    copy.whitening.bias.copy_(bias)
    return copy


@dataclass(frozen=True)
class FrozenEncoder:
    """A ViT, of images or of clips, that is never trained here.

    Attributes:
        vit: the model with its whitening, in evaluation mode.
        merge: neighbouring patches merged per side.
        digest: hash of the weights.
        metrics: what was measured when it was pretrained, its probes included.
    """

    vit: Whitened
    merge: int
    digest: str
    metrics: dict[str, Any]

    @classmethod
    def load(cls, weights: str) -> FrozenEncoder:
        """Open the encoder shipped as `archlab/weights/<weights>`, or the one at a path.

        Raises:
            UserError: there is none, or it is damaged.
        """
        folder = SHIPPED / weights if (SHIPPED / weights).is_dir() else Path(weights)
        checkpoint = load_checkpoint(folder, PretrainConfig)
        vit = _shaped(encoder_config(checkpoint.config))
        checkpoint.load_into(vit)
        return cls(vit.eval().requires_grad_(False), checkpoint.config.merge, checkpoint.digest(), checkpoint.metrics)

    @classmethod
    def random(cls, config: PretrainConfig) -> FrozenEncoder:
        """The same encoder with random weights: the control that a probe must clearly beat."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            vit = _shaped(encoder_config(config))
            nn.init.eye_(vit.whitening.weight)
            nn.init.zeros_(vit.whitening.bias)
        return cls(vit.eval().requires_grad_(False), config.merge, f"random-{fingerprint(config)}", {})

    def to(self, device: torch.device) -> FrozenEncoder:
        """The encoder, moved to a device; it reads images from anywhere, and its features stay there."""
        self.vit.to(device)
        return self

    @property
    def model(self) -> nn.Module:
        """See `vl.protocol.XEncoder`."""
        return self.vit

    @property
    def implementation(self) -> str:
        """See `vl.protocol.XEncoder`."""
        return "archlab"

    def fitted(self, train: Split, cache: Path) -> FrozenEncoder:
        """See `vl.protocol.XEncoder`; it was whitened when it was pretrained."""
        return self

    def save(self, folder: Path) -> None:
        """See `vl.protocol.XEncoder`; nothing was fitted."""

    def restored(self, folder: Path) -> FrozenEncoder:
        """See `vl.protocol.XEncoder`."""
        return self

    @property
    def image_size(self) -> int:
        """H and W of the images it reads."""
        return self.vit.config.image_size

    @property
    def clip_frames(self) -> int:
        """See `vl.protocol.XEncoder`; clips are for `vl.clip_encoder`."""
        return 0

    @property
    def tubelet(self) -> int:
        """Frames of a clip that are read at once."""
        return 1 if isinstance(self.vit, WhitenedViT) else self.vit.config.tubelet

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
        return self.features(images.to(device_of(self.vit)))

    @torch.inference_mode()
    def encode_clips(self, clips: Tensor) -> Tensor:
        """Visual tokens of every moment, float32 (B, f, N, D), of uint8 RGB clips (B, T, H, W, 3)."""
        moments = clips.shape[1] // self.tubelet
        if isinstance(self.vit, WhitenedViT):
            return self.encode(clips.flatten(0, 1)).unflatten(0, (-1, moments))
        pixels = normalise(clips.flatten(0, 1).to(device_of(self.vit))).unflatten(0, clips.shape[:2])
        states = self.vit(pixels).unflatten(1, (moments, -1)).flatten(0, 1)  # (B * f, patches, _)
        return merge_patches(states, self.vit.config.grid, self.merge).unflatten(0, (-1, moments))

    def features(self, images: Tensor) -> Tensor:
        """`encode` as the ViT's own mode and device would have it; what is exported."""
        return merge_patches(self.vit(normalise(images)), self.vit.config.grid, self.merge)


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to what the ViT reads, float32 (B, 3, H, W)."""
    return ((images.float() - PIXEL_CENTRE) / PIXEL_SCALE).permute(0, 3, 1, 2)


def encoder_config(config: PretrainConfig) -> ViTConfig | vjepa.VJEPAConfig:
    """Shape of the encoder that a pretraining run makes."""
    if config.method != "vjepa":
        return vit_config(config)
    return vjepa.VJEPAConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        tubelet=config.jepa.tubelet,
        transformer=config.encoder,
        predictor=config.jepa.predictor,
        mask_tokens=2,  # one for short-range and one for long-range masks
    )


def _shaped(config: ViTConfig | vjepa.VJEPAConfig) -> Whitened:
    return WhitenedViT(config) if isinstance(config, ViTConfig) else WhitenedVideoEncoder(config)


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

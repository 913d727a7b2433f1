"""A frozen X-encoder of clips over one of images or of video.

A model of images sees the frames one by one, a model of video (V-JEPA) the clip. Of each moment, a frame or the few
that a model of video reads at once, a square of visual tokens is kept, and each carries its time: the first cosines of
a discrete cosine transform over the moments, of unit variance as the features.

Shape legend: B clips, T frames, H x W pixels, f moments, s x s visual tokens of each, N = f * s * s, D features.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import EncoderConfig
from archlab.data.example import Split
from archlab.errors import UserError
from archlab.vl.protocol import MomentEncoder

TIME = 4
"""Features of a visual token that say when it is."""

_VERSION = 1  # of how features are made; part of every digest
_TOKENS = 4  # of a moment, where `encoder.tokens` says nothing


@dataclass(frozen=True)
class ClipEncoder:
    """See `vl.protocol.XEncoder`.

    Attributes:
        inner: the encoder that sees.
        clip_frames: T.
        side: s.
    """

    inner: MomentEncoder
    clip_frames: int
    side: int

    @classmethod
    def over(cls, inner: MomentEncoder, frames: int, tokens: int) -> ClipEncoder:
        """The encoder of clips of so many frames, with so many tokens, a square number, of each moment.

        Raises:
            UserError: the encoder inside has fewer tokens, or reads another number of frames at once.
        """
        side = math.isqrt(tokens)
        if side > math.isqrt(inner.tokens):
            raise UserError(f"encoder.tokens={tokens}: must be at most {inner.tokens}, what the encoder has of a frame")
        if frames % inner.tubelet:
            raise UserError(f"data.frames={frames}: this encoder reads {inner.tubelet} at once; give a multiple")
        return cls(inner, frames, side)

    @property
    def model(self) -> nn.Module:
        """See `vl.protocol.XEncoder`."""
        return self.inner.model

    @property
    def implementation(self) -> str:
        """See `vl.protocol.XEncoder`."""
        return self.inner.implementation

    @property
    def metrics(self) -> dict[str, Any]:
        """See `vl.protocol.XEncoder`."""
        return self.inner.metrics

    @property
    def digest(self) -> str:
        """Hash of the encoder inside and of what is made of its tokens."""
        return hashlib.sha256(f"{_VERSION} {self.inner.digest} {self.clip_frames} {self.side}".encode()).hexdigest()

    @property
    def image_size(self) -> int:
        """H and W."""
        return self.inner.image_size

    @property
    def moments(self) -> int:
        """f."""
        return self.clip_frames // self.inner.tubelet

    @property
    def tokens(self) -> int:
        """N."""
        return self.moments * self.side**2

    @property
    def width(self) -> int:
        """D."""
        return self.inner.width + TIME

    def to(self, device: torch.device) -> ClipEncoder:
        """The encoder, moved to a device."""
        return replace(self, inner=self.inner.to(device))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Visual tokens, float32 (B, N, D), of uint8 RGB clips (B, T, H, W, 3), or of images (B, H, W, 3)."""
        if images.dim() == 4:
            images = images[:, None].expand(-1, self.clip_frames, -1, -1, -1)
        states = self.inner.encode_clips(images)  # (B, f, n, D of the inner)
        grid = states.unflatten(2, (math.isqrt(states.shape[2]), -1)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        pooled = F.adaptive_avg_pool2d(grid, self.side).flatten(2).mT.unflatten(0, states.shape[:2])  # (B, f, s * s, _)
        times = self._times().to(pooled.device)[:, None].expand(*pooled.shape[:3], -1)
        return torch.cat([pooled, times], -1).flatten(1, 2)

    def fitted(self, train: Split, cache: Path) -> ClipEncoder:
        """See `vl.protocol.XEncoder`."""
        return replace(self, inner=self.inner.fitted(train, cache))

    def save(self, folder: Path) -> None:
        """See `vl.protocol.XEncoder`."""
        self.inner.save(folder)

    def restored(self, folder: Path) -> ClipEncoder:
        """See `vl.protocol.XEncoder`."""
        return replace(self, inner=self.inner.restored(folder))

    def _times(self) -> Tensor:
        """What says when a moment is, (f, TIME)."""
        middles = (torch.arange(self.moments) + 0.5) / self.moments
        return math.sqrt(2) * torch.cos(math.pi * middles[:, None] * torch.arange(1, TIME + 1))


def tokens_of(config: EncoderConfig) -> int:
    """Visual tokens of a moment.

    Raises:
        UserError: their number is no square.
    """
    tokens = config.tokens or _TOKENS
    if math.isqrt(tokens) ** 2 != tokens:
        raise UserError(f"encoder.tokens={tokens}: must be a square number, such as 1, 4, 9")
    return tokens

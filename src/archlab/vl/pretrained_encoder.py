"""Frozen X-encoders that others trained: V-JEPA 2, DINOv2, SigLIP, CLIP and ViT on our code, the rest by an adapter.

The states of patches are averaged to a few visual tokens and whitened over the training images, so that a trunk can
begin on them as it does on the project's own encoder.

Shape legend: B images or clips, H x W pixels, F frames, f x h x w patches of a clip, g x g = N visual tokens,
D features.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import EncoderConfig
from archlab.data.example import Split
from archlab.errors import UserError
from archlab.interop.adapter import load_adapted
from archlab.interop.checkpoint import load_pretrained, locate, model_type_of
from archlab.interop.preprocessing import Preprocessing
from archlab.interop.reference import digest_of
from archlab.models.registry import find_by_model_type
from archlab.models.vjepa import VJEPA
from archlab.vl.whitening import Whitening

_VERSION = 1  # of how features are made; part of every digest
_AT_ONCE = 32  # images encoded together: a large model's states of 256 would take gigabytes
_STATES = 16384  # that whitening is fitted on, at least where there are so many
_IMAGES = 512  # that they come from, at least where there are so many
_WHITENING = "whitening.safetensors"

# What the towers of images do without.
_UNUSED = {
    "clip": ("text", "text_head", "image_head", "log_scale"),
    "siglip": ("text", "text_head", "image_head", "log_scale", "bias"),
    "vjepa": ("predictor",),
}


@dataclass(frozen=True)
class PretrainedEncoder:
    """A checkpoint's vision model; see `vl.protocol.XEncoder`.

    Attributes:
        model: with `patch_states`, in evaluation mode.
        implementation: "archlab", or "transformers" where the family is not one of ours.
        preprocessing: the checkpoint's own.
        frames: how often an image is repeated to a clip; 1 for models of images.
        grid: h and w.
        side: g.
        width: D.
        source: digest of the checkpoint and of how it is read.
        whitening: None before `fitted`.
        metrics: empty.
    """

    model: nn.Module
    implementation: str
    preprocessing: Preprocessing
    frames: int
    grid: tuple[int, int]
    side: int
    width: int
    source: str
    whitening: Whitening | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, config: EncoderConfig) -> PretrainedEncoder:
        """Open the checkpoint that `config.weights` names.

        Raises:
            UserError: there is none, it is damaged, it does not see, or `config` asks for other tokens or frames than
                it can give.
        """
        folder = locate(config.weights)
        try:
            preprocessing = Preprocessing.read(folder)
            model, implementation = _vision_model(folder)
        except UserError as error:
            prefix = f"encoder.weights={config.weights!r}: "
            raise UserError(f"{prefix}{str(error).removeprefix(f'checkpoint {folder}: ')}") from None
        frames = frames_of(model, config)
        probe = torch.zeros(1, preprocessing.size, preprocessing.size, 3, dtype=torch.uint8)
        with torch.inference_mode():
            states = _states(model, preprocessing(probe), frames)  # (1, f, P, D)
        grid = (math.isqrt(states.shape[2]),) * 2  # images are squares
        side = side_of(config, grid[0])
        read = f"{_VERSION} {digest_of(folder)} {preprocessing} {frames} {side}"
        return cls(
            model,
            implementation,
            preprocessing,
            frames,
            grid,
            side,
            states.shape[3],
            hashlib.sha256(read.encode()).hexdigest(),
        )

    def to(self, device: torch.device) -> PretrainedEncoder:
        """The encoder, moved to a device; it reads images from anywhere, and its tokens are on the CPU."""
        self.model.to(device)
        return self

    @property
    def image_size(self) -> int:
        """H and W of the images it reads."""
        return self.preprocessing.size

    @property
    def clip_frames(self) -> int:
        """See `vl.protocol.XEncoder`; clips are for `vl.clip_encoder`."""
        return 0

    @property
    def tubelet(self) -> int:
        """Frames of a clip that are read at once."""
        return self.model.config.tubelet if isinstance(self.model, VJEPA) else 1

    @property
    def tokens(self) -> int:
        """N."""
        return self.side**2

    @property
    def digest(self) -> str:
        """Hash of the checkpoint, of how it is read, and of the images that whitening was fitted on."""
        if self.whitening is None:
            return self.source
        return hashlib.sha256(f"{self.source} {self.whitening.fitted_on}".encode()).hexdigest()

    def encode(self, images: Tensor) -> Tensor:
        """Visual tokens, float32 (B, N, D), of uint8 RGB images (B, H, W, 3)."""
        return self._white(self._pooled(images))

    def encode_clips(self, clips: Tensor) -> Tensor:
        """Visual tokens of every moment, float32 (B, f, N, D), of uint8 RGB clips (B, F, H, W, 3).

        A model of images sees each frame alone.
        """
        return self._white(self._pooled_clips(clips))

    def fitted(self, train: Split, cache: Path) -> PretrainedEncoder:
        """Whitened over images of the training split, evenly spread; fitted once per set of images and encoder."""
        name = hashlib.sha256(f"{self.source} {train.image_digest}".encode()).hexdigest()
        path = cache / f"whitening-{name[:32]}.safetensors"
        if not path.exists():
            Whitening.fit(self._sample(train), train.image_digest).save(path)
        return replace(self, whitening=Whitening.load(path))

    def save(self, folder: Path) -> None:
        """See `vl.protocol.XEncoder`."""
        if self.whitening is not None:
            self.whitening.save(folder / _WHITENING)

    def restored(self, folder: Path) -> PretrainedEncoder:
        """See `vl.protocol.XEncoder`."""
        return replace(self, whitening=Whitening.load(folder / _WHITENING))

    @torch.inference_mode()
    def _pooled(self, images: Tensor) -> Tensor:
        """Visual tokens before whitening, (B, N, D), on the CPU."""
        device = next(self.model.parameters()).device
        parts = []
        for some in images.split(_AT_ONCE):
            states = _states(self.model, self.preprocessing(some).to(device), self.frames)  # (B, f, h * w, D)
            parts.append(self._averaged(states.mean(1)))
        return torch.cat(parts)

    @torch.inference_mode()
    def _pooled_clips(self, clips: Tensor) -> Tensor:
        """Visual tokens before whitening, (B, f, N, D), on the CPU."""
        moments = clips.shape[1] // self.tubelet
        if not isinstance(self.model, VJEPA):
            return self._pooled(clips.flatten(0, 1)).unflatten(0, (-1, moments))
        device = next(self.model.parameters()).device
        parts = []
        for some in clips.split(max(1, _AT_ONCE // moments)):
            pixels = self.preprocessing(some.flatten(0, 1)).unflatten(0, some.shape[:2]).to(device)
            states = self.model.patch_states(pixels).float().unflatten(1, (moments, -1))  # (B, f, h * w, D)
            parts.append(self._averaged(states.flatten(0, 1)).unflatten(0, (-1, moments)))
        return torch.cat(parts)

    def _averaged(self, states: Tensor) -> Tensor:
        """States of patches (B, h * w, D) to visual tokens (B, N, D), on the CPU."""
        grid = states.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B, D, h, w)
        return F.adaptive_avg_pool2d(grid, self.side).flatten(2).mT.cpu()

    def _white(self, tokens: Tensor) -> Tensor:
        return tokens if self.whitening is None else self.whitening(tokens)

    def _sample(self, train: Split) -> Tensor:
        """Visual tokens (M, D) of training images or clips."""
        count = len(train.images)
        wanted = min(count, max(_IMAGES, math.ceil(_STATES / self.tokens)))
        rows = torch.linspace(0, count - 1, wanted).round().long().tolist()
        parts = []
        for start in range(0, wanted, _AT_ONCE):
            some = torch.cat([torch.tensor(train.images[row : row + 1]) for row in rows[start : start + _AT_ONCE]])
            parts.append(self._pooled(some) if some.dim() == 4 else self._pooled_clips(some).flatten(1, 2))
        states = torch.cat(parts).flatten(0, 1)
        return states[:: max(1, len(states) // _STATES)]


class Adapted(nn.Module):
    """A vision model of `transformers` that has no counterpart here.

    The tokens before those of the patches (class token, registers) are left out: of a sequence the last square number
    of states belongs to patches. Models whose states are maps, as convolutional ones, give one state per place.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.adapted = model

    def patch_states(self, images: Tensor) -> Tensor:
        """See `models.protocols.VisionEncoder`."""
        states: Tensor = self.adapted(pixel_values=images).last_hidden_state
        if states.dim() == 4:  # (B, D, h, w)
            return states.flatten(2).mT
        return states[:, states.shape[1] - math.isqrt(states.shape[1]) ** 2 :]  # (B, N, D)


def _vision_model(folder: Path) -> tuple[nn.Module, str]:
    """The part of a checkpoint that sees, frozen, and whose code it is."""
    try:
        family = find_by_model_type(model_type_of(folder))
    except UserError:
        return Adapted(load_adapted(folder, "pixel_values")).requires_grad_(False), "transformers"
    if not hasattr(family.model_class, "patch_states"):
        raise UserError(f"a {family.name} is no vision model; give one")
    return only_what_sees(load_pretrained(folder), family.name).requires_grad_(False), "archlab"


def only_what_sees(model: nn.Module, family: str) -> nn.Module:
    """The model of this family without the parts that `patch_states` does not use."""
    for name in _UNUSED.get(family, ()):
        delattr(model, name)
    return model


def frames_of(model: nn.Module, config: EncoderConfig) -> int:
    """How often the model sees an image; once where it reads images.

    Raises:
        UserError: it cannot see it as often as `config` asks.
    """
    if not isinstance(model, VJEPA):
        if config.frames:
            raise UserError(f"encoder.frames={config.frames}: is for models of video; leave it at 0")
        return 1
    least = model.config.tubelet
    if config.frames % least:
        raise UserError(f"encoder.frames={config.frames}: this model reads {least} at once; give a multiple")
    return config.frames or least


def side_of(config: EncoderConfig, patches: int) -> int:
    """g, of so many patches per side.

    Raises:
        UserError: `config` asks for a number of tokens that is no square, or for more than there are patches.
    """
    if not config.tokens:
        return patches
    side = math.isqrt(config.tokens)
    if side**2 != config.tokens or side > patches:
        allowed = ", ".join(str(n**2) for n in (1, 2, 3, 4, 6, 8, 12, 16) if n <= patches)
        raise UserError(
            f"encoder.tokens={config.tokens}: must be a square number of at most {patches**2}, such as {allowed}"
        )
    return side


def _states(model: Any, pixels: Tensor, frames: int) -> Tensor:
    """States (B, f, h * w, D) of images (B, C, H, W), which a model of video sees as a still clip."""
    states = model.patch_states(as_clips(pixels, frames)).float()
    return states.unflatten(1, (1 if frames == 1 else frames // model.config.tubelet, -1))


def as_clips(pixels: Tensor, frames: int) -> Tensor:
    """Images (B, C, H, W) as a model of video sees them, still clips (B, F, C, H, W); unchanged for one of images."""
    return pixels if frames == 1 else pixels[:, None].expand(-1, frames, -1, -1, -1)

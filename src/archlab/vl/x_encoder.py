"""The frozen X-encoder of a run, whoever trained it: what all of them offer, and how one is opened.

Shape legend: B images or clips, T frames, H x W pixels, N visual tokens, D features per visual token.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from archlab.config import EncoderConfig
from archlab.data.example import Split
from archlab.errors import UserError
from archlab.vl.clip_encoder import ClipEncoder, tokens_of
from archlab.vl.encoder import SHIPPED, FrozenEncoder

if TYPE_CHECKING:
    from archlab.vl.pretrained_encoder import PretrainedEncoder

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class XEncoder(Protocol):
    """A vision encoder that is never trained here.

    Attributes:
        model: all of it, for its parameters to be counted.
        implementation: "archlab", or "transformers" where the family is not one of ours.
        digest: hash of all that its features depend on.
        metrics: what was measured when it was pretrained, where that was here.
        image_size: H and W of the images it reads.
        clip_frames: T of the clips that it reads; 0 if it reads images.
        tokens: N.
        width: D.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def implementation(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def metrics(self) -> dict[str, Any]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def clip_frames(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def width(self) -> int: ...

    def to(self, device: torch.device) -> Self:
        """The encoder, moved to a device."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Visual tokens, float32 (B, N, D) of about unit variance, of uint8 RGB images (B, H, W, 3).

        One that reads clips (B, T, H, W, 3) also takes images, each of which fills a clip.
        """
        ...

    def fitted(self, train: Split, cache: Path) -> Self:
        """The same with what has to be fitted on training images, or was before: see `cache`."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was fitted into the folder of a run."""
        ...

    def restored(self, folder: Path) -> Self:
        """The same with what `save` wrote there.

        Raises:
            UserError: it is missing or damaged.
        """
        ...


def open_encoder(config: EncoderConfig, frames: int = 0) -> XEncoder:
    """The encoder that `encoder.weights` names: a shipped one, the folder of a pretraining run, or a checkpoint in the
    format of `transformers`, by folder, hub id or `package:NAME/PATH`.

    Args:
        frames: T, where it is to read clips; 0: images.

    Raises:
        UserError: there is none of that name, it is damaged or cannot be read, or it cannot read so many frames.
    """
    if not frames:
        return _of_images(config)
    if config.frames:
        raise UserError(f"encoder.frames={config.frames}: is for still images; leave it at 0 with data.frames={frames}")
    tokens = tokens_of(config)
    # A checkpoint is whitened after its patches are averaged: it does that itself.
    inner = _of_images(replace(config, tokens=tokens if _is_checkpoint(config) else 0))
    return ClipEncoder.over(inner, frames, tokens)


def _is_checkpoint(config: EncoderConfig) -> bool:
    """Whether a checkpoint of `transformers` is named."""
    folder = _folder(config)
    return (folder / "config.json").exists() or (not folder.is_dir() and is_reference(config.weights))


def _folder(config: EncoderConfig) -> Path:
    return SHIPPED / config.weights if (SHIPPED / config.weights).is_dir() else Path(config.weights).expanduser()


def _of_images(config: EncoderConfig) -> FrozenEncoder | PretrainedEncoder:
    if _is_checkpoint(config):
        from archlab.vl.pretrained_encoder import PretrainedEncoder  # imports transformers, which takes seconds

        return PretrainedEncoder.load(config)
    if not _folder(config).is_dir():
        names = ", ".join(sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())) or "none"
        raise UserError(
            f"encoder.weights={config.weights!r}: is neither shipped ({names}) nor a folder nor a hub id (OWNER/NAME)"
        )
    for name in ("tokens", "frames"):
        if getattr(config, name):
            raise UserError(
                f"encoder.{name}={getattr(config, name)}: is for checkpoints of transformers; leave it at 0 for "
                f"encoder.weights={config.weights!r}"
            )
    return FrozenEncoder.load(config.weights)


def is_reference(source: str) -> bool:
    """Whether a text can be a hub id or a folder of a Python package, as `interop.checkpoint.locate` reads them."""
    return source.startswith("package:") or (_HUB_ID.fullmatch(source) is not None and not source.startswith("."))

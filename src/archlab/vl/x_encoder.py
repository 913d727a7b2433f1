"""The frozen X-encoder of a run, whoever trained it: how one is opened."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from archlab.config import EncoderConfig
from archlab.errors import UserError
from archlab.vl.clip_encoder import ClipEncoder, tokens_of
from archlab.vl.encoder import SHIPPED, FrozenEncoder
from archlab.vl.protocol import XEncoder

if TYPE_CHECKING:
    from archlab.vl.pretrained_encoder import PretrainedEncoder

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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

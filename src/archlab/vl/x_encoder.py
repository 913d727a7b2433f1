"""The frozen X-encoder of a run, whoever trained it: what all of them offer, and how one is opened.

Shape legend: B images, H x W pixels, N visual tokens, D features per visual token.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from archlab.config import EncoderConfig
from archlab.data.example import Split
from archlab.errors import UserError
from archlab.vl.encoder import SHIPPED, FrozenEncoder

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class XEncoder(Protocol):
    """A vision encoder that is never trained here.

    Attributes:
        model: all of it, for its parameters to be counted.
        implementation: "archlab", or "transformers" where the family is not one of ours.
        digest: hash of all that its features depend on.
        metrics: what was measured when it was pretrained, where that was here.
        image_size: H and W of the images it reads.
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
    def tokens(self) -> int: ...
    @property
    def width(self) -> int: ...

    def to(self, device: torch.device) -> Self:
        """The encoder, moved to a device."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Visual tokens, float32 (B, N, D) of about unit variance, of uint8 RGB images (B, H, W, 3)."""
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


def open_encoder(config: EncoderConfig) -> XEncoder:
    """The encoder that `encoder.weights` names: a shipped one, the folder of a pretraining run, or a checkpoint in the
    format of `transformers`, by folder, hub id or `package:NAME/PATH`.

    Raises:
        UserError: there is none of that name, or it is damaged or cannot be read.
    """
    folder = SHIPPED / config.weights if (SHIPPED / config.weights).is_dir() else Path(config.weights).expanduser()
    if (folder / "config.json").exists() or (not folder.is_dir() and is_reference(config.weights)):
        from archlab.vl.pretrained_encoder import PretrainedEncoder  # imports transformers, which takes seconds

        return PretrainedEncoder.load(config)
    if not folder.is_dir():
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

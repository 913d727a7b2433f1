"""What a frozen vision encoder offers, whoever trained it.

Shape legend: B images or clips, T frames, H x W pixels, f moments, n visual tokens of a moment, N visual tokens,
D features per visual token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from archlab.data.example import Split


class FrozenModel(Protocol):
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


class XEncoder(FrozenModel, Protocol):
    """The X-encoder of a run.

    Attributes:
        clip_frames: T of the clips that it reads; 0 if it reads images.
    """

    @property
    def clip_frames(self) -> int: ...

    def encode(self, images: Tensor) -> Tensor:
        """Visual tokens, float32 (B, N, D) of about unit variance, of uint8 RGB images (B, H, W, 3).

        One that reads clips (B, T, H, W, 3) also takes images, each of which fills a clip.
        """
        ...


class MomentEncoder(FrozenModel, Protocol):
    """An encoder of the moments of a clip; `vl.clip_encoder.ClipEncoder` makes an X-encoder of it.

    Attributes:
        tubelet: frames that it reads at once, a moment; 1 for a model of images.
    """

    @property
    def tubelet(self) -> int: ...

    def encode_clips(self, clips: Tensor) -> Tensor:
        """Visual tokens of every moment, float32 (B, f, n, D), of uint8 RGB clips (B, T, H, W, 3)."""
        ...

"""A pretrained vision encoder as an engine: it embeds images, and knows no words.

Shape legend: B images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archlab.config import PretrainConfig
from archlab.evaluate.vectors import unit
from archlab.serve.engine import About, Operation
from archlab.train.checkpoint import load_checkpoint
from archlab.vl.encoder import FrozenEncoder


class EncoderEngine:
    """A run of the recipe `pretrain`; see `serve.engine.Engine`.

    Args:
        folder: of the run.
        device: where it computes, as PyTorch names it.

    Raises:
        UserError: the run cannot be read.
    """

    def __init__(self, folder: Path, device: str) -> None:
        encoder = FrozenEncoder.load(str(folder.resolve()))
        self._encoder = encoder.to(torch.device(device))
        self.about = About(
            arm="encoder",
            card=load_checkpoint(folder, PretrainConfig).card(),
            digest=encoder.digest,
            backend="torch",
            image_size=encoder.image_size,
            width=encoder.width,
        )
        self.operations: Mapping[Operation, Callable[..., Iterable[Any]]] = {"embed_images": self.embed_images}

    def probe(self) -> None:
        """See `Engine`."""
        side = self.about.image_size
        if not np.isfinite(self.embed_images([np.zeros((side, side, 3), np.uint8)], [""])).all():
            raise FloatingPointError("the embedding of a black image is not finite")

    def embed_images(self, images: Sequence[np.ndarray], queries: Sequence[str]) -> np.ndarray:
        """Vectors (B, D) of unit length: the mean of the visual tokens, whatever the query."""
        return unit(self._encoder.encode(torch.from_numpy(np.stack(images))).mean(1).cpu().numpy())

"""Asking a trained run about pictures: the arm with its frozen encoder, tokenizer and read-out, opened as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout, TokenReadout, speaking_readout
from archlab.train.checkpoint import load_checkpoint
from archlab.vl.arms import EmbeddingArm, SupervisedArm, build_arm
from archlab.vl.protocol import XEncoder
from archlab.vl.x_encoder import open_encoder


@dataclass(frozen=True)
class Answerer:
    """A run that can be asked.

    Attributes:
        config: what it was trained with.
        encoder: the frozen encoder that it reads images through.
        tokenizer: its own.
        readout: chooses among candidates, speaks, and embeds; asked with the batches of `request`.
        scale: learned inverse temperature, which turns VL-JEPA's cosines into probabilities; None: the token arm has
            log-probabilities.
    """

    config: RunConfig
    encoder: XEncoder
    tokenizer: TextTokenizer
    readout: TokenReadout | EmbeddingReadout
    scale: float | None = None

    @classmethod
    def open(cls, run: Path, device: str = "cpu") -> Answerer:
        """Load a finished run and its encoder; no data are needed.

        Args:
            device: where it computes, as PyTorch names it.

        Raises:
            UserError: the run or its encoder cannot be read, the encoder is not the run's, or its arm does not speak.
        """
        checkpoint = load_checkpoint(run, RunConfig)
        config, tokenizer = checkpoint.config, checkpoint.tokenizer
        if config.arm == "supervised" or tokenizer is None:
            raise UserError(
                f"run {run}: the {config.arm} arm does not speak; give a run of the token or the vljepa arm"
            )
        encoder = open_encoder(config.encoder, config.data.frames).restored(run)
        if encoder.digest != checkpoint.metrics.get("encoder_digest"):
            raise UserError(
                f"run {run}: its features came from other weights than encoder.weights={config.encoder.weights!r} has "
                f"now; restore those, or train the run again"
            )
        arm = build_arm(config, encoder.width, tokenizer.vocab_size, 0, tokenizer)
        assert not isinstance(arm, SupervisedArm)
        checkpoint.load_into(arm)
        arm.to(device)
        encoder.to(torch.device(device))
        scale = None
        if isinstance(arm, EmbeddingArm):  # losses without a temperature have learned none
            scale = checkpoint.metrics.get("scale", 1 / config.vljepa.loss.temperature)
        readout = speaking_readout(arm, tokenizer, config.tokenizer.max_target)
        return cls(config, encoder, tokenizer, readout, scale)

    @property
    def arm(self) -> Literal["token", "vljepa"]:
        """Which of the two it answers as; a hybrid is a VL-JEPA."""
        return "vljepa" if isinstance(self.readout, EmbeddingReadout) else "token"

    def request(self, images: np.ndarray, queries: Sequence[str]) -> Batch:
        """What the read-out is asked with: uint8 RGB images or clips as the encoder reads them, and B queries."""
        return make_request(self.encoder, self.tokenizer, self.config.tokenizer.max_query, images, queries)


def make_request(
    encoder: XEncoder, tokenizer: TextTokenizer, max_query: int, images: np.ndarray, queries: Sequence[str]
) -> Batch:
    """Encode images (B, H, W, 3) or clips (B, T, H, W, 3), and B queries of at most `max_query` tokens; no target."""
    query, query_mask = tokenizer.encode(queries, max_query)
    features = encoder.encode(torch.tensor(images))  # a copy: decoded images may be read-only
    ids, mask = (torch.from_numpy(array).to(features.device) for array in (query, query_mask))
    return Batch.without_target(features, ids, mask)

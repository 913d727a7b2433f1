"""`archlab generate RUN --image FILE [QUESTION]`: one answer about one picture."""

from __future__ import annotations

from pathlib import Path

import torch

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.data.images import decode
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout, TokenReadout
from archlab.train.checkpoint import load_checkpoint
from archlab.vl.arms import EmbeddingArm, TokenArm, build_arm
from archlab.vl.encoder import FrozenEncoder


def generate(run: Path, image: Path, question: str | None) -> None:
    """Print what the run says about an image: the answer to a question, or a caption without one.

    Raises:
        UserError: the run or the image cannot be read, or the run's arm does not speak.
    """
    checkpoint = load_checkpoint(run, RunConfig)
    config = checkpoint.config
    if config.arm == "supervised" or checkpoint.tokenizer is None:
        raise UserError(f"run {run}: the {config.arm} arm does not speak; give a run of the token or the vljepa arm")
    encoder = FrozenEncoder.load(config.encoder.weights)
    arm = build_arm(config, encoder.width, checkpoint.tokenizer.vocab_size, 0)
    checkpoint.load_into(arm)
    pixels = decode(image, encoder.image_size, max_pixels=config.data.pairs.max_pixels, name=str(image))
    asked = question or config.data.pairs.query
    query, query_mask = checkpoint.tokenizer.encode([asked], config.tokenizer.max_query)
    features = encoder.encode(torch.tensor(pixels)[None])
    batch = Batch.without_target(features, torch.from_numpy(query), torch.from_numpy(query_mask))
    assert isinstance(arm, TokenArm | EmbeddingArm)
    kind = TokenReadout if isinstance(arm, TokenArm) else EmbeddingReadout
    readout = kind(arm, checkpoint.tokenizer, config.tokenizer.max_target)  # type: ignore[arg-type]
    print(readout.speak(batch)[0])

"""What an answer costs: latency, throughput and memory of both arms, from the decoded image to the answer.

All functions are timed in turns within one run, so that their ratios hold while the machine's speed drifts. The frozen
encoder is part of every request and is also timed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archlab.compare.flops import BatchShape, Sizes
from archlab.compare.latency import Request, measure_latency
from archlab.compare.memory import peak_memory_of
from archlab.config import CompareConfig, RunConfig
from archlab.data.batch import Batch
from archlab.evaluate.measure import Items
from archlab.evaluate.readout import EmbeddingReadout, Readout, SupervisedReadout
from archlab.train.run import Run, build_objective, readout_of
from archlab.train.setup import Setup
from archlab.vl.arms import build_arm
from archlab.vl.encoder import FrozenEncoder

_MEMORY_STEPS = 3  # by the second step the optimiser's state exists
ENCODER = "x_encoder"


def measure_inference(runs: Sequence[Run], setup: Setup, config: CompareConfig) -> dict[str, Any]:
    """Time every way to ask each arm.

    - "choose": the best of the candidate answers to a question; VL-JEPA has embedded the candidates before, as a
      server would.
    - "caption": free text. VL-JEPA predicts once and its decoder speaks.
    - "embed": a vector for retrieval, no text.

    Returns:
        "inference": arm -> mode -> batch size -> latency, throughput and memory; the shared encoder is an arm of its
        own. "tokens_per_second": arm -> generated tokens per second at the largest batch. "embeddings_per_second":
        likewise.
    """
    requests: dict[str, Callable[[int], Request]] = {}
    lengths: dict[str, float] = {}
    for run in runs:
        readout = readout_of(run.arm, setup)
        assert not isinstance(readout, SupervisedReadout)
        for mode, prepare in _modes(readout, setup).items():
            requests[f"{run.config.arm}/{mode}"] = prepare
        if "caption" in _modes(readout, setup):
            lengths[run.config.arm] = _spoken_tokens(readout, setup)
    requests[f"{ENCODER}/encode"] = lambda size: _encode(setup, size)
    timed = measure_latency(requests, config.latency_batches, count=config.latency_requests)

    inference: dict[str, dict[str, Any]] = {}
    for name, batches in timed.items():
        arm, mode = name.split("/")
        inference.setdefault(arm, {})[mode] = batches
    largest = str(max(config.latency_batches))
    for run in runs:
        memory = {
            size: peak_memory_of(answer_once, str(run.folder.resolve()), size)["peak_memory_mib"]
            for size in config.latency_batches
        }
        for mode in inference[run.config.arm].values():
            for size, row in mode.items():
                row["memory_mib"] = memory[int(size)]
    return {
        "inference": inference,
        "tokens_per_second": {
            arm: length * inference[arm]["caption"][largest]["throughput_per_s"] for arm, length in lengths.items()
        },
        "embeddings_per_second": {
            run.config.arm: inference[run.config.arm]["embed"][largest]["throughput_per_s"] for run in runs
        },
        "decode_steps": lengths,
    }


def answer_once(folder: str, size: int) -> None:
    """Load a run and answer one batch of random images in every mode: what a serving process holds in memory."""
    from archlab.evaluate.readout import TokenReadout
    from archlab.train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(Path(folder), RunConfig)
    assert checkpoint.tokenizer is not None
    encoder = FrozenEncoder.load(checkpoint.config.encoder.weights)
    arm = build_arm(checkpoint.config, encoder.width, checkpoint.tokenizer.vocab_size, 0)
    checkpoint.load_into(arm)
    kind = EmbeddingReadout if checkpoint.config.arm == "vljepa" else TokenReadout
    readout = kind(arm, checkpoint.tokenizer, checkpoint.config.tokenizer.max_target)  # type: ignore[arg-type]
    images = np.random.default_rng(0).integers(0, 256, (size, encoder.image_size, encoder.image_size, 3), np.uint8)
    query, query_mask = checkpoint.tokenizer.encode(["what is this"] * size, checkpoint.config.tokenizer.max_query)
    batch = _batch(encoder, images, torch.from_numpy(query), torch.from_numpy(query_mask))
    readout.choose(batch, ["yes", "no"])
    readout.speak(batch)


def training_memory(plan: RunConfig, sizes: Sizes, shape: BatchShape) -> dict[str, Any]:
    """Peak memory of a few training steps of an arm on its largest batch, in a process of its own."""
    return peak_memory_of(_train_steps, plan, sizes, shape)


def _train_steps(plan: RunConfig, sizes: Sizes, shape: BatchShape) -> None:
    arm, objective = build_arm(plan, sizes.feature_width, sizes.vocab_size, sizes.meanings), build_objective(plan)
    optimizer = torch.optim.AdamW([*arm.parameters(), *objective.parameters()], fused=True)
    batch = Batch(
        features=torch.randn(shape.samples, shape.visual, sizes.feature_width),
        query=torch.zeros(shape.samples, shape.query, dtype=torch.long),
        query_mask=torch.ones(shape.samples, shape.query, dtype=torch.bool),
        target=torch.zeros(shape.samples, shape.target, dtype=torch.long),
        target_mask=torch.ones(shape.samples, shape.target, dtype=torch.bool),
        meaning=torch.arange(shape.samples),
        text=torch.arange(shape.samples),
        ids=[],
    )
    for _ in range(_MEMORY_STEPS):
        objective(arm, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _modes(readout: Readout, setup: Setup) -> dict[str, Callable[[int], Request]]:
    split = setup.dataset["test"]
    items = Items.first(split, len(split.examples))
    modes: dict[str, Callable[[int], Request]] = {}
    if len(items.vqa):
        kind = split.examples[items.vqa[0]].kind
        rows = np.array([row for row in items.vqa if split.examples[row].kind == kind])
        candidates = split.candidates[kind]

        def choose(size: int) -> Request:
            if isinstance(readout, EmbeddingReadout):
                cached = readout.text_vectors(candidates).T
                return lambda: (readout.image_vectors(_fresh(setup, rows, size)) @ cached).argmax(1)
            return lambda: readout.choose(_fresh(setup, rows, size), candidates)["sum"].argmax(1)

        modes["choose"] = choose
    if len(items.captions):
        modes["caption"] = lambda size: lambda: readout.speak(_fresh(setup, items.captions, size))
    rows_any = items.captions if len(items.captions) else items.vqa
    modes["embed"] = lambda size: lambda: readout.image_vectors(_fresh(setup, rows_any, size))
    return modes


def _fresh(setup: Setup, rows: np.ndarray, size: int) -> Batch:
    """A request: the first `size` examples, their images encoded now instead of read from the cache."""
    split = setup.dataset["test"]
    examples = [split.examples[row] for row in np.resize(rows, size)]
    images = np.concatenate([split.images[one.image : one.image + 1] for one in examples])
    query, query_mask = setup.tokenizer.encode([one.queries[0] for one in examples], setup.config.tokenizer.max_query)
    return _batch(setup.encoder, images, torch.from_numpy(query), torch.from_numpy(query_mask))


def _batch(encoder: FrozenEncoder, images: np.ndarray, query: torch.Tensor, query_mask: torch.Tensor) -> Batch:
    return Batch.without_target(encoder.encode(torch.from_numpy(images)), query, query_mask)


def _encode(setup: Setup, size: int) -> Request:
    images = torch.from_numpy(
        np.resize(setup.dataset["test"].images[:1], (size, *setup.dataset["test"].images[:1].shape[1:]))
    )
    return lambda: setup.encoder.encode(images)


def _spoken_tokens(readout: Readout, setup: Setup) -> float:
    """Mean length of the captions an arm speaks, in tokens with [EOS]: its decode steps."""
    split = setup.dataset["test"]
    rows = Items.first(split, 64).captions
    texts = readout.speak(_fresh(setup, rows, len(rows)))
    return float(setup.tokenizer.encode(texts, setup.config.tokenizer.max_target + 2)[1].sum(1).mean() - 1)

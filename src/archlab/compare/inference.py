"""What an answer costs: latency, throughput, operations and memory of both arms, from the decoded image to the answer.

All functions are timed in turns within one run, so that their ratios hold while the machine's speed drifts. The frozen
encoder is part of every request and is also timed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archlab.compare.flops import BatchShape, Sizes, counted_flops
from archlab.compare.latency import Request, measure_latency
from archlab.compare.memory import peaks_of
from archlab.config import CompareConfig, RunConfig
from archlab.data.batch import Batch
from archlab.data.device import find_device, to_device
from archlab.evaluate.measure import OPEN_VOCABULARY, Items
from archlab.evaluate.readout import EmbeddingReadout, Readout, SupervisedReadout
from archlab.train.loop import fit
from archlab.train.run import Run, build_objective, build_optimizer, readout_of
from archlab.train.schedule import learning_rate
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer, make_request
from archlab.vl.arms import build_arm

_MEMORY_STEPS = 3  # by the second step the optimiser's state exists
ENCODER = "x_encoder"


def measure_inference(runs: Sequence[Run], setup: Setup, config: CompareConfig) -> dict[str, Any]:
    """Time every way to ask each arm.

    - "choose": the best of the candidate answers to a question; VL-JEPA has embedded the candidates before, as a
      server would.
    - "caption": free text. VL-JEPA predicts once and its decoder speaks.
    - "embed": a vector for retrieval, no text.

    Returns:
        "inference": arm -> mode -> batch size -> latency and throughput, "flops_per_sample", and of the arms the peak
        memory of a process that answers such batches; the shared encoder is an arm of its own. "tokens_per_second":
        arm -> generated tokens per second at the largest batch. "embeddings_per_second": likewise. "decode_steps":
        arm -> mean length of its captions in tokens.
    """
    requests: dict[str, Callable[[int], Request]] = {}
    lengths: dict[str, float] = {}
    for run in runs:
        readout = readout_of(run.arm, setup)
        assert not isinstance(readout, SupervisedReadout)
        for mode, prepare in modes_of(readout, setup).items():
            requests[f"{run.config.arm}/{mode}"] = prepare
        if "caption" in modes_of(readout, setup):
            lengths[run.config.arm] = _spoken_tokens(readout, setup)
    requests[f"{ENCODER}/encode"] = lambda size: encode_request(setup, size)
    timed = measure_latency(requests, config.latency_batches, count=config.latency_requests)

    inference: dict[str, dict[str, Any]] = {}
    for name, batches in timed.items():
        arm, mode = name.split("/")
        inference.setdefault(arm, {})[mode] = batches
        for samples, row in batches.items():
            row["flops_per_sample"] = counted_flops(requests[name](int(samples))) / int(samples)
    largest = str(max(config.latency_batches))
    asked = [(run, size) for run in runs for size in config.latency_batches]
    peaks = peaks_of(answer_once, [(str(run.folder.resolve()), size) for run, size in asked])
    for (run, size), peak in zip(asked, peaks, strict=True):
        for batches in inference[run.config.arm].values():
            batches[str(size)] |= {"memory_mib": peak["peak_memory_mib"], "gpu_memory": peak["gpu_memory"]}
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
    """Load a run and ask it once: what a serving process holds in memory."""
    ask_once(Answerer.open(Path(folder)), size)


def ask_once(answerer: Answerer, size: int) -> None:
    """Let it answer one batch of random images in every mode."""
    side = answerer.encoder.image_size
    images = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8)
    request = answerer.request(images, ["what is this"] * size)
    answerer.readout.choose(request, ["yes", "no"])
    answerer.readout.speak(request)


def training_memory(plans: Mapping[str, RunConfig], sizes: Sizes, shape: BatchShape) -> dict[str, dict[str, Any]]:
    """Arm -> peak memory of a few of its training steps on the largest batch, in a process of its own."""
    peaks = peaks_of(_train_steps, [(plan, sizes, shape) for plan in plans.values()])
    return dict(zip(plans, peaks, strict=True))


def _train_steps(plan: RunConfig, sizes: Sizes, shape: BatchShape) -> None:
    device = find_device(plan.device, "run.device")
    arm = build_arm(plan, sizes.feature_width, sizes.vocab_size, sizes.meanings).to(device)
    objective = build_objective(plan).to(device)
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
    # The loop itself, so that precision, clipping and the optimiser's state are those of training.
    fit(
        arm,
        objective,
        lambda _: to_device(batch, device),
        build_optimizer(plan, arm, objective),
        steps=_MEMORY_STEPS,
        schedule=lambda step: learning_rate(step, plan.optimizer),
        gradient_clip=plan.optimizer.gradient_clip,
        precision=plan.optimizer.precision,
        description=f"memory of training, {plan.arm}",
    )


def modes_of(readout: Readout, setup: Setup) -> dict[str, Callable[[int], Request]]:
    """Ways to ask that the test split has questions for: mode -> prepares a request of a batch size."""
    split = setup.dataset["test"]
    items = Items.first(split, len(split.examples))
    modes: dict[str, Callable[[int], Request]] = {}
    if len(items.vqa):
        # Of a closed question, where there is one: how long choosing takes depends on how many candidates there are.
        kinds = [split.examples[row].kind for row in items.vqa]
        kind = next((one for one in kinds if one not in OPEN_VOCABULARY), kinds[0])
        rows = items.vqa[np.array(kinds) == kind]
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
    queries = [one.queries[0] for one in examples]
    return make_request(setup.encoder, setup.tokenizer, setup.config.tokenizer.max_query, images, queries)


def encode_request(setup: Setup, size: int) -> Request:
    """The frozen encoder alone."""
    images = torch.from_numpy(
        np.resize(setup.dataset["test"].images[:1], (size, *setup.dataset["test"].images[:1].shape[1:]))
    )
    return lambda: setup.encoder.encode(images).cpu()  # the request ends when its result is here


def _spoken_tokens(readout: Readout, setup: Setup) -> float:
    """Mean length of the captions an arm speaks, in tokens with [EOS]: its decode steps."""
    split = setup.dataset["test"]
    rows = Items.first(split, 64).captions
    texts = readout.speak(_fresh(setup, rows, len(rows)))
    return float(setup.tokenizer.encode(texts, setup.config.tokenizer.max_target + 2)[1].sum(1).mean() - 1)

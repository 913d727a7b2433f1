from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from archlab.compare import inference, memory
from archlab.compare.flops import BatchShape, Sizes, stack_flops
from archlab.compare.memory import NOT_MEASURED
from archlab.config import CompareConfig, PretrainConfig, RunConfig
from archlab.data.batch import Batch
from archlab.evaluate.measure import OPEN_VOCABULARY, Items
from archlab.train.run import Run, build_objective
from archlab.train.setup import Setup


@pytest.fixture
def measured(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """Both arms at batches of 1 and 2; a process that answers n pictures is said to take 100 n MiB."""

    def said(_: object, folder: str, size: int) -> dict[str, Any]:
        return {"peak_memory_mib": 100.0 * size, "gpu_memory": NOT_MEASURED}

    monkeypatch.setattr(memory, "peak_memory_of", said)
    config = CompareConfig(run=tiny_setup.config, latency_batches=[1, 2], latency_requests=2)
    runs = [tiny_run("token"), tiny_run("vljepa")]
    found: dict[str, dict[str, Any]] = inference.measure_inference(runs, tiny_setup, config)["inference"]
    return found


def test_operations_of_a_request_are_those_of_encoder_trunk_and_head(
    measured: dict[str, dict[str, Any]], tiny_setup: Setup, tiny_pretraining: PretrainConfig
) -> None:
    config, encoder = tiny_setup.config, tiny_setup.encoder
    operations = {arm: {mode: rows["1"]["flops_per_sample"] for mode, rows in modes.items()}
                  for arm, modes in measured.items()}  # fmt: skip
    of_encoder = operations["x_encoder"]["encode"]
    assert of_encoder > stack_flops(tiny_pretraining.encoder, encoder.vit.config.patches)

    test = tiny_setup.dataset["test"]
    caption = test.examples[Items.first(test, 1).captions[0]]
    asked = tiny_setup.tokenizer.encode([caption.queries[0]], config.tokenizer.max_query)[0].shape[1]
    trunk = 2 * encoder.tokens * encoder.width * config.trunk.width + stack_flops(config.trunk, encoder.tokens + asked)
    head = 2 * config.trunk.width * config.vljepa.embedding
    assert operations["token"]["embed"] == of_encoder + trunk
    assert operations["vljepa"]["embed"] == of_encoder + trunk + head
    for arm in ("token", "vljepa"):  # speaking comes on top of reading
        assert operations[arm]["caption"] > operations[arm]["embed"]


def test_every_batch_size_has_its_own_memory_and_says_how_many_calls_were_timed(
    measured: dict[str, dict[str, Any]],
) -> None:
    for arm in ("token", "vljepa"):
        for rows in measured[arm].values():
            assert {size: row["memory_mib"] for size, row in rows.items()} == {"1": 100, "2": 200}
            assert all(row["gpu_memory"] == NOT_MEASURED and row["calls"] == 2 for row in rows.values())


@pytest.mark.parametrize("closed", [True, False])
def test_choosing_is_timed_on_a_closed_question_where_there_is_one(tiny_setup: Setup, closed: bool) -> None:
    """The open vocabulary has many candidates: whether its question comes first must not decide what is timed."""
    chosen: list[Sequence[str]] = []

    class Readout:
        def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
            chosen.append(candidates)
            return {"sum": np.zeros((len(batch.ids), len(candidates)))}

    test = tiny_setup.dataset["test"]
    questions = sorted(
        (one for one in test.examples if one.task == "vqa"), key=lambda one: one.kind not in OPEN_VOCABULARY
    )
    assert questions[0].kind in OPEN_VOCABULARY
    kept = [one for one in questions if closed or one.kind in OPEN_VOCABULARY]
    splits = tiny_setup.dataset.splits | {"test": replace(test, examples=kept)}
    setup = replace(tiny_setup, dataset=replace(tiny_setup.dataset, splits=splits))
    inference.modes_of(cast(Any, Readout()), setup)["choose"](2)()
    kind = next(one.kind for one in kept if one.kind not in OPEN_VOCABULARY or not closed)
    assert chosen == [test.candidates[kind]]


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_a_serving_process_needs_nothing_but_the_folder_of_a_run(tiny_run: Callable[[str], Run], arm: str) -> None:
    inference.answer_once(str(tiny_run(arm).folder), 2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_memory_is_measured_on_steps_as_they_are_trained(
    arm: Any, precision: Any, run: RunConfig, sizes: Sizes, shape: BatchShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the run's precision, with its gradients clipped."""
    in_bfloat16: list[bool] = []
    limits: list[float] = []
    clip = nn.utils.clip_grad_norm_

    def spied(plan: RunConfig) -> nn.Module:
        objective = build_objective(plan)
        objective.register_forward_hook(lambda *_: in_bfloat16.append(torch.is_autocast_enabled("cpu")))
        return objective

    def spied_clip(parameters: Any, limit: float) -> torch.Tensor:
        limits.append(limit)
        return clip(parameters, limit)

    monkeypatch.setattr(inference, "build_objective", spied)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spied_clip)
    inference._train_steps(
        replace(run, arm=arm, optimizer=replace(run.optimizer, precision=precision, gradient_clip=0.5)), sizes, shape
    )
    assert np.unique(in_bfloat16).tolist() == [precision == "bfloat16"]
    assert np.unique(limits).tolist() == [0.5]

"""The monitors: what they measure, when they ring, and that measuring leaves the run as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from archlab.config import PretrainConfig, RunConfig
from archlab.evaluate.collapse import diagnose, encoder_verdict, verdict_of
from archlab.evaluate.monitor import PREFIX, Monitor, lowest_loss, rings, split_curve, watch_arm, watch_encoder
from archlab.objectives.contrastive import info_nce
from archlab.train.run import Run, monitor_of, train_run, watch
from archlab.train.setup import Setup
from archlab.vl.encoder import FrozenEncoder

RNG = np.random.default_rng(0)
ILL, WELL = "collapsed: all the same", "healthy: spread"


def test_an_alarm_rings_after_a_tenth_of_the_run_and_never_when_all_is_well() -> None:
    assert [rings(step, 100, ILL) for step in (0, 9, 10, 100)] == [False, False, True, True]
    assert not rings(100, 100, WELL)
    assert [rings(step, 100, "not aligned: x") for step in (10, 49, 50)] == [False, False, True]  # it may still come


def test_a_complaint_is_said_once_in_one_line_until_it_changes(capfd: pytest.CaptureFixture[str]) -> None:
    said = iter([ILL, ILL, ILL, WELL, ILL, "cone: narrow"])
    monitor = Monitor(lambda scalars: next(said), 100)
    for step in (1, 20, 30, 40, 50, 60):
        assert monitor(step, {"spread": 0.5}) == {f"{PREFIX}spread": 0.5}
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"alarm at step {step}" for step in (20, 50, 60)]


def test_a_complaint_of_the_first_steps_is_said_as_soon_as_it_may_ring(capfd: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(lambda scalars: ILL, 100)
    for step in (0, 5, 10, 20):
        monitor(step, {})
    assert capfd.readouterr().err.splitlines() == [f"alarm at step 10: {ILL}"]


def test_monitors_leave_the_curve_as_it_would_be_without_them() -> None:
    curve = [
        {"step": 0, "loss": None, "scores": {"vqa/accuracy": 0.1}},  # begun before there were monitors
        {"step": 50, "loss": 2.0, "scores": {"vqa/accuracy": 0.5, f"{PREFIX}spread": 0.01}},
    ]
    plain, watched = split_curve(curve, lambda scalars: ILL if scalars["spread"] < 0.1 else WELL, 50)
    assert plain == [{**curve[0]}, {"step": 50, "loss": 2.0, "scores": {"vqa/accuracy": 0.5}}]
    assert watched == {"alarm": ILL, "points": [{"step": 50, "spread": 0.01, "verdict": ILL, "alarm": True}]}
    assert split_curve(curve[:1], lambda scalars: ILL, 50)[1] == {"alarm": None, "points": []}


def test_the_verdict_can_be_read_from_the_scalars_alone() -> None:
    cloud, point = RNG.normal(size=(300, 16)), np.tile(RNG.normal(size=16), (300, 1))
    for predicted, target, loss in ((cloud, cloud, 0.5), (cloud, point, 4.1), (point, cloud, 4.1), (point, point, 4.1)):
        found = diagnose(predicted, target, loss, 64)
        assert verdict_of(found.scalars()) == found.verdict
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.scalars().values())


@pytest.mark.parametrize(
    ("changes", "verdict", "causes"),
    [
        ({}, "healthy", ("", "")),
        ({"spread": 0.05}, "collapsed features", ("targets that get a gradient", "a learning rate that is too high")),
        ({"rank": 1.0}, "dimensional collapse", ("targets that get a gradient", "images that are too alike")),
        ({"loss": 4.1}, "features of noise", ("too little training", "too little training")),
    ],
)
def test_the_verdict_on_an_encoder_names_what_is_wrong_and_why(
    changes: dict[str, float], verdict: str, causes: tuple[str, str]
) -> None:
    numbers = {"spread": 0.3, "rank": 20.0, "allowed_rank": 64.0, "loss": 1.0, "log_batch": math.log(64)}
    for unguarded, cause in zip((True, False), causes, strict=True):
        found = encoder_verdict(numbers | changes, unguarded=unguarded)
        assert found.startswith(verdict)
        assert (f"; likely {cause}" in found) == bool(cause)


class Given:
    """An encoder that gives each image a state for each of four patches."""

    def __init__(self, give: Callable[[Tensor], Tensor]) -> None:
        self.give = give

    def raw(self, images: Tensor) -> Tensor:
        return self.give(images)


IMAGES = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
MAP = torch.randn(48, 16, generator=torch.Generator().manual_seed(1))


def quarters(images: Tensor) -> Tensor:
    return images.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


ENCODERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a map of pixels": (lambda x: quarters(x) @ MAP, "healthy"),
    "constant": (lambda x: torch.ones(len(x), 4, 16), "collapsed features"),
    "nearly constant": (lambda x: 5 + 0.01 * quarters(x) @ MAP, "collapsed features"),
    "places alone": (lambda x: torch.eye(4, 16).expand(len(x), -1, -1), "collapsed features"),
    "one direction": (lambda x: (quarters(x) @ MAP[:, :1]) * torch.ones(16), "dimensional collapse"),
    "noise": (lambda x: torch.randn(len(x), 4, 16), "features of noise"),
}


@pytest.mark.parametrize(("give", "verdict"), ENCODERS.values(), ids=ENCODERS)
def test_encoders_are_judged_by_what_their_states_say_of_images(give: Callable[[Tensor], Tensor], verdict: str) -> None:
    torch.manual_seed(3)
    numbers = watch_encoder(Given(give), IMAGES)  # type: ignore[arg-type]
    assert encoder_verdict(numbers, unguarded=False).startswith(verdict), numbers
    assert all(math.isfinite(value) for value in numbers.values())


def test_measuring_draws_no_random_numbers(tiny_pretraining: PretrainConfig, tiny_setup: Setup) -> None:
    arm, config = untrained(tiny_setup)
    encoder = FrozenEncoder.random(tiny_pretraining)
    before = torch.get_rng_state()
    first = watch_encoder(encoder.vit, torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    again = watch_encoder(encoder.vit, torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert first == again
    assert watch(arm, tiny_setup, config) == watch(arm, tiny_setup, config)
    assert torch.equal(torch.get_rng_state(), before)


def untrained(setup: Setup) -> tuple[Any, RunConfig]:
    from archlab.vl.arms import build_arm

    config = setup.config
    torch.manual_seed(0)
    return build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, 1).eval(), config


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, "guarded"),
        ({"objective": "vicreg"}, "guarded"),
        ({"objective": "l2"}, "unguarded"),
        ({"objective": "l2", "target_learning_rate_scale": 0.0}, "frozen"),
        ({"target_learning_rate_scale": 0.0}, "frozen"),
    ],
)
def test_a_run_knows_what_keeps_its_targets_apart(changes: dict[str, Any], kept: str, tiny_setup: Setup) -> None:
    from archlab.vl.arms import build_arm

    config = replace(tiny_setup.config, arm="vljepa", vljepa=replace(tiny_setup.config.vljepa, **changes))
    arm = build_arm(config, tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, 1)
    monitor = monitor_of(arm, tiny_setup, config)
    assert monitor is not None
    flat = {"spread_predicted": 0.0, "spread_target": 0.0, "rank_predicted": 0.0, "rank_target": 0.0}
    numbers = flat | {"allowed_rank": 9.0, "loss": 4.1, "log_batch": 4.1}
    assert monitor.verdict(numbers) == verdict_of(numbers, kept)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Drawn:
    rows: Tensor
    meaning: Tensor


def test_the_loss_is_infonce_over_batches_of_the_split_with_meanings_as_positives() -> None:
    """Rows of one meaning are said differently: taken for negatives, they would be told apart for no loss at all."""
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    meanings = torch.arange(40) // 2
    meanings[:6] = -1  # unknown: each has only itself

    def collate(rows: np.ndarray) -> Any:
        return Drawn(torch.from_numpy(rows), meanings[rows])

    collate.split = SimpleNamespace(examples=range(40))  # type: ignore[attr-defined]
    arm = SimpleNamespace(embed=lambda batch: (vectors[batch.rows], vectors[batch.rows]))
    found = watch_arm(arm, collate, 16)  # type: ignore[arg-type]
    order = np.random.default_rng(0).permutation(40)
    losses: dict[float, list[float]] = {}
    for start in (0, 16):  # what is left makes no whole batch
        rows = torch.from_numpy(order[start : start + 16])
        own, known = torch.eye(16).bool(), meanings[rows] >= 0
        same = own | ((meanings[rows][:, None] == meanings[rows]) & known)
        for temperature in np.geomspace(0.01, 20, 200):
            there, back = info_nce(vectors[rows], vectors[rows], 1 / temperature, same)
            losses.setdefault(temperature, []).append((there + back).item() / 2)
    expected = min(np.mean(one) for one in losses.values())
    assert expected > 0.3
    assert found["loss"] == pytest.approx(expected, rel=0.02)
    assert found["log_batch"] == pytest.approx(math.log(16))
    assert found["spread_target"] > 0


def test_embeddings_are_read_at_the_temperature_that_suits_them() -> None:
    """Pairs that agree, at any scale of their cosines, are told apart; pairs that do not are at ln B and not above."""
    generator, own = torch.Generator().manual_seed(0), torch.eye(64, dtype=torch.bool)
    cloud = torch.randn(64, 16, generator=generator)
    cone = 3 + cloud
    assert lowest_loss([(cloud, cloud, own)]) < 0.01
    assert lowest_loss([(cone, cone, own)]) < 0.9 * math.log(64)
    other = torch.randn(64, 16, generator=generator)
    assert lowest_loss([(cloud, other, own)]) == pytest.approx(math.log(64), rel=0.01)


def test_every_checkpoint_of_an_embedding_run_is_watched_and_of_no_other(tiny_run: Callable[[str], Run]) -> None:
    metrics = tiny_run("vljepa").metrics
    assert [point["step"] for point in metrics["monitor"]["points"]] == [point["step"] for point in metrics["curve"]]
    assert not [name for point in metrics["curve"] for name in point["scores"] if name.startswith(PREFIX)]
    last = metrics["monitor"]["points"][-1]
    assert last.keys() >= {"spread_predicted", "spread_target", "rank_target", "rankme_target", "alignment",
                           "uniformity_target", "loss", "log_batch", "verdict", "alarm"}  # fmt: skip
    for arm in ("token", "supervised"):
        assert "monitor" not in tiny_run(arm).metrics


def test_a_run_with_monitors_is_the_run_without_them_bit_for_bit(
    tiny_config: RunConfig, tiny_setup: Setup, tiny_run: Callable[[str], Run], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    watched = tiny_run("vljepa")
    monkeypatch.setattr("archlab.train.run.watch", lambda *_: {"spread_predicted": 1.0})
    monkeypatch.setattr("archlab.train.run.verdict_of", lambda scalars, kept: WELL)
    plain = train_run(tiny_config, tiny_setup, tmp_path / "plain", "")
    assert [(p["step"], p["loss"], p["scores"]) for p in plain.metrics["curve"]] == [
        (p["step"], p["loss"], p["scores"]) for p in watched.metrics["curve"]
    ]
    for name, tensor in watched.arm.state_dict().items():
        assert torch.equal(plain.arm.state_dict()[name], tensor), name

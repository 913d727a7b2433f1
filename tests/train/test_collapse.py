"""A recipe that collapses makes the alarm ring, and what cures it does not: the same runs but for one setting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archlab.config import (
    DataConfig,
    EmbeddingArmConfig,
    EvaluationConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    ScenesData,
    TokenizerConfig,
    TransformerConfig,
)
from archlab.evaluate.collapse import verdict_of
from archlab.evaluate.monitor import rings, watch_arm, what_keeps_apart
from archlab.objectives.regression import build_prediction
from archlab.train.loop import fit
from archlab.train.pretrain import pretrain
from archlab.train.run import train_run
from archlab.train.setup import Setup

RNG = np.random.default_rng(0)
FACTS = RNG.normal(size=(256, 6)).astype(np.float32)  # what each text says and its picture shows, if not clearly
UNCLEAR = FACTS + RNG.normal(size=(256, 6)).astype(np.float32)
PICTURES = UNCLEAR @ RNG.normal(size=(6, 24)).astype(np.float32)
TEXTS = FACTS @ RNG.normal(size=(6, 20)).astype(np.float32)


class Towers(nn.Module):
    """A predictor of pictures and a target encoder of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 8))
        self.target_encoder = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.Linear(32, 8))

    def embed(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.predictor(batch.pictures), self.target_encoder(batch.texts)


@dataclass(frozen=True)
class Pairs:
    pictures: Tensor
    texts: Tensor
    meaning: Tensor


class Collator:
    """Draws batches of the pairs, each of a meaning of its own."""

    split = SimpleNamespace(examples=range(256))

    def __call__(self, rows: np.ndarray) -> Any:
        return Pairs(torch.from_numpy(PICTURES[rows]), torch.from_numpy(TEXTS[rows]), torch.from_numpy(rows))


RATE, STEPS = 5e-3, 250


def verdict_after_training(towers: Towers, objective: str, rate: float = RATE) -> str:
    """What the monitors say of towers that were trained by an objective of VL-JEPA's."""
    collate = Collator()
    loss = build_prediction(EmbeddingArmConfig(objective=objective))  # type: ignore[arg-type]
    trained = [p for p in (*towers.parameters(), *loss.parameters()) if p.requires_grad]
    fit(
        towers,
        loss,
        lambda step: collate(np.random.default_rng(step).permutation(256)[:64]),
        torch.optim.Adam(trained, lr=rate),
        steps=STEPS,
        schedule=lambda step: rate,
    )
    numbers = watch_arm(towers.eval(), collate, 64)  # type: ignore[arg-type]
    return verdict_of(numbers, what_keeps_apart(towers.target_encoder, objective))


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    return Towers()


# Objective -> whether the alarm rings. "stopped" is the cosine with a target that gets no gradient.
TOWERS = {"cosine": True, "stopped": False, "sigreg": False, "vicreg": False, "info-nce": False}


@pytest.mark.parametrize(("name", "alarm"), TOWERS.items(), ids=TOWERS)
def test_the_alarm_rings_for_a_trained_target_without_a_regulariser_and_for_no_other(
    name: str, alarm: bool, towers: Towers
) -> None:
    towers.target_encoder.requires_grad_(name != "stopped")
    verdict = verdict_after_training(towers, "cosine" if name == "stopped" else name)
    assert rings(STEPS, STEPS, verdict) == alarm, verdict
    assert verdict.startswith("collapsed" if alarm else "healthy")
    assert ("likely a target that is trained with neither negatives nor a regulariser" in verdict) == alarm
    assert ("cure: vljepa.objective=info-nce, sigreg or vicreg, or freeze it" in verdict) == alarm


def test_a_rate_that_is_too_high_is_named_where_negatives_keep_the_targets_apart(towers: Towers) -> None:
    verdict = verdict_after_training(towers, "info-nce", rate=3.0)
    assert rings(STEPS, STEPS, verdict)
    assert "; likely a learning rate that is too high" in verdict
    assert "cure: lower optimizer.learning_rate" in verdict


@pytest.mark.parametrize(("objective", "looks"), [("info-nce", "collapsed targets"), ("cosine", "collapsed: ")])
def test_a_frozen_target_that_is_flat_by_itself_is_named(objective: str, looks: str, towers: Towers) -> None:
    nn.init.zeros_(towers.target_encoder[2].weight)  # what is left is a bias: one vector for all texts
    towers.target_encoder.requires_grad_(False)
    verdict = verdict_after_training(towers, objective)
    assert verdict.startswith(looks)
    assert "; likely a frozen target encoder that never told texts apart; cure: other vljepa.target_weights" in verdict


def test_features_that_show_nothing_are_named(towers: Towers) -> None:
    nn.init.zeros_(towers.predictor[0].weight).requires_grad_(False)
    verdict = verdict_after_training(towers, "info-nce")
    assert verdict.startswith("collapsed predictions")
    assert "; likely features that do not show what is asked" in verdict


@pytest.mark.parametrize("method", ["ijepa", pytest.param("vjepa", marks=pytest.mark.slow)])
def test_the_alarm_rings_for_a_jepa_whose_targets_are_trained_and_for_no_other(
    method: Any,
    tiny_pretraining: PretrainConfig,
    few_probes: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    optimizer = OptimizerConfig(steps=40, batch_size=16, learning_rate=1e-2)
    config = replace(tiny_pretraining, method=method, optimizer=optimizer, probe_every=40)
    cured = pretrain(config, tmp_path / "cured").metrics["monitor"]
    assert cured["alarm"] is None
    assert "alarm" not in capfd.readouterr().err
    assert "Alarm" not in (tmp_path / "cured" / "card.md").read_text()

    config = replace(config, jepa=replace(config.jepa, target="trained"))
    ill = pretrain(config, tmp_path / "ill").metrics["monitor"]
    assert "collapse" in ill["alarm"]
    assert "; likely targets that get a gradient and no regulariser; cure: jepa.target=ema" in ill["alarm"]
    assert f"alarm at step 40: {ill['alarm']}" in capfd.readouterr().err
    assert f"**Alarm:** {ill['alarm']}." in (tmp_path / "ill" / "card.md").read_text()
    for watched in (cured, ill):
        assert [point["step"] for point in watched["points"]] == [0, 40]
    assert ill["points"][-1]["rankme"] < 0.5 * cured["points"][-1]["rankme"]


@pytest.fixture(scope="module")
def colours() -> Setup:
    """Scenes of which only the colour is asked, on the features of the shipped encoder."""
    size = TransformerConfig(width=32, depth=1, heads=2, feed_forward=64)
    world = ScenesData(train_images=400, validation_images=40, test_images=4, paraphrases=1, kinds=["colour"])
    return Setup.prepare(
        RunConfig(
            data=DataConfig(scenes=world),
            tokenizer=TokenizerConfig(vocab_size=300),
            trunk=size,
            vljepa=EmbeddingArmConfig(embedding=16, target=size, decoder=size, decoder_prefix=2),
            optimizer=OptimizerConfig(steps=100, batch_size=32, learning_rate=5e-3),
            evaluation=EvaluationConfig(checkpoints=2, first_checkpoint=50, items=16),
        )
    )


FREE = "; likely a target that is trained with neither negatives nor a regulariser"
RUNS = {
    "cosine": (5e-3, FREE),
    "sigreg": (5e-3, None),
    "vicreg": (5e-3, None),
    "info-nce": (1.0, "; likely a learning rate that is too high"),
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", RUNS)
def test_the_alarm_names_the_cause_for_an_arm_that_collapses_and_does_not_ring_for_its_cure(
    objective: Any, colours: Setup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rate, cause = RUNS[objective]
    optimizer = replace(colours.config.optimizer, learning_rate=rate)
    own = replace(colours.config.vljepa, objective=objective)
    watched = train_run(replace(colours.config, vljepa=own, optimizer=optimizer), colours, tmp_path / "run", "").metrics
    alarm = watched["monitor"]["alarm"]
    assert (alarm is not None) == (cause is not None), watched["monitor"]["points"][-1]
    assert cause is None or cause in alarm
    assert ("alarm at step" in capfd.readouterr().err) == (cause is not None)
    assert (f"**Alarm:** {alarm}." in (tmp_path / "run" / "card.md").read_text()) == (cause is not None)

"""A student is drawn to its teacher: what the objectives are made of, and that they do what they are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from archlab.config import ContrastiveConfig, EmbeddingArmConfig, OptimizerConfig, RunConfig, TransformerConfig
from archlab.data.batch import Batch
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.distillation import (
    EmbeddingDistillation,
    TokenDistillation,
    embedding_distance,
    token_divergence,
)
from archlab.objectives.next_token import NextToken
from archlab.train.loop import fit
from archlab.train.optim import adamw
from archlab.vl.arms import build_arm

FEATURES, VOCABULARY = 10, 40
SIZE = TransformerConfig(width=16, depth=2, heads=2, feed_forward=32)
SMALL = replace(SIZE, depth=1)


def made(arm: str, seed: int, size: TransformerConfig = SIZE) -> Any:
    config = RunConfig(arm=arm, seed=seed, trunk=size, vljepa=EmbeddingArmConfig(embedding=12, target=SIZE))
    return build_arm(config, FEATURES, VOCABULARY, 0)


def drawn(seed: int) -> Batch:
    """Eight samples, some of whose targets are padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (8, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 3, 5, 4, 5, 3, 5, 4])[:, None]
    order = torch.arange(8)
    features = torch.randn(8, 2, FEATURES, generator=generator)
    return Batch(features, ids, torch.ones_like(mask), ids.flip(1), mask, order, order, list("abcdefgh"))


def train(student: Any, objective: Any) -> None:
    config = OptimizerConfig(steps=60, learning_rate=3e-3)
    fit(
        student, objective, drawn, adamw(student, objective, config=config),
        steps=60, schedule=lambda _: config.learning_rate,
    )  # fmt: skip


def test_equal_logits_do_not_diverge_and_padding_does_not_count() -> None:
    logits, real = torch.randn(2, 3, 5), torch.tensor([[True, True, False], [True, False, False]])
    assert token_divergence(logits, logits, real).item() == pytest.approx(0, abs=1e-6)
    elsewhere = logits.clone()
    elsewhere[~real] += torch.randn(3, 5)
    assert token_divergence(logits, elsewhere, real).item() == pytest.approx(0, abs=1e-6)
    elsewhere[0, 0, 0] += 3
    assert token_divergence(logits, elsewhere, real).item() > 0.01


def test_the_divergence_is_that_of_the_student_from_the_teacher() -> None:
    """KL(teacher || student), which is not symmetric, at a temperature."""
    student, teacher = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.0, 4.0]]])
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = (p * (p / q).log()).sum().item()
    assert token_divergence(student, teacher, torch.tensor([[True]]), 2.0).item() == pytest.approx(expected)


def test_distance_is_one_minus_cosine() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert embedding_distance(one, 3 * one).item() == pytest.approx(0)
    assert embedding_distance(one, one.flip(0)).item() == pytest.approx(1)


def test_without_weight_the_teacher_says_nothing() -> None:
    student, batch = made("token", 1), drawn(0)
    distilled = TokenDistillation(made("token", 0), 2.0, 0.0)(student, batch)
    assert distilled.loss.item() == pytest.approx(NextToken()(student, batch).loss.item())
    arm, contrastive = made("vljepa", 1), InfoNCE(ContrastiveConfig())
    distilled = EmbeddingDistillation(made("vljepa", 0), contrastive, 0.0)(arm, batch)
    assert distilled.loss.item() == pytest.approx(contrastive(arm, batch).loss.item())


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_the_teacher_is_neither_trained_nor_saved(arm: str) -> None:
    teacher, student = made(arm, 0), made(arm, 1)
    objective = objective_of(arm, teacher)
    objective(student, drawn(0)).loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())
    assert set(objective.state_dict()) <= {"contrastive.log_scale"}


def objective_of(arm: str, teacher: Any, weight: float = 0.7) -> Any:
    if arm == "token":
        return TokenDistillation(teacher, 2.0, weight)
    return EmbeddingDistillation(teacher, InfoNCE(ContrastiveConfig()), weight)


def token_gap(student: Any, teacher: Any, batch: Batch) -> float:
    return token_divergence(student.logits(batch), teacher.logits(batch), batch.target_mask[:, 1:]).item()


def embedding_gap(student: Any, teacher: Any, batch: Batch) -> float:
    ask = (batch.features, batch.query, batch.query_mask)
    return embedding_distance(student.predict(*ask), teacher.predict(*ask)).item()


@pytest.mark.parametrize(("arm", "gap"), [("token", token_gap), ("vljepa", embedding_gap)])
def test_distillation_brings_a_student_nearer_to_its_teacher_on_unseen_batches(
    arm: str, gap: Callable[[Any, Any, Batch], float]
) -> None:
    """Nearer than the same student that has learned from the same batches without it."""
    teacher, unseen = made(arm, 0), drawn(1000)
    gaps = {}
    for weight in (0.9, 0.0):
        student = made(arm, 1, SMALL)
        train(student, objective_of(arm, teacher, weight))
        student.eval()
        with torch.no_grad():
            gaps[weight] = gap(student, teacher, unseen)
    assert gaps[0.9] < 0.8 * gaps[0.0]

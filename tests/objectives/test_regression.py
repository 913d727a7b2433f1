"""Objectives without negatives: what each term is, what it costs to collapse, and what reaches whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.config import EmbeddingArmConfig, SIGRegConfig, VICRegConfig
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.hidden_vision import HiddenVision
from archlab.objectives.regression import Distance, SIGReg, VICReg, build_prediction
from archlab.objectives.regularizers import covariance_penalty, sigreg, variance_hinge

BATCH: Any = None
NAMES: list[Any] = ["info-nce", "cosine", "l1", "l2", "sigreg", "vicreg"]


@dataclass
class Given:
    """Stands in for an arm: gives these embeddings."""

    predicted: Tensor
    target: Tensor

    def embed(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.predicted, self.target


def normal(seed: int, count: int = 64, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def given() -> Given:
    return Given(normal(0).requires_grad_(), normal(1).requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_configuration_is_an_objective(name: Any) -> None:
    built = build_prediction(EmbeddingArmConfig(objective=name))
    assert isinstance(built, {"info-nce": InfoNCE, "sigreg": SIGReg, "vicreg": VICReg}.get(name, Distance))


def test_distances_are_what_they_are_called() -> None:
    one = Given(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]]))
    assert Distance("cosine")(one, BATCH).loss.item() == pytest.approx((1 - 24 / 25 + 1) / 2)
    assert Distance("l1")(one, BATCH).loss.item() == pytest.approx((1 + 1 + 1 + 2) / 4)
    assert Distance("l2")(one, BATCH).loss.item() == pytest.approx((1 + 1 + 1 + 4) / 4)


@pytest.mark.parametrize("name", ["cosine", "l1", "l2"])
def test_a_distance_alone_is_content_with_one_embedding_for_all_texts(name: str) -> None:
    """Which is why the paper's ablation freezes the target encoder."""
    point = torch.ones(8, 4)
    assert Distance(name)(Given(point, point), BATCH).loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", [SIGReg(SIGRegConfig()), VICReg(VICRegConfig())])
def test_the_regularised_ones_are_not(objective: Any) -> None:
    point, spread = torch.ones(256, 4), normal(0, 256)
    torch.manual_seed(0)
    collapsed, alive = objective(Given(point, point), BATCH), objective(Given(spread, spread), BATCH)
    assert collapsed.loss > 5 * alive.loss


def test_vicreg_is_the_weighted_sum_of_its_terms(given: Given) -> None:
    output = VICReg(VICRegConfig(invariance=3.0, variance=5.0, covariance=7.0))(given, BATCH)
    parts = output.parts
    torch.testing.assert_close(
        output.loss.detach(), 3 * parts["invariance"] + 5 * parts["variance"] + 7 * parts["covariance"]
    )
    torch.testing.assert_close(parts["invariance"], F.mse_loss(given.predicted, given.target).detach())
    for name, term in (("variance", variance_hinge), ("covariance", covariance_penalty)):
        torch.testing.assert_close(parts[name], (term(given.predicted) + term(given.target)).detach())


def test_sigreg_weighs_agreement_against_the_gaussian_of_both_sides(given: Given) -> None:
    torch.manual_seed(3)
    output = SIGReg(SIGRegConfig(regularization=0.25))(given, BATCH)
    torch.manual_seed(3)
    gaussian = (sigreg(given.predicted) + sigreg(given.target)) / 2
    torch.testing.assert_close(output.parts["gaussian"], gaussian.detach())
    torch.testing.assert_close(output.loss, 0.75 * F.mse_loss(given.predicted, given.target) + 0.25 * gaussian)


@pytest.mark.parametrize("name", NAMES[1:])
def test_both_sides_learn_where_nothing_is_frozen(given: Given, name: Any) -> None:
    output = build_prediction(EmbeddingArmConfig(objective=name))(given, BATCH)
    output.loss.backward()
    for side in (given.predicted, given.target):
        assert side.grad is not None
        assert (side.grad.abs().sum(1) > 0).all()
    assert torch.equal(output.embeddings["predicted"], given.predicted.detach())
    assert torch.equal(output.embeddings["target"], given.target.detach())
    assert not any(one.requires_grad for one in [*output.parts.values(), *output.embeddings.values()])


def test_the_variance_term_wants_a_deviation_of_one_in_every_dimension() -> None:
    x = normal(0, 1000, 3)
    x = (x - x.mean(0)) / x.std(0)
    assert variance_hinge(x).item() == pytest.approx(0, abs=1e-3)
    assert variance_hinge(3 * x).item() == 0  # more is no fault
    assert variance_hinge(x * torch.tensor([1.0, 1.0, 0.25])).item() == pytest.approx(0.75 / 3, abs=1e-3)
    constant = torch.zeros(5, 2, requires_grad=True)
    variance_hinge(constant).backward()
    assert torch.isfinite(constant.grad).all()  # type: ignore[arg-type]


def test_the_covariance_term_is_the_sum_of_squares_off_the_diagonal() -> None:
    x = normal(0, 50, 4) @ torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.3], [0, 0, 0, 1]])
    covariance = x.T.cov()
    expected = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert covariance_penalty(x).item() == pytest.approx(float(expected), rel=1e-4)
    torch.testing.assert_close(covariance_penalty(x + 10), covariance_penalty(x), rtol=1e-3, atol=1e-5)


class Rebuilding:
    """Stands in for an arm: predicts `answer` and remembers what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def reconstruct(self, features: Tensor, visible: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        self.visible, self.text, self.text_mask = visible, text, text_mask
        return self.answer


def test_hidden_vision_scores_hidden_tokens_against_normalised_features_and_gives_query_and_answer() -> None:
    @dataclass
    class Batch:
        features: Tensor
        query: Tensor
        query_mask: Tensor
        target: Tensor
        target_mask: Tensor

    features = torch.randn(3, 8, 5)
    ids, mask = torch.arange(6).reshape(3, 2), torch.tensor([[True, True], [True, False], [True, True]])
    batch: Any = Batch(features, ids, mask, ids + 10, ~mask)
    model = Rebuilding(torch.zeros(3, 8, 5))
    loss = HiddenVision(0.75)(model, batch).loss
    assert model.visible.sum(1).tolist() == [2, 2, 2]
    wanted = (features - features.mean(-1, keepdim=True)) / features.std(-1, keepdim=True, correction=0)
    torch.testing.assert_close(loss, wanted[~model.visible].abs().mean(), rtol=1e-3, atol=1e-3)
    assert torch.equal(model.text, torch.cat([ids, ids + 10], 1))
    assert torch.equal(model.text_mask, torch.cat([mask, ~mask], 1))

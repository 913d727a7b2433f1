from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from archlab.config import ContrastiveConfig, EmbeddingArmConfig, OptimizerConfig, RunConfig, TransformerConfig
from archlab.data.batch import Batch
from archlab.objectives.contrastive import InfoNCE
from archlab.objectives.embedding_prediction import EmbeddingPrediction
from archlab.objectives.next_token import next_token_loss
from archlab.train.loop import fit
from archlab.train.optim import adamw
from archlab.vl.arms import EmbeddingArm, build_arm

B = 6
SIZE = TransformerConfig(width=16, depth=1, heads=2, feed_forward=24)
CONFIG = RunConfig(trunk=SIZE, vljepa=EmbeddingArmConfig(embedding=8, target=SIZE, decoder=SIZE, decoder_prefix=2))


@pytest.fixture
def arm() -> EmbeddingArm:
    arm = build_arm(CONFIG, 10, 30, 4)
    assert isinstance(arm, EmbeddingArm)
    return arm


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 30, (2, B, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 5, 2, 4])[:, None]
    features = torch.randn(B, 2, 10, generator=generator)
    order = torch.arange(B)
    return Batch(features, ids[0], mask, ids[1], mask, order, order, list("abcdef"))


def gradients(loss: torch.Tensor, arm: EmbeddingArm) -> dict[str, torch.Tensor | None]:
    names, parameters = zip(*arm.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def test_the_loss_is_the_sum_of_its_two_parts(arm: EmbeddingArm, batch: Batch) -> None:
    output = EmbeddingPrediction(InfoNCE(ContrastiveConfig()))(arm, batch)
    torch.testing.assert_close(output.loss.detach(), output.parts["prediction"] + output.parts["decoder"])
    torch.testing.assert_close(output.parts["prediction"], InfoNCE(ContrastiveConfig())(arm, batch).loss.detach())
    target = arm.target_encoder(batch.target, batch.target_mask)
    logits = arm.decoder(target, batch.target[:, :-1], batch.target_mask[:, :-1])
    torch.testing.assert_close(output.parts["decoder"], next_token_loss(logits, batch).detach())
    assert not any(part.requires_grad for part in output.parts.values())


def test_the_decoder_teaches_nothing_but_itself_and_is_taught_by_nothing_else(arm: EmbeddingArm, batch: Batch) -> None:
    whole = gradients(EmbeddingPrediction(InfoNCE(ContrastiveConfig()))(arm, batch).loss, arm)
    contrast = gradients(InfoNCE(ContrastiveConfig())(arm, batch).loss, arm)
    for name, gradient in whole.items():
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name
        if name.startswith("decoder."):
            assert contrast[name] is None
        else:
            assert torch.equal(gradient, contrast[name]), name  # type: ignore[arg-type]


def test_equal_embeddings_cost_the_logarithm_of_the_batch(arm: EmbeddingArm, batch: Batch) -> None:
    for head in (arm.head, arm.target_encoder.head):
        nn.init.zeros_(head.weight)  # all that is left is the bias, the same for all
    output = EmbeddingPrediction(InfoNCE(ContrastiveConfig()))(arm, batch)
    torch.testing.assert_close(output.parts["prediction"], torch.tensor(math.log(B)))


def test_both_embeddings_can_be_watched(arm: EmbeddingArm, batch: Batch) -> None:
    output = EmbeddingPrediction(InfoNCE(ContrastiveConfig()))(arm, batch)
    predicted, target = arm.embed(batch)
    torch.testing.assert_close(output.embeddings["predicted"], predicted.detach())
    torch.testing.assert_close(output.embeddings["target"], target.detach())


def test_the_decoder_sees_neither_image_nor_query(arm: EmbeddingArm, batch: Batch) -> None:
    objective = EmbeddingPrediction(InfoNCE(ContrastiveConfig()))
    before = objective(arm, batch).parts
    after = objective(arm, replace(batch, features=batch.features.roll(1, 0), query=batch.query.roll(1, 0))).parts
    assert after["decoder"] == before["decoder"]
    assert after["prediction"] != before["prediction"]


@pytest.mark.parametrize("clip", [0.05, math.inf])
def test_a_steep_decoder_does_not_slow_the_rest_down(batch: Batch, clip: float) -> None:
    """Its gradient is clipped by a norm of its own, so that the others' steps are the same bit for bit."""
    trained = []
    for steepness in (1, 1000):
        arm = build_arm(CONFIG, 10, 30, 4)
        assert isinstance(arm, EmbeddingArm)
        with torch.no_grad():
            arm.decoder.token_embedding.weight.mul_(steepness)
        objective = EmbeddingPrediction(InfoNCE(ContrastiveConfig()))
        optimizer = adamw(arm, objective, config=OptimizerConfig(), clipped_apart=("decoder",))
        fit(arm, objective, lambda step: batch, optimizer, steps=3, schedule=lambda step: 0.01, gradient_clip=clip)
        trained.append(arm.state_dict())
    gentle, steep = trained
    for name, tensor in gentle.items():
        assert name.startswith("decoder.") or torch.equal(steep[name], tensor), name


def test_the_temperature_is_the_only_parameter_of_the_objective() -> None:
    objective = EmbeddingPrediction(InfoNCE(ContrastiveConfig(temperature=0.2)))
    assert [(name, tuple(p.shape)) for name, p in objective.named_parameters()] == [("prediction.log_scale", ())]
    assert (-objective.prediction.log_scale).exp().item() == pytest.approx(0.2)

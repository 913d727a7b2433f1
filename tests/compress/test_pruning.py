"""What goes is what matters least, it really goes, and training does not bring it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from archlab.compress.pruning import Importance, importance, prune_magnitude, prune_structured, settle
from archlab.config import CompressionConfig, EmbeddingArmConfig, OptimizerConfig, RunConfig, TransformerConfig
from archlab.data.batch import Batch
from archlab.train.loop import fit
from archlab.train.run import build_objective, build_optimizer
from archlab.vl.arms import build_arm
from archlab.vl.decoding import collect

FEATURES, VOCABULARY = 10, 40
SIZE = TransformerConfig(width=16, depth=2, heads=4, feed_forward=24)
ARMS = pytest.mark.parametrize("arm", ["token", "vljepa"])


def config_of(arm: str, **changes: Any) -> RunConfig:
    own = EmbeddingArmConfig(embedding=12, target=SIZE, decoder=SIZE)
    return RunConfig(arm=arm, trunk=SIZE, vljepa=own, optimizer=OptimizerConfig(steps=4, batch_size=6), **changes)  # type: ignore[arg-type]


def made(arm: str) -> Any:
    return build_arm(config_of(arm), FEATURES, VOCABULARY, 0)


@pytest.fixture
def batches() -> Callable[[int], Batch]:
    def draw(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        ids, order = torch.randint(3, VOCABULARY, (6, 5), generator=generator), torch.arange(6)
        real = torch.arange(5) < torch.tensor([5, 3, 5, 4, 5, 3])[:, None]
        features = torch.randn(6, 2, FEATURES, generator=generator)
        return Batch(features, ids, real, ids.flip(1), real, order, order, list("abcdef"))

    return draw


def scores(best_heads: list[int], best_channels: list[int]) -> list[Importance]:
    """In both blocks these are the most important."""
    heads, channels = torch.zeros(SIZE.heads), torch.zeros(SIZE.feed_forward)
    heads[best_heads], channels[best_channels] = 1.0, 1.0
    return [Importance(heads, channels)] * SIZE.depth


def mask(arm: Any, heads: list[int], channels: list[int]) -> None:
    """Silence all heads and channels of the trunk but these."""
    for block in arm.backbone.trunk.blocks:
        open_heads, open_channels = torch.zeros(SIZE.heads, SIZE.width // SIZE.heads), torch.zeros(SIZE.feed_forward)
        open_heads[heads], open_channels[channels] = 1.0, 1.0
        with torch.no_grad():
            block.attention.out_proj.weight *= open_heads.flatten()
            block.feed_forward.down_proj.weight *= open_channels


@torch.no_grad()
def says(arm: Any, batch: Batch) -> list[torch.Tensor]:
    """Whatever an arm can be asked: what it predicts, what it scores, and what it decodes with a cache."""
    ask = (batch.features, batch.query, batch.query_mask)
    if hasattr(arm, "predict"):
        return [arm.predict(*ask), arm.decoder.generate(arm.predict(*ask), 5, 1, 2)]
    prefix = arm.read(*ask)
    return [
        arm.logits(batch),
        arm.score(prefix, batch.target, batch.target_mask),
        collect(arm.steps(prefix, 5, 1, 2)),
        arm.pooled(*ask),
    ]


@ARMS
def test_a_pruned_arm_says_what_the_arm_with_the_same_parts_masked_says(
    arm: str, batches: Callable[[int], Batch]
) -> None:
    heads, channels, batch = [0, 2], [1, 5, 6, 20], batches(0)
    pruned, masked, otherwise = made(arm).eval(), made(arm).eval(), made(arm).eval()
    prune_structured(pruned, scores(heads, channels), len(heads), len(channels))
    mask(masked, heads, channels)
    mask(otherwise, [1, 2], channels)
    for ours, theirs in zip(says(pruned, batch), says(masked, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(says(pruned, batch)[0], says(otherwise, batch)[0], atol=1e-3)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in masked.parameters())


@ARMS
def test_the_configuration_of_a_pruned_arm_makes_an_arm_of_its_shape(arm: str) -> None:
    pruned = made(arm)
    prune_structured(pruned, scores([0, 2], [1, 5, 6]), 2, 3)
    shape = CompressionConfig(method="structured", parent="0" * 64, heads=2, feed_forward=3)
    built = build_arm(config_of(arm, compression=shape), FEATURES, VOCABULARY, 0)
    built.load_state_dict(pruned.state_dict())
    larger = build_arm(config_of(arm, compression=replace(shape, heads=3)), FEATURES, VOCABULARY, 0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        larger.load_state_dict(pruned.state_dict())


@ARMS
def test_what_the_loss_does_not_depend_on_has_no_importance(arm: str, batches: Callable[[int], Batch]) -> None:
    model = made(arm)
    mask(model, [0, 1, 3], list(range(20)))
    found = importance(model, build_objective(config_of(arm)), [batches(0), batches(1)])
    assert len(found) == SIZE.depth
    for one in found:
        assert one.heads[2] == 0
        assert (one.heads[[0, 1, 3]] > 0).all()
        assert (one.channels[20:] == 0).all()
        assert (one.channels[:20] > 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_importance_is_the_gradient_of_a_gate_sample_by_sample(batches: Callable[[int], Batch]) -> None:
    """By definition: a factor on one head of one sample, at 1; the mean over samples of its absolute value."""
    model, batch, objective = made("token").eval(), batches(0), build_objective(config_of("token"))
    gates = torch.ones(6, 1, SIZE.heads, 1, requires_grad=True)
    layer = model.backbone.trunk.blocks[0].attention.out_proj
    hook = layer.register_forward_pre_hook(
        lambda _, given: ((given[0].unflatten(-1, (SIZE.heads, -1)) * gates).flatten(-2),)
    )
    (expected,) = torch.autograd.grad(objective(model, batch).loss, gates)
    hook.remove()
    found = importance(model, objective, [batch])[0].heads
    torch.testing.assert_close(found, expected.abs().mean(0).flatten())


@ARMS
def test_magnitude_pruning_zeroes_the_smallest_entries_and_training_leaves_them_zero(
    arm: str, batches: Callable[[int], Batch]
) -> None:
    model, config = made(arm), config_of(arm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    prune_magnitude(model, 0.6)
    entries = torch.cat([layer.weight.detach().flatten() for layer in layers])
    assert (entries == 0).float().mean().item() == pytest.approx(0.6, abs=0.01)
    zero = [layer.weight == 0 for layer in layers]
    largest_gone = max(
        float(layer.weight_orig.detach()[gone].abs().max()) for layer, gone in zip(layers, zero, strict=True)
    )
    assert largest_gone <= float(entries[entries != 0].abs().min())
    objective = build_objective(config)
    fit(model, objective, batches, build_optimizer(config, model, objective), steps=4, schedule=lambda _: 1e-2)
    settle(model)
    assert set(model.state_dict()) == set(before)
    for layer, gone in zip(layers, zero, strict=True):
        assert (layer.weight[gone] == 0).all()
        assert (layer.weight[~gone] != 0).any()
    moved = model.state_dict()["backbone.trunk.blocks.0.attention.q_proj.weight"]
    kept = moved != 0
    assert not torch.equal(moved[kept], before["backbone.trunk.blocks.0.attention.q_proj.weight"][kept])
    assert (model.state_dict()["backbone.token_embedding.weight"] != 0).all()

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.vl.arms import build_arm
from archlab.vl.backbone import Backbone, positions_of

ARMS = ["token", "vljepa", "supervised"]


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_positions_count_real_tokens_and_padding_shifts_nothing(real: list[bool]) -> None:
    positions = positions_of(torch.tensor([real]))[0].tolist()
    assert [position for position, is_real in zip(positions, real, strict=True) if is_real] == list(range(sum(real)))
    assert min(positions) >= 0


@pytest.mark.parametrize("seed", [0, 7])
def test_all_arms_of_one_seed_start_from_bit_identical_backbones(config: RunConfig, seed: int) -> None:
    first, *others = (build_arm(replace(config, arm=arm, seed=seed), 10, 40, 5).backbone for arm in ARMS)  # type: ignore[arg-type]
    for other in others:
        assert other.state_dict().keys() == first.state_dict().keys()
        for name, tensor in first.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name


def test_another_seed_starts_elsewhere_in_every_random_tensor(config: RunConfig) -> None:
    one, other = (build_arm(replace(config, seed=seed), 10, 40, 5) for seed in (0, 1))
    for (name, tensor), changed in zip(one.named_parameters(), other.parameters(), strict=True):
        if tensor.std() > 0:  # gains start at one, biases at zero
            assert not torch.equal(tensor, changed), name


def test_building_an_arm_leaves_the_callers_random_numbers_alone(config: RunConfig) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = build_arm(config, 10, 40, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    other = build_arm(config, 10, 40, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_image_and_query_see_each_other_whole(make: Callable[..., Any], batch: Batch) -> None:
    """Every real token's state depends on every other real token, before and after it, and on no padding."""
    backbone: Backbone = make("vljepa").backbone
    embeddings, mask = backbone.embed(batch.features, batch.query, batch.query_mask)
    embeddings = embeddings.detach().requires_grad_()
    backbone.embed = lambda *_: (embeddings, mask)  # type: ignore[method-assign]
    states, _ = backbone(batch.features, batch.query, batch.query_mask)
    for token in range(states.shape[1]):
        (gradient,) = torch.autograd.grad(states[:, token].square().sum(), embeddings, retain_graph=True)
        reaches = gradient.abs().sum(-1) > 0
        own = torch.arange(states.shape[1]) == token  # a padding token may read itself: nobody reads it
        for sample in range(len(mask)):
            if mask[sample, token]:
                assert torch.equal(reaches[sample] | own, mask[sample] | own)


def test_visual_tokens_come_before_the_query(make: Callable[..., Any], batch: Batch) -> None:
    backbone: Backbone = make("vljepa").backbone
    embeddings, mask = backbone.embed(batch.features, batch.query, batch.query_mask)
    torch.testing.assert_close(embeddings[:, :2], backbone.visual_projection(batch.features))
    torch.testing.assert_close(embeddings[:, 2:], backbone.token_embedding(batch.query))
    assert mask[:, :2].all()
    assert torch.equal(mask[:, 2:], batch.query_mask)


def test_visual_tokens_and_words_enter_at_one_scale(config: RunConfig) -> None:
    torch.manual_seed(0)
    backbone = Backbone(config.trunk, 300, 500)
    features = torch.randn(1, 500, 300)  # of unit variance, as the encoder gives them
    embeddings, _ = backbone.embed(features, torch.arange(500)[None], torch.ones(1, 500, dtype=torch.bool))
    visual, words = embeddings[0].split(500)
    assert visual.std().item() == pytest.approx(words.std().item(), rel=0.1)


def test_the_pooled_state_is_the_mean_over_real_tokens(make: Callable[..., Any], batch: Batch) -> None:
    backbone: Backbone = make("vljepa").backbone
    states, mask = backbone(batch.features, batch.query, batch.query_mask)
    expected = torch.stack([state[real].mean(0) for state, real in zip(states, mask, strict=True)])
    torch.testing.assert_close(backbone.pooled(batch.features, batch.query, batch.query_mask), expected)


def test_more_padding_changes_no_pooled_state(
    make: Callable[..., Any], batch: Batch, padded: Callable[..., Batch]
) -> None:
    backbone: Backbone = make("vljepa").backbone

    def pooled(batch: Batch) -> Tensor:
        return backbone.pooled(batch.features, batch.query, batch.query_mask)

    torch.testing.assert_close(pooled(padded(batch, 3, 0)), pooled(batch))
    swapped = replace(batch, query=batch.query.roll(1, 1))
    assert not torch.allclose(pooled(swapped), pooled(batch), atol=1e-3)


def test_text_alone_has_a_state(make: Callable[..., Any], batch: Batch) -> None:
    """No image at all is the same as no visual token: the text stands at the first positions."""
    backbone: Backbone = make("vljepa").backbone
    nothing = torch.zeros(4, 0, batch.features.shape[2])
    pooled = backbone.pooled(nothing, batch.query, batch.query_mask)
    assert pooled.shape == (4, 16)
    states = backbone.trunk(backbone.token_embedding(batch.query[2:3]))  # the longest: no padding
    torch.testing.assert_close(pooled[2], states[0].mean(0))
    assert not torch.allclose(pooled, backbone.pooled(batch.features, batch.query, batch.query_mask), atol=1e-3)

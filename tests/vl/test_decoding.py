from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.vl.arms import TokenArm
from archlab.vl.decoding import Prefix

BOS = 1
ATTENTION = pytest.mark.parametrize("attention", ["prefix", "causal"])


def uncached(arm: TokenArm, batch: Batch, max_tokens: int, eos: int) -> Tensor:
    """Greedy decoding that reads everything again for every token."""
    answer = torch.full((len(batch.ids), 1), BOS)
    ended = torch.zeros(len(batch.ids), dtype=torch.bool)
    for _ in range(max_tokens):
        # `logits` leaves the last target token out: it has no successor.
        target = torch.cat([answer, answer[:, :1]], 1)
        whole = replace(batch, target=target, target_mask=torch.ones_like(target, dtype=torch.bool))
        token = arm.logits(whole)[:, -1].argmax(-1).masked_fill(ended, eos)
        answer = torch.cat([answer, token[:, None]], 1)
        ended = ended | (token == eos)
        if ended.all():
            break
    return answer[:, 1:]


def read(arm: TokenArm, batch: Batch) -> Prefix:
    return arm.read(batch.features, batch.query, batch.query_mask)


@pytest.fixture
def token_arm(make: Callable[..., Any], config: RunConfig) -> Callable[[Any], TokenArm]:
    return lambda attention: make("token", token=replace(config.token, attention=attention))


@ATTENTION
def test_cached_decoding_equals_reading_everything_again_for_every_token(
    token_arm: Callable[[Any], TokenArm], batch: Batch, attention: str
) -> None:
    arm = token_arm(attention)
    prefix = read(arm, batch)
    free = uncached(arm, batch, 9, eos=-1)
    assert len(set(free.flatten().tolist())) > 4  # the arm says different things, not one token for ever
    assert torch.equal(arm.generate(prefix, 9, BOS, -1), free)
    for eos in set(free.flatten().tolist()):  # rows that end at different steps, and some that never do
        assert torch.equal(arm.generate(prefix, 9, BOS, eos), uncached(arm, batch, 9, eos))


def test_answers_end_at_the_first_end_and_are_filled_with_it(
    token_arm: Callable[[Any], TokenArm], batch: Batch
) -> None:
    arm = token_arm("prefix")
    free = arm.generate(read(arm, batch), 9, BOS, -1)
    eos = int(free[0, 3])
    answer = arm.generate(read(arm, batch), 9, BOS, eos)
    for row, said in zip(answer.tolist(), free.tolist(), strict=True):
        end = said.index(eos) if eos in said else len(said)
        assert row[:end] == said[:end]
        assert set(row[end:]) <= {eos}
    alone = replace(
        batch, features=batch.features[:1], query=batch.query[:1], query_mask=batch.query_mask[:1], ids=["a"]
    )
    assert arm.generate(read(arm, alone), 9, BOS, eos).shape[1] == free[0].tolist().index(eos) + 1  # no step more


@ATTENTION
def test_packed_candidates_score_as_each_does_alone(
    token_arm: Callable[[Any], TokenArm], batch: Batch, attention: str
) -> None:
    """Enough candidates for several packs, of all lengths."""
    arm = token_arm(attention)
    generator = torch.Generator().manual_seed(1)
    candidates = torch.randint(3, 40, (60, 8), generator=generator)
    candidates[:, 0] = BOS
    lengths = torch.arange(60) % 7 + 2
    mask = torch.arange(8) < lengths[:, None]
    packed = arm.score(read(arm, batch), candidates, mask)
    assert packed.shape == (4, 60, 7)
    for candidate, real, ours in zip(candidates, mask, packed.transpose(0, 1), strict=True):
        alone = replace(batch, target=candidate.expand(4, -1), target_mask=real.expand(4, -1))
        log_probs = arm.logits(alone).log_softmax(-1)
        expected = log_probs.gather(-1, candidate[1:].expand(4, -1)[..., None])[..., 0]
        torch.testing.assert_close(ours, expected * real[1:])


def test_the_order_of_candidates_does_not_matter(token_arm: Callable[[Any], TokenArm], batch: Batch) -> None:
    arm = token_arm("prefix")
    prefix = read(arm, batch)
    scores = arm.score(prefix, batch.target, batch.target_mask)
    reverse = arm.score(prefix, batch.target.flip(0), batch.target_mask.flip(0))
    torch.testing.assert_close(reverse.flip(1), scores)


def test_one_reading_of_the_prefix_serves_any_number_of_answers(
    token_arm: Callable[[Any], TokenArm], batch: Batch
) -> None:
    arm = token_arm("prefix")
    prefix = read(arm, batch)
    kept = [tuple(part.clone() for part in cache.read()) for cache in prefix.caches]
    uses: list[Callable[[], Tensor]] = [
        lambda: arm.generate(prefix, 5, BOS, 2),
        lambda: arm.score(prefix, batch.target, batch.target_mask),
    ]
    first = [use() for use in uses]
    again = [use() for use in reversed(uses)][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    for cache, parts in zip(prefix.caches, kept, strict=True):
        assert all(torch.equal(now, before) for now, before in zip(cache.read(), parts, strict=True))


def test_the_prefix_knows_where_the_answer_begins(token_arm: Callable[[Any], TokenArm], batch: Batch) -> None:
    prefix = read(token_arm("prefix"), batch)
    assert prefix.length.tolist() == [2 + 4, 2 + 2, 2 + 5, 2 + 3]
    assert prefix.mask.sum(1).tolist() == prefix.length.tolist()


def test_scores_are_log_probabilities(token_arm: Callable[[Any], TokenArm], batch: Batch) -> None:
    """Over all one-token answers they sum to one."""
    arm = token_arm("prefix")
    words = torch.stack([torch.full((40,), BOS), torch.arange(40)], 1)
    scores = arm.score(read(arm, batch), words, torch.ones_like(words, dtype=torch.bool))
    torch.testing.assert_close(scores.exp().sum((1, 2)), torch.ones(4))

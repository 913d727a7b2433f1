from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from archlab.data.batch import Batch
from archlab.vl.target_encoder import TargetEncoder


@pytest.fixture
def encoder(make: Callable[..., Any]) -> TargetEncoder:
    return make("vljepa").target_encoder


def test_padding_says_nothing(encoder: TargetEncoder, batch: Batch, padded: Callable[..., Batch]) -> None:
    embeddings = encoder(batch.target, batch.target_mask)
    assert embeddings.shape == (4, 12)
    more = padded(batch, 0, 4)
    torch.testing.assert_close(encoder(more.target, more.target_mask), embeddings)
    alone = torch.cat(
        [encoder(ids[real][None], real[real][None]) for ids, real in zip(batch.target, batch.target_mask, strict=True)]
    )
    torch.testing.assert_close(alone, embeddings)


def test_every_real_token_and_their_order_matter(encoder: TargetEncoder, batch: Batch) -> None:
    embeddings = encoder(batch.target, batch.target_mask)
    for token in range(batch.target.shape[1]):
        changed = batch.target.clone()
        changed[:, token] = 30
        moved = (encoder(changed, batch.target_mask) - embeddings).abs().amax(1) > 1e-3
        assert torch.equal(moved, batch.target_mask[:, token])
    swapped = batch.target.clone()
    swapped[:, [1, 2]] = swapped[:, [2, 1]]
    assert ((encoder(swapped, batch.target_mask) - embeddings).abs().amax(1) > 1e-3).all()


def test_reads_in_both_directions(encoder: TargetEncoder, batch: Batch) -> None:
    """The state of the first token, before the mean is taken, depends on the last."""
    states: list[torch.Tensor] = []
    encoder.trunk.register_forward_hook(lambda module, args, output: states.append(output))
    changed = replace(batch, target=batch.target.clone())
    changed.target[1, 5] = 30  # the last of six
    encoder(batch.target, batch.target_mask)
    encoder(changed.target, batch.target_mask)
    assert (states[1][1, 0] - states[0][1, 0]).abs().max() > 1e-4

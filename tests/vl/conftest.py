"""Tiny untrained arms and a batch of random tokens with padding, so that nothing here needs data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from archlab.config import EmbeddingArmConfig, RunConfig, TransformerConfig
from archlab.data.batch import Batch
from archlab.vl.arms import build_arm

FEATURES, VOCABULARY, MEANINGS = 10, 40, 5
SIZE = TransformerConfig(width=16, depth=2, heads=2, feed_forward=32)


@pytest.fixture
def config() -> RunConfig:
    own = EmbeddingArmConfig(embedding=12, target=SIZE, decoder=SIZE, decoder_prefix=3)
    return RunConfig(trunk=SIZE, vljepa=own)


@pytest.fixture
def make(config: RunConfig) -> Callable[..., Any]:
    """`make(arm, **changes)`: that arm, untrained."""
    return lambda arm, **changes: build_arm(replace(config, arm=arm, **changes), FEATURES, VOCABULARY, MEANINGS)


@pytest.fixture
def batch() -> Batch:
    """Four samples of two visual tokens; queries of 2 to 5 tokens and targets of 3 to 6, padded with token 7."""
    generator = torch.Generator().manual_seed(0)

    def tokens(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        ids = torch.randint(3, VOCABULARY, mask.shape, generator=generator)
        ids[:, 0] = 1
        ids[torch.arange(len(ids)), torch.tensor(lengths) - 1] = 2
        return ids.masked_fill(~mask, 7), mask

    query, query_mask = tokens([4, 2, 5, 3])
    target, target_mask = tokens([3, 6, 4, 6])
    features = torch.randn(4, 2, FEATURES, generator=generator)
    order = torch.arange(4)
    return Batch(features, query, query_mask, target, target_mask, order, order, list("abcd"))


@pytest.fixture
def padded() -> Callable[..., Batch]:
    """`padded(batch, query, target)`: the batch with so many more tokens of padding."""

    def pad(batch: Batch, query: int, target: int) -> Batch:
        def more(ids: torch.Tensor, mask: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            return F.pad(ids, (0, count), value=9), F.pad(mask, (0, count), value=False)

        ids, mask = more(batch.query, batch.query_mask, query)
        target_ids, target_mask = more(batch.target, batch.target_mask, target)
        return replace(batch, query=ids, query_mask=mask, target=target_ids, target_mask=target_mask)

    return pad

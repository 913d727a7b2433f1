from __future__ import annotations

import dataclasses

import pytest
import torch

from archlab.compare.flops import BatchShape, Sizes
from archlab.config import EmbeddingArmConfig, OptimizerConfig, RunConfig, TransformerConfig
from archlab.data.batch import Batch


@pytest.fixture
def sizes() -> Sizes:
    return Sizes(feature_width=24, vocab_size=300, meanings=7)


@pytest.fixture
def run() -> RunConfig:
    """A small run in which no two sizes are equal, so that no two of them can be mistaken for each other."""
    small = TransformerConfig(width=32, depth=2, heads=2, feed_forward=88)
    own = EmbeddingArmConfig(
        embedding=20,
        target=dataclasses.replace(small, width=48, depth=1),
        decoder=dataclasses.replace(small, width=40, depth=3, feed_forward=56),
        decoder_prefix=3,
    )
    return RunConfig(trunk=small, vljepa=own, optimizer=OptimizerConfig(steps=12, batch_size=5))


@pytest.fixture
def shape() -> BatchShape:
    return BatchShape(samples=5, visual=9, query=6, target=8)


@pytest.fixture
def batch(shape: BatchShape, sizes: Sizes) -> Batch:
    """Random tokens of that shape, without padding."""
    generator = torch.Generator().manual_seed(0)
    query, target = (
        torch.randint(3, sizes.vocab_size, (shape.samples, length), generator=generator)
        for length in (shape.query, shape.target)
    )
    return Batch(
        features=torch.randn(shape.samples, shape.visual, sizes.feature_width, generator=generator),
        query=query,
        query_mask=torch.ones_like(query, dtype=torch.bool),
        target=target,
        target_mask=torch.ones_like(target, dtype=torch.bool),
        meaning=torch.arange(shape.samples),
        text=torch.arange(shape.samples),
        ids=[str(number) for number in range(shape.samples)],
    )

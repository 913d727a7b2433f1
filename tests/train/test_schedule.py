from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.config import OptimizerConfig
from archlab.train.schedule import learning_rate

configs = st.builds(
    OptimizerConfig,
    steps=st.integers(1, 300),
    learning_rate=st.floats(1e-5, 1.0),
    warmup_fraction=st.floats(0.0, 1.0),
    schedule=st.sampled_from(["cosine", "constant"]),
)


@given(configs)
def test_every_step_learns_and_none_exceeds_the_peak(config: OptimizerConfig) -> None:
    rates = [learning_rate(step, config) for step in range(config.steps)]
    assert all(0 < rate <= config.learning_rate for rate in rates)
    assert max(rates) == pytest.approx(config.learning_rate)


@given(configs)
def test_rises_through_the_warmup_and_never_rises_after_it(config: OptimizerConfig) -> None:
    rates = [learning_rate(step, config) for step in range(config.steps)]
    warmup = round(config.warmup_fraction * config.steps)
    assert all(before < after for before, after in pairwise(rates[:warmup]))
    assert all(before >= after for before, after in pairwise(rates[warmup:]))


def test_cosine_is_halfway_at_half_the_steps_and_near_zero_at_the_end() -> None:
    config = OptimizerConfig(steps=1000, learning_rate=2.0, warmup_fraction=0.2, schedule="cosine")
    assert learning_rate(99, config) == pytest.approx(1.0)
    assert learning_rate(200, config) == pytest.approx(2.0)
    assert learning_rate(600, config) == pytest.approx(1.0)
    assert learning_rate(999, config) < 1e-4


def test_constant_stays_at_the_peak_after_the_warmup() -> None:
    config = replace(OptimizerConfig(), steps=100, learning_rate=0.5, warmup_fraction=0.1, schedule="constant")
    assert {learning_rate(step, config) for step in range(10, 100)} == {0.5}

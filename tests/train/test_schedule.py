from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.config import OptimizerConfig
from archlab.train.schedule import learning_rate, share_of_peak

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


SHAPES = ("cosine", "constant", "wsd", "inverse-sqrt")


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from(SHAPES), st.floats(0.0, 1.0), st.floats(0.01, 1.0))
def test_every_shape_rises_through_the_warmup_and_never_after_it(
    steps: int, warmup: int, shape: str, final: float, decay: float
) -> None:
    warmup = min(warmup, steps)
    shares = [
        share_of_peak(step, steps, warmup, shape, final=final, decay_fraction=decay)  # type: ignore[arg-type]
        for step in range(steps)
    ]
    assert all(0 < share <= 1 for share in shares)
    assert max(shares) == pytest.approx(1.0)
    assert all(before < after for before, after in pairwise(shares[:warmup]))
    assert all(before >= after for before, after in pairwise(shares[warmup:]))


def test_wsd_is_stable_until_its_last_part_and_then_falls_in_a_line() -> None:
    shares = [share_of_peak(step, 100, 10, "wsd", decay_fraction=0.2, final=0.1) for step in range(100)]
    assert set(shares[10:81]) == {1.0}
    assert shares[90] == pytest.approx(0.55)
    assert shares[99] == pytest.approx(0.1 + 0.9 / 20)


def test_inverse_square_root_is_half_at_four_times_the_warmup() -> None:
    assert share_of_peak(9, 1000, 10, "inverse-sqrt") == 1.0
    assert share_of_peak(39, 1000, 10, "inverse-sqrt") == pytest.approx(0.5)


def test_cosine_ends_at_its_final_share() -> None:
    assert share_of_peak(999, 1000, 0, "cosine", final=0.1) == pytest.approx(0.1, abs=1e-5)


@given(configs)
def test_the_arms_rates_are_bit_for_bit_what_they_were(config: OptimizerConfig) -> None:
    """Committed results depend on them."""
    warmup = round(config.warmup_fraction * config.steps)
    for step in range(config.steps):
        if step < warmup:
            expected = config.learning_rate * ((step + 1) / warmup)
        elif config.schedule == "constant":
            expected = config.learning_rate
        else:
            angle = math.pi * (step - warmup) / (config.steps - warmup)
            expected = config.learning_rate * 0.5 * (1 + math.cos(angle))
        assert learning_rate(step, config) == expected

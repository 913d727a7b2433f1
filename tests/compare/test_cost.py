from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from archlab.compare.cost import cost_per_1000_requests, parameter_counts
from archlab.compare.flops import Sizes
from archlab.config import RunConfig
from archlab.vl.arms import build_arm


def _stack(width: int, depth: int, feed_forward: int) -> int:
    """Attention, gated feed-forward and two norms per layer, and the last norm."""
    return depth * (4 * width**2 + 3 * width * feed_forward + 2 * width) + width


def test_every_part_of_vljepa_is_counted(run: RunConfig, sizes: Sizes) -> None:
    arm = build_arm(run, sizes.feature_width, sizes.vocab_size, sizes.meanings)
    counts = parameter_counts(arm, encoder=nn.Linear(10, 10))
    assert counts["parts"] == {
        "backbone": 24 * 32 + 32 + 300 * 32 + _stack(32, 2, 88),
        "head": 32 * 20 + 20,
        "target_encoder": 300 * 48 + _stack(48, 1, 88) + 48 * 20 + 20,
        "decoder": 20 * 3 * 40 + 3 * 40 + 300 * 40 + _stack(40, 3, 56),
        "encoder_frozen": 110,
    }
    assert counts["total"] == sum(counts["parts"].values())
    assert counts["trainable"] == counts["total"] - 110


def test_the_token_arm_has_only_the_backbone(run: RunConfig, sizes: Sizes) -> None:
    arm = build_arm(replace(run, arm="token"), sizes.feature_width, sizes.vocab_size, sizes.meanings)
    counts = parameter_counts(arm)
    assert counts["parts"]["head"] == counts["parts"]["target_encoder"] == counts["parts"]["decoder"] == 0
    assert counts["trainable"] == counts["total"] == counts["parts"]["backbone"]


def test_frozen_parameters_are_not_trainable(run: RunConfig, sizes: Sizes) -> None:
    arm = build_arm(run, sizes.feature_width, sizes.vocab_size, sizes.meanings)
    arm.target_encoder.requires_grad_(False)
    counts = parameter_counts(arm)
    assert counts["total"] - counts["trainable"] == counts["parts"]["target_encoder"]


def test_the_price_of_requests_is_that_of_the_time_they_take() -> None:
    # Two a second: 1,000 take 500 seconds.
    assert cost_per_1000_requests(throughput_per_s=2.0, price_per_hour=3.6) == pytest.approx(0.5)

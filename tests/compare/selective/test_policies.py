"""Policies: how often they decode, what they look at, and what they may know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from archlab.compare.selective.policies import (
    LABELS,
    LIVE,
    ORACLES,
    POOLED,
    TRIGGERS,
    UNTUNED,
    allowed,
    budgets_of,
    peers,
    trigger_policy,
    ward_segments,
)
from archlab.compare.selective.trigger import TriggerConfig
from archlab.compare.selective.tuning import tune
from archlab.data.streams.stream import Segment, Stream

STARTS = (0, 10, 16, 31)
FRAMES = 40


class Seen:
    """A recording whose embeddings jump at `STARTS` and whose features jump at frame 20 alone; counts what is asked."""

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        segments = [
            Segment(start, stop, (f"text {start}",), f"meaning {start}")
            for start, stop in zip(STARTS, [*STARTS[1:], FRAMES], strict=True)
        ]
        self.stream = Stream(f"s{seed}", "what?", tuple(segments), lambda start, stop: np.zeros((0,), np.uint8))
        number = np.searchsorted(STARTS, np.arange(FRAMES), side="right") - 1
        drift = np.random.default_rng(seed).normal(size=(FRAMES, 4)) * noise
        self.rows = np.eye(4)[number] + drift
        self.raw = np.stack([np.arange(FRAMES) >= 20] * 60, 1).astype(np.float32)
        self.looked: set[int] = set()

    def embeddings(self, frames: Any) -> np.ndarray:
        self.looked |= set(frames)
        return self.rows[list(frames)]

    def features(self, frames: Any) -> torch.Tensor:
        return torch.from_numpy(self.raw[list(frames)]).unflatten(1, (-1, 4))


@pytest.mark.parametrize("name", [name for name in UNTUNED if name not in ORACLES])
@pytest.mark.parametrize("budget", [0.1, 0.5, 1.0, 3.0, 50.0])
def test_a_policy_decodes_exactly_as_often_as_it_may(name: str, budget: float) -> None:
    seen: Any = Seen(noise=0.1)
    decodes = UNTUNED[name](seen, budget)
    assert len(decodes) == allowed(seen, budget) == {0.1: 1, 0.5: 2, 1.0: 4, 3.0: 12, 50.0: FRAMES}[budget]
    assert sorted({decode.frame for decode in decodes}) == [decode.frame for decode in decodes]


@pytest.mark.parametrize("name", UNTUNED)
def test_texts_cover_the_stream_in_order_from_its_first_frame(name: str) -> None:
    decodes = UNTUNED[name](Seen(noise=0.1), 1.0)  # type: ignore[arg-type]
    assert decodes[0].since == 0
    for decode in decodes:
        first, last = decode.span
        assert 0 <= decode.since <= first <= decode.frame <= last < FRAMES


@pytest.mark.parametrize("name", LIVE)
def test_what_is_live_speaks_of_nothing_that_is_still_to_come(name: str) -> None:
    seen: Any = Seen(noise=0.1)
    live = {one: trigger_policy(view, {1.0: TriggerConfig(threshold=0.3)}) for one, view in TRIGGERS.items()} | UNTUNED
    for decode in live[name](seen, 1.0):
        assert decode.span[1] <= decode.since


def test_ward_and_the_trigger_find_the_true_boundaries() -> None:
    seen: Any = Seen(noise=0.05)
    assert [decode.since for decode in UNTUNED["ward"](seen, 1.0)] == list(STARTS)
    trigger = trigger_policy("embeddings", {1.0: TriggerConfig(threshold=0.5)})
    assert [decode.frame for decode in trigger(seen, 1.0)] == list(STARTS)


def test_what_watches_raw_features_sees_only_them() -> None:
    seen: Any = Seen()
    for name in ("ward-features", "ward-mean-features"):
        assert 20 in [decode.since for decode in UNTUNED[name](seen, 0.5)]
    trigger = trigger_policy("features", {1.0: TriggerConfig(threshold=0.5)})
    assert [decode.frame for decode in trigger(seen, 1.0)] == [0, 20]


def test_a_text_stands_in_the_middle_of_what_it_speaks_of_however_late_it_is_said() -> None:
    waits = trigger_policy("embeddings", {1.0: TriggerConfig(threshold=0.5, settle=9)})
    found = [(decode.frame, decode.since, decode.waited) for decode in waits(Seen(), 1.0)]  # type: ignore[arg-type]
    assert found == [(4, 8, 8), (12, 16, 6), (20, 24, 8), (35, 39, 8)]


def test_ward_merges_neighbours_in_time_only() -> None:
    """Without the chain, the first and the last frames would be one cluster."""
    rows = np.array([[0.0]] * 5 + [[1.0]] * 5 + [[0.0]] * 5)
    assert ward_segments(rows, 3) == [0, 5, 10]


def test_the_oracle_speaks_of_each_event_once_from_all_its_frames() -> None:
    decodes = UNTUNED["oracle"](Seen(), 1.0)  # type: ignore[arg-type]
    assert [decode.span for decode in decodes] == [(0, 9), (10, 15), (16, 30), (31, 39)]
    assert [decode.frame for decode in UNTUNED["oracle-live"](Seen(), 1.0)] == list(STARTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("reading", ["paired", "dense"])
def test_who_a_policy_is_compared_with_speaks_of_as_many_frames(reading: str) -> None:
    def frames(name: str) -> int:
        """Of the longest text; a policy that is tuned waits for eight frames if it waits."""
        config = TriggerConfig(threshold=0.5, settle=8 if name in POOLED else 1)
        live = {one: trigger_policy(view, {1.0: config}) for one, (view, _) in TRIGGERS.items()}
        decodes = (UNTUNED | live)[name](Seen(), 1.0)  # type: ignore[arg-type]
        return max(1 + decode.span[1] - decode.span[0] for decode in decodes)

    for name in LABELS:
        of = peers(name, reading)
        assert (frames(name) > 1) == (name in POOLED), name
        if reading == "paired":
            assert (frames(of.baseline) > 1) == (frames(of.oracle) > 1) == (frames(name) > 1), name
        else:
            assert frames(of.baseline) == frames(of.oracle) == 1


def test_what_is_tuned_is_measured_close_to_one_on_both_sides_and_an_oracle_at_one_alone() -> None:
    asked = [0.5, 1.0, 2.0]
    assert all(budgets_of(name, asked) == [0.5, 0.9, 1.0, 1.1, 2.0] for name in TRIGGERS)
    assert all(budgets_of(name, asked) == [1.0] for name in ORACLES)
    assert budgets_of("ward", asked) == asked


def test_uniform_decodes_middles_of_equal_windows_and_looks_at_nothing() -> None:
    seen: Any = Seen()
    assert [(d.since, d.frame, d.span) for d in UNTUNED["uniform"](seen, 0.5)] == [(0, 9, (9, 9)), (20, 29, (29, 29))]
    assert [d.span for d in UNTUNED["uniform-pooled"](seen, 0.5)] == [(0, 19), (20, 39)]
    assert [d.frame for d in UNTUNED["periodic"](seen, 0.5)] == [0, 20]
    assert seen.looked == set()


def test_random_boundaries_are_the_same_again_and_others_for_another_stream() -> None:
    def starts(seed: int) -> list[int]:
        return [decode.since for decode in UNTUNED["random"](Seen(seed=seed), 2.0)]  # type: ignore[arg-type]

    assert starts(0) == starts(0) != starts(1)


def test_every_policy_has_a_name_for_readers() -> None:
    assert set(LABELS) == {*UNTUNED, *TRIGGERS}


@pytest.mark.parametrize("view", ["embeddings", "features", "mean-features"])
def test_thresholds_are_tuned_to_the_asked_number_of_decodes(view: Any) -> None:
    recordings: Any = [Seen(noise=0.3, seed=seed) for seed in range(4)]
    for one in recordings:
        one.raw = np.concatenate([one.rows, np.zeros((FRAMES, 60))], 1)  # wider than long, the same distances
    tuned = tune(recordings, view, [0.5, 1.0, 2.0], TriggerConfig(window=3))
    for budget, one in tuned.items():
        assert one.rate == pytest.approx(budget, abs=0.15)
        policy = trigger_policy(view, {budget: one.config})
        assert sum(len(policy(seen, budget)) for seen in recordings) / 16 == pytest.approx(one.rate)
        assert one.config.window == 3
    assert tuned[0.5].config.threshold > tuned[1.0].config.threshold > tuned[2.0].config.threshold


def test_a_stream_in_which_nothing_moves_is_tuned_to_its_first_frame() -> None:
    still: Any = Seen()
    still.rows = np.ones((FRAMES, 3))
    assert tune([still], "embeddings", [1.0], TriggerConfig())[1.0].rate == 0.25

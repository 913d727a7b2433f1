"""The online trigger: causal, light, and Ward's criterion."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.compare.selective.trigger import Event, OnlineTrigger, PacedTrigger, TriggerConfig
from archlab.errors import UserError

A, B = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def watch(frames: list[np.ndarray], **settings: float) -> list[Event]:
    trigger = OnlineTrigger(TriggerConfig(**settings))  # type: ignore[arg-type]
    return [event for frame in frames if (event := trigger.update(frame)) is not None]


def squared_error(rows: np.ndarray) -> float:
    return float(np.square(rows - rows.mean(0)).sum())


def test_a_jump_is_spoken_in_its_first_frame() -> None:
    events = watch([A] * 5 + [B] * 5)
    assert [(event.start, event.frame) for event in events] == [(0, 0), (5, 5)]
    np.testing.assert_array_equal(events[1].embedding, B)


def test_what_stays_the_same_is_spoken_once() -> None:
    assert len(watch([A] * 100)) == 1


def test_the_future_changes_no_decision() -> None:
    generator = np.random.default_rng(0)
    frames = list(generator.normal(size=(40, 5)))
    whole = watch(frames, threshold=6.0)
    assert len(whole) > 3
    for length in range(1, 40):
        known = watch(frames[:length], threshold=6.0)
        assert [event.frame for event in known] == [event.frame for event in whole if event.frame < length]


@given(st.integers(0, 10_000), st.floats(0.5, 8.0), st.integers(1, 5))
def test_a_segment_begins_where_leaving_its_frames_would_cost_more_squared_error_than_the_threshold(
    seed: int, threshold: float, window: int
) -> None:
    """Against Ward's criterion, written down as it is defined: the squared error of one segment minus that of two."""
    frames = np.random.default_rng(seed).normal(size=(20, 3)).cumsum(0) / 2
    start, expected = 0, [0]
    for now in range(1, 20):
        costs = {
            begin: squared_error(frames[start : now + 1])
            - squared_error(frames[start:begin])
            - squared_error(frames[begin : now + 1])
            for begin in range(max(start + 1, now + 1 - window), now + 1)
        }
        begin = max(costs, key=lambda one: costs[one])
        if costs[begin] > threshold:
            start = begin
            expected.append(begin)
    assert [event.start for event in watch(list(frames), threshold=threshold, window=window)] == expected


def test_a_small_change_is_noticed_once_it_lasts() -> None:
    step = 0.8 * B
    events = watch([A] * 20 + [A + step] * 6, threshold=1.0, window=4)
    assert [(event.start, event.frame) for event in events] == [(0, 0), (20, 21)]
    assert len(watch([A] * 20 + [A + step] * 6, threshold=1.0, window=1)) == 1


def test_a_segment_settles_before_it_is_spoken_with_the_mean_of_its_frames() -> None:
    events = watch([A] * 9 + [3 * B, 3.2 * B, 3.4 * B, 3.4 * B], threshold=0.5, settle=3)
    assert [(event.start, event.last, event.frame) for event in events] == [(0, 2, 2), (9, 11, 11)]
    np.testing.assert_allclose(events[1].embedding, 3.2 * B)


def test_a_segment_that_ends_before_it_settles_is_spoken_when_it_ends() -> None:
    trigger = OnlineTrigger(TriggerConfig(settle=5))
    frames = [A] * 6 + [B] * 3 + [5 * A] * 2
    events = [event for frame in frames if (event := trigger.update(frame)) is not None]
    assert [(event.start, event.last, event.frame) for event in events] == [(0, 4, 4), (6, 8, 9)]
    np.testing.assert_allclose(events[1].embedding, B, atol=1e-12)
    last = trigger.finish()
    assert last is not None
    assert (last.start, last.last, last.frame) == (9, 10, 10)
    assert trigger.finish() is None


def test_a_trigger_that_saw_nothing_has_nothing_to_say() -> None:
    assert OnlineTrigger(TriggerConfig()).finish() is None


@given(st.integers(0, 10_000), st.floats(0.5, 8.0), st.integers(1, 12))
def test_waiting_changes_when_a_segment_is_spoken_and_not_how_many_are(
    seed: int, threshold: float, settle: int
) -> None:
    frames = np.random.default_rng(seed).normal(size=(30, 3)).cumsum(0) / 2

    def spoken(settle: int) -> list[Event]:
        trigger = OnlineTrigger(TriggerConfig(threshold=threshold, settle=settle))
        return [event for event in (*map(trigger.update, frames), trigger.finish()) if event is not None]

    at_once, later = spoken(1), spoken(settle)
    assert [event.start for event in later] == [event.start for event in at_once]
    for event in later:
        assert event.last <= event.frame < event.start + settle + TriggerConfig().window
        np.testing.assert_allclose(event.embedding, frames[event.start : event.last + 1].mean(0), atol=1e-9)


def test_a_higher_threshold_speaks_less() -> None:
    frames = list(np.random.default_rng(2).normal(size=(200, 4)))
    counts = [len(watch(frames, threshold=threshold)) for threshold in (0.01, 3.0, 8.0, 1000.0)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (200, 1)


def test_a_buffer_that_is_reused_does_no_harm() -> None:
    trigger, buffer, events = OnlineTrigger(TriggerConfig()), np.zeros(2), 0
    for frame in [A] * 4 + [B] * 4:
        buffer[:] = frame
        events += trigger.update(buffer) is not None
    assert events == 2


@pytest.mark.parametrize("wrong", [[[1.0, 2.0]], [1.0], [1.0, float("nan")]])
def test_a_wrong_embedding_is_refused_and_leaves_the_state_as_it_was(wrong: list[float]) -> None:
    trigger = OnlineTrigger(TriggerConfig())
    trigger.update(A)
    with pytest.raises(ValueError, match="embedding"):
        trigger.update(wrong)
    assert trigger.update(A) is None
    event = trigger.update(B)
    assert event is not None
    assert event.frame == 2


def test_settings_keep_their_rules() -> None:
    with pytest.raises(UserError, match=r"window=0: must be at least 1"):
        TriggerConfig(window=0)


def test_a_service_that_imports_the_trigger_imports_no_model_and_no_training() -> None:
    code = (
        "import sys, archlab.compare.selective.trigger\n"
        "loaded = [name for name in sys.modules if name.partition('.')[0] in ('torch', 'sklearn', 'transformers')]\n"
        "loaded += [name for name in sys.modules if name.startswith(('archlab.train', 'archlab.vl', 'archlab.data'))]\n"
        "sys.exit(' '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("begin", [0.5, 8.0])
@pytest.mark.parametrize("interval", [5.0, 20.0])
def test_a_paced_trigger_finds_the_threshold_that_gives_its_interval(begin: float, interval: float) -> None:
    frames = np.random.default_rng(0).normal(size=(8000, 4)).cumsum(0)
    trigger = PacedTrigger(TriggerConfig(threshold=begin), interval)
    for frame in frames:
        trigger.update(frame)
    assert trigger.segments == pytest.approx(len(frames) / interval, rel=0.1)


def test_a_paced_trigger_does_not_speak_of_noise_where_nothing_happens() -> None:
    noise = np.random.default_rng(0).normal(size=(3000, 4)) * 1e-3
    trigger = PacedTrigger(TriggerConfig(threshold=0.5), 10)
    for frame in noise:
        trigger.update(frame)
    assert trigger.segments == 1
    assert trigger.threshold == pytest.approx(0.05)


def test_segments_are_counted_as_they_begin() -> None:
    trigger = OnlineTrigger(TriggerConfig(settle=5))
    for frame in [A] * 6 + [B] * 3 + [5 * A] * 2:
        trigger.update(frame)
    assert trigger.segments == 3

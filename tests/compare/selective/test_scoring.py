"""Scoring: decodes paired with annotations, frames with what was said last, texts judged alike for all policies."""

from __future__ import annotations

import numpy as np
import pytest

from archlab.compare.selective.policies import Decode
from archlab.compare.selective.scoring import CIDER, TOLERANCE, Judge, events_found, paired, shown
from archlab.data.streams.stream import Segment, Stream
from archlab.evaluate.captioning import cider_d


def segments(*starts_and_end: int, texts: tuple[str, ...] = ()) -> tuple[Segment, ...]:
    starts, stops = starts_and_end[:-1], starts_and_end[1:]
    said = texts or tuple(f"thing {number}" for number in range(len(starts)))
    return tuple(Segment(start, stop, (text,), text) for start, stop, text in zip(starts, stops, said, strict=True))


def at(frame: int, since: int | None = None) -> Decode:
    return Decode(frame if since is None else since, (frame, frame))


def stream(parts: tuple[Segment, ...]) -> Stream:
    return Stream("s", "what?", parts, lambda start, stop: np.zeros((0,), np.uint8))


def test_an_annotation_is_paired_with_the_decode_nearest_to_its_middle() -> None:
    assert paired(segments(0, 10, 20, 30), [at(0), at(13), at(14), at(25)]) == [0, 2, 3]
    assert paired(segments(0, 9), [at(2), at(6)]) == [0]  # of two as near, the earlier one


def test_a_frame_shows_what_was_said_last() -> None:
    found = shown(segments(0, 10, 20), [at(2), at(8), at(15)])
    assert found == [(0, 0, 6), (0, 1, 2), (1, 1, 5), (1, 2, 5)]


def test_before_the_first_decode_a_frame_shows_nothing_and_scores_nothing() -> None:
    judge = Judge([stream(segments(0, 10, texts=("red",)))])
    judge.add(("me", 1.0), 0, [at(4)], ["red"])
    assert judge.sums()["me", 1.0]["dense"]["caption/exact"] == [6.0]


def test_an_offline_text_shows_from_the_first_frame_of_its_segment() -> None:
    assert shown(segments(0, 10, 20), [at(4, 0), at(14, 10)]) == [(0, 0, 10), (1, 1, 10)]


def said(judge: Judge, text: str) -> dict[str, list[float]]:
    """Sums of one text for the whole of the first stream, paired."""
    judge.add((text, 1.0), 0, [at(0)], [text])
    sums: dict[str, list[float]] = judge.sums()[text, 1.0]["paired"]
    return sums


def test_scenes_are_judged_by_their_facts_and_others_by_whether_texts_agree() -> None:
    scene = Judge([stream((Segment(0, 4, ("a small red circle",), "caption:a small red circle"),))])
    assert scene.facts == "caption/slots"
    assert said(scene, "a small red square")["caption/slots"] == [pytest.approx(2 / 3, abs=1e-4)]
    other = Judge([stream(segments(0, 4, texts=("Forest",)))])
    assert said(other, "forest")["caption/exact"] == [1.0]
    assert said(other, "a forest")["caption/exact"] == [0.0]


def test_an_event_is_found_by_one_cut_within_the_tolerance() -> None:
    parts = segments(0, 10, 20, 30, 40)
    near, far = 10 + TOLERANCE, 20 + TOLERANCE + 1
    assert events_found(parts, [at(0), at(near), at(far), at(30)]) == [TOLERANCE, 0]
    assert events_found(parts, [at(9), at(10), at(11)]) == [-1]  # two cuts of three find nothing
    assert events_found(segments(0, 10, 12, 30), [at(11)]) == [1]  # and a cut is not two events
    assert events_found(parts, [at(1)]) == []  # the beginning is no event
    assert events_found(parts, [Decode(16, (11, 16))]) == [6]  # said later than it was cut
    assert events_found(parts, [at(14, 10)]) == [0]  # the middle of a segment that was cut at the event


def test_where_cuts_lie_is_counted_stream_by_stream() -> None:
    judge = Judge([stream(segments(0, 10, 20)), stream(segments(0, 10, 20))])
    judge.add(("me", 1.0), 0, [Decode(0, (0, 8)), Decode(13, (9, 13))], ["a", "b"])
    judge.add(("me", 1.0), 1, [Decode(3, (3, 4)), Decode(6, (6, 6))], ["a", "b"])
    sums = judge.sums()["me", 1.0]
    assert (sums["cuts"], sums["found"], sums["delays"]) == ([1, 2], [1, 0], [3, 0])


def test_what_is_said_is_counted_stream_by_stream() -> None:
    judge = Judge([stream(segments(0, 5, 9, texts=("red", "blue"))), stream(segments(0, 9, texts=("blue",)))])
    judge.add(("me", 0.5), 0, [at(0)], ["red"])
    judge.add(("me", 0.5), 1, [Decode(6, (2, 3)), at(8)], ["blue", "red"])
    sums = judge.sums()["me", 0.5]
    assert (sums["decodes"], sums["waited"]) == ([1, 2], [0, 4])
    assert sums["paired"]["caption/exact"] == [1.0, 1.0]
    assert sums["dense"]["caption/exact"] == [5.0, 2.0]


def test_cider_weighs_words_by_the_annotations_however_often_a_policy_says_them() -> None:
    """Else a policy with many decodes would change the weights of the words by which all are judged."""
    texts = ("a red ring here", "a blue star there", "a red heart there")
    expected = cider_d(["a red heart"] * 3, [[text] for text in texts])
    judge = Judge([stream(segments(0, 5, 9, 14, texts=texts))])
    for number in range(4):  # of the first segment others say something else each time
        heart = "a red heart"
        judge.add(("other", number), 0, [at(2), at(6), at(11)], [f"a blue star {number}", heart, heart])
    np.testing.assert_allclose(said(judge, "a red heart")[CIDER], [expected.sum()], atol=1e-4)

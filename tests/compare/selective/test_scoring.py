"""Scoring: decodes paired with annotations, frames with what was said last, texts judged alike for all policies."""

from __future__ import annotations

import numpy as np
import pytest

from archlab.compare.selective.policies import Decode
from archlab.compare.selective.scoring import CIDER, Judge, Shown, held_against, paired, shown
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
    parts = segments(0, 10, texts=("red",))
    held = held_against(0, parts, [at(4)], ["red"])["dense"]
    (sums,) = Judge([stream(parts)]).sums([held])
    assert sums["caption/exact"] == [6.0]


def test_an_offline_text_shows_from_the_first_frame_of_its_segment() -> None:
    assert shown(segments(0, 10, 20), [at(4, 0), at(14, 10)]) == [(0, 0, 10), (1, 1, 10)]


def test_scenes_are_judged_by_their_facts_and_others_by_whether_texts_agree() -> None:
    scene = (Segment(0, 4, ("a small red circle",), "caption:a small red circle"),)
    judge = Judge([stream(scene)])
    assert judge.facts == "caption/slots"
    (sums,) = judge.sums([[Shown(0, 0, "a small red square", 1)]])
    assert sums["caption/slots"] == [pytest.approx(2 / 3)]
    other = Judge([stream(segments(0, 4, texts=("Forest",)))])
    right, wrong = other.sums([[Shown(0, 0, "forest", 3)], [Shown(0, 0, "a forest", 3)]])
    assert (right["caption/exact"], wrong["caption/exact"]) == ([3.0], [0.0])


def test_sums_are_kept_stream_by_stream_with_their_weights() -> None:
    both = [stream(segments(0, 5, 9, texts=("red", "blue"))), stream(segments(0, 9, texts=("blue",)))]
    (sums,) = Judge(both).sums([[Shown(0, 0, "red", 5), Shown(0, 1, "red", 4), Shown(1, 0, "blue", 9)]])
    assert sums["caption/exact"] == [5.0, 9.0]


def test_cider_weighs_words_by_the_annotations_whatever_a_policy_says_how_often() -> None:
    """Else a policy with many decodes would change the weights of the words by which all are judged."""
    texts = ("a red ring here", "a blue star there", "a red heart there")
    streams = [stream(segments(0, 5, 9, 14, texts=texts))]
    expected = cider_d(["a red heart"] * 3, [[text] for text in texts])
    every = [Shown(0, row, "a red heart", 1) for row in range(3)]
    (whole,) = Judge(streams).sums([every])
    assert whole[CIDER] == [pytest.approx(expected.sum())]
    (one,) = Judge(streams).sums([[*every[2:], Shown(0, 2, "a star", 0)]])
    assert one[CIDER] == [pytest.approx(expected[2])]

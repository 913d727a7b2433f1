"""Promises about reading text back: every form is understood exactly, and nothing ever raises."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.data.scenes import lexicon
from archlab.data.scenes.language import (
    HELD_OUT_WORDINGS,
    Caption,
    Clause,
    Description,
    answer_forms,
    caption_forms,
    wordings,
)
from archlab.data.scenes.parser import ParsedText, parse, slot_accuracy
from archlab.data.scenes.questions import candidates, scene_caption
from archlab.data.scenes.video import video_candidates
from archlab.data.scenes.world import COLOURS, SHAPES, SIZES, SceneConfig, sample_scenes

ALL_WORDINGS = wordings(32) + HELD_OUT_WORDINGS
descriptions = st.builds(
    Description, size=st.sampled_from(SIZES), colour=st.sampled_from(COLOURS), shape=st.sampled_from(SHAPES)
)
spoken = st.sampled_from(ALL_WORDINGS)
lists = st.lists(descriptions, min_size=1, max_size=5, unique=True)


def expected(meaning):
    kind, value = meaning.split(":")
    if kind in ("colour", "shape", "size"):
        return ParsedText(objects=[Description(**{kind: value})])
    if kind == "object":
        colour, shape = value.split()
        return ParsedText(objects=[Description(colour=colour, shape=shape)])
    if kind == "count":
        return ParsedText(counts=[int(value)])
    if kind in ("motion", "event"):
        return ParsedText(**{f"{kind}s": [(-1, value)]})
    return ParsedText(**{f"{kind}s": [value]})


def without_generic(parsed):
    """Leave out "the thing" of "the thing moves", and point its motions at no object."""
    if parsed.objects == [Description()]:
        parsed.objects.clear()
        parsed.motions[:] = [(-1, value) for _, value in parsed.motions]
        parsed.events[:] = [(-1, value) for _, value in parsed.events]
    return parsed


@pytest.mark.parametrize("table", [candidates(5), video_candidates()], ids=["pictures", "videos"])
def test_every_form_of_every_answer_is_read_exactly(table):
    for meaning in {meaning for answers in table.values() for meaning in answers.values()}:
        for text in answer_forms(meaning, ALL_WORDINGS):
            assert without_generic(parse(text)) == expected(meaning), text


@given(lists, spoken, st.sampled_from(sorted(lexicon.INVERSE)))
@settings(max_examples=400, deadline=None)
def test_every_form_of_a_caption_is_read_exactly(objects, wording, relation):
    caption = Caption(tuple(map(Clause, objects)), relation if len(objects) == 2 else None)
    parsed = parse(caption_forms(caption, (wording,))[0])
    order = objects[::-1] if wording.reverse else objects
    said = lexicon.INVERSE[relation] if wording.reverse else relation
    assert parsed == ParsedText(objects=order, relations=[(0, said, 1)] if len(objects) == 2 else [])


@given(lists, spoken, st.data())
@settings(max_examples=400, deadline=None)
def test_every_form_of_a_video_caption_is_read_exactly(objects, wording, data):
    motions = [data.draw(st.sampled_from(sorted(lexicon.MOTION_WORDS))) for _ in objects]
    events = [data.draw(st.sampled_from([None, *sorted(lexicon.EVENT_WORDS)])) for _ in objects]
    clauses = tuple(itertools.starmap(Clause, zip(objects, motions, events, strict=True)))
    parsed = parse(caption_forms(Caption(clauses), (wording,))[0])
    order = clauses[::-1] if wording.reverse else clauses
    assert parsed.objects == [clause.description for clause in order]
    assert parsed.motions == [(index, clause.motion) for index, clause in enumerate(order)]
    assert parsed.events == [(index, clause.event) for index, clause in enumerate(order) if clause.event]


@given(st.text())
def test_any_text_can_be_read(text):
    parse(text)
    assert 0 <= slot_accuracy(text, "a small red circle left of a large blue square") <= 1


tables = [table for name, table in vars(lexicon).items() if name.endswith("_WORDS") and isinstance(table, dict)]
phrases = [phrase for table in tables for row in table.values() for phrase in row]
fillers = ["a", "the", "that", "is", "and", ",", "in", "of", "object", "-", "9999999999", "plus-coloured"]
known_words = st.sampled_from(phrases + fillers)


@given(st.lists(known_words, max_size=60).map(" ".join), st.lists(known_words, max_size=30).map(" ".join))
@settings(deadline=None)
def test_any_jumble_of_known_words_is_scored_between_zero_and_one_and_symmetrically_at_one(text, reference):
    assert 0 <= slot_accuracy(text, reference) <= 1
    assert slot_accuracy(text, text) == 1


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("red circle blue square", [Description(None, "red", "circle"), Description(None, "blue", "square")]),
        ("A RED circle!! and blue", [Description(None, "red", "circle"), Description(None, "blue", None)]),
        ("circle circle circle", [Description(shape="circle")] * 3),
        ("the color is red", [Description(colour="red")]),
        ("small the red circle", [Description(size="small"), Description(None, "red", "circle")]),
        ("small", [Description(size="small")]),
        ("zzz", []),
        ("", []),
    ],
)
def test_broken_language_is_read_as_far_as_possible(text, objects):
    assert parse(text).objects == objects


def test_all_forms_of_a_scenes_caption_score_one():
    for scene in sample_scenes(40, SceneConfig(max_objects=5)):
        for text in caption_forms(scene_caption(scene), ALL_WORDINGS):
            assert slot_accuracy(text, scene) == 1, text


@pytest.mark.parametrize(
    ("predicted", "score"),
    [
        ("a small red circle left of a large blue square", 1),
        ("a large blue square right of a small red circle", 1),
        ("a small red circle right of a large blue square", 12 / 14),
        ("a small red circle left of a large green square", 12 / 14),
        ("a small red circle", 6 / 10),
        ("a small red circle and a large blue square", 12 / 13),
        ("a large blue circle left of a small red square", 2 * (2 + 2) / 14),
        ("yes", 0),
        ("", 0),
    ],
)
def test_slot_accuracy_counts_right_said_and_true_slots(predicted, score):
    # In the seventh case the best matching pairs objects by size and colour: four slots right, the relation inverted.
    assert slot_accuracy(predicted, "a small red circle left of a large blue square") == pytest.approx(score)


@pytest.mark.parametrize(
    "text",
    [
        "object left of large",
        "a red circle that moves left and a red circle that moves up",
        "a circle, a red circle that stops and a circle that starts",
        ", ".join(["a red circle that moves left, a red circle that moves up"] * 6),
    ],
)
def test_a_text_agrees_with_itself_even_if_it_names_things_twice(text):
    assert slot_accuracy(text, text) == 1


def test_listing_everything_does_not_win():
    everything = ", ".join(f"a {size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES)
    assert slot_accuracy(everything, "a small red circle") < 0.02
    assert slot_accuracy("red orange yellow green cyan blue purple pink", "red") == pytest.approx(2 / 9)


def test_short_answers_are_scored_by_meaning():
    assert slot_accuracy("it is crimson", "red") == 1
    assert slot_accuracy("blue", "red") == 0
    assert slot_accuracy("the count is 2", "two") == 1
    assert slot_accuracy("affirmative", "yes") == 1
    assert slot_accuracy("no", "yes") == 0
    assert slot_accuracy("upper left", "top left") == 1
    assert slot_accuracy("it drifts left", "moves left") == 1


def test_motion_and_event_belong_to_their_object():
    truth = "a small red circle that moves left and stops and a large blue square that stays still"
    swapped = "a small red circle that stays still and a large blue square that moves left and stops"
    assert slot_accuracy(swapped, truth) == pytest.approx(2 * 6 / 18)

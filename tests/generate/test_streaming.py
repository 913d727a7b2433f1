"""Pieces of text never split a character, never show a stop string, and add up to the text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.generate.streaming import Detokenizer, StopStrings

# The fixtures are read only; hypothesis asks for a new one per example otherwise.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=30)


@pytest.fixture(scope="session")
def pieces_of(byte_level):
    def pieces(text, tokenizer=byte_level, prompt=""):
        writer = Detokenizer(tokenizer, tokenizer.encode(prompt).ids)
        return [*map(writer.push, tokenizer.encode(text).ids), writer.flush()]

    return pieces


@pytest.fixture(scope="session")
def check_text(pieces_of):
    @given(text=TEXT | st.text("é½🙂你a ", max_size=30), prompt=TEXT)
    def check(text, prompt):
        pieces = pieces_of(text, prompt=prompt)
        assert "".join(pieces) == text
        assert "\ufffd" not in "".join(pieces)

    return check


def test_the_pieces_of_any_text_add_up_to_it_and_hold_whole_characters(check_text):
    check_text()


def test_a_character_of_several_tokens_comes_with_its_last_one(byte_level, pieces_of):
    assert len(byte_level.encode("🚀").ids) == 3  # not in the training texts: its first two bytes, then one by one
    assert pieces_of("🚀") == ["", "", "🚀", ""]


def test_half_a_character_at_the_end_is_shown_as_unreadable(byte_level):
    writer = Detokenizer(byte_level)
    assert [writer.push(token) for token in byte_level.encode("a🚀").ids[:-1]] == ["a", "", ""]
    assert writer.flush() == "\ufffd"


def test_special_tokens_have_no_text(byte_level):
    writer = Detokenizer(byte_level)
    assert [writer.push(token) for token in (1, *byte_level.encode("a").ids, 2, *byte_level.encode("b").ids)] == [
        *("", "a", "", "b")
    ]


def test_spaces_and_bytes_of_the_sentencepiece_manner(byte_fallback, pieces_of):
    assert pieces_of("hi hi🚀hi", byte_fallback)[:2] == ["hi", " hi"]
    assert "".join(pieces_of("hi hi🚀hi", byte_fallback)) == "hi hi🚀hi"
    writer = Detokenizer(byte_fallback, byte_fallback.encode("hi").ids)
    assert writer.push(byte_fallback.token_to_id("▁hi")) == " hi"
    assert Detokenizer(byte_fallback).push(byte_fallback.token_to_id("▁hi")) == "hi"


def shown(pieces, strings):
    stop = StopStrings(strings)
    out = [stop.push(piece) for piece in pieces]
    return [*out, stop.flush()], stop.found


@given(
    text=st.text("ab\n", max_size=20),
    strings=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
)
def test_a_stop_string_ends_the_text_wherever_the_pieces_are_cut(text, strings, cuts):
    complete = [end for end in range(len(text) + 1) if any(text[:end].endswith(string) for string in strings)]
    end = complete[0] if complete else None
    expected = text if end is None else text[: min(text[:end].find(s) for s in strings if text[:end].endswith(s))]
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    out, found = shown([text[start:stop] for start, stop in itertools.pairwise(places)], strings)
    assert ("".join(out), found) == (expected, end is not None)


def test_text_is_held_back_only_while_it_may_begin_a_stop_string():
    assert shown(["one", " E", "N", "d ", "END", "x"], ["END"]) == (["one", " ", "", "ENd ", "", "", ""], True)
    assert shown(["a E", "N"], ["END"]) == (["a ", "", "EN"], False)
    assert shown(["any", "thing"], []) == (["any", "thing", ""], False)

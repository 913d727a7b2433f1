"""Reads objects, relations and values back out of free text, whichever form or model wrote it.

The text is cut into words of the lexicon (the longest match wins, so "round shape" is one word); all other words are
dropped, except that a determiner, a comma or a second noun begins a new object. Nothing raises:
unknown text is skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from archlab.data.scenes import lexicon
from archlab.data.scenes.language import Description, caption_forms, wordings
from archlab.data.scenes.questions import scene_caption
from archlab.data.scenes.world import Scene


@dataclass
class ParsedText:
    """What a text says.

    Attributes:
        objects: in order of mention; an object with only a colour comes from a text like "it is red".
        relations: (first, relation, second), first and second indexing `objects`.
        motions, events: (index into `objects`, or -1 if no object was named before it; value).
        counts, truths, positions: the values said, in order.
    """

    objects: list[Description] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    motions: list[tuple[int, str]] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    truths: list[str] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)


ALIASES = {"color": "colour", "center": "centre", "centered": "centre", "colored": "coloured"}
BREAKS = {"a", "an", "the", ",", ";", "."}
POST_MODIFIERS = {"that", "which", "in", "of", "with", "whose"}


def _dictionary() -> dict[tuple[str, ...], tuple[str, str]]:
    """Every word or phrase of the lexicon, as a tuple of tokens, with its category and canonical value."""
    tables: dict[str, Mapping[str, Sequence[str]]] = {
        "size": lexicon.SIZE_WORDS,
        "colour": lexicon.COLOUR_WORDS,
        "noun": {**lexicon.SHAPE_WORDS, "": lexicon.GENERIC_WORDS},
        "relation": lexicon.RELATION_WORDS,
        "position": lexicon.POSITION_WORDS,
        "truth": lexicon.TRUTH_WORDS,
        "count": lexicon.COUNT_WORDS,
        "motion": lexicon.MOTION_WORDS,
        "event": lexicon.EVENT_WORDS,
    }
    entries = {}
    for category, table in tables.items():
        for value, phrases in table.items():
            for phrase in phrases:
                entries[tuple(phrase.split())] = (category, value)
                if category == "noun":
                    entries[tuple(lexicon.plural(phrase).split())] = (category, value)
    return entries


_DICTIONARY = _dictionary()
_LONGEST = max(map(len, _DICTIONARY))
_TOKEN = re.compile(r"[a-z0-9]+(?:-[a-z]+)*|[,;.]")


def parse(text: str) -> ParsedText:
    """Read a text. Never raises, whatever the text."""
    items = _items(text)
    parsed = ParsedText()
    builder = _ObjectBuilder(parsed)
    pending: tuple[int, str] | None = None  # a relation that waits for its second object
    for position, (category, value) in enumerate(items):
        if category == "other":
            builder.feed_other(value)
        elif category in ("size", "colour", "noun"):
            index = builder.feed(category, value)
            if pending is not None and index > pending[0]:
                parsed.relations.append((pending[0], pending[1], index))
                pending = None
        else:
            if category == "relation":
                pending = (builder.current, value) if builder.current >= 0 else None
                builder.close()
            elif category == "motion":
                parsed.motions.append((builder.current, value))
            elif category == "event":
                parsed.events.append((builder.current, value))
            elif category == "truth":
                parsed.truths.append(value)
            elif category == "position":
                parsed.positions.append(value)
            elif position + 1 == len(items) or items[position + 1][0] not in ("size", "colour", "noun"):
                parsed.counts.append(int(value))  # a number before a noun phrase is a determiner, not an answer
    return parsed


class _ObjectBuilder:
    """Collects size, colour and noun into objects; decides when the next object begins."""

    def __init__(self, parsed: ParsedText) -> None:
        self._objects = parsed.objects
        self.current = -1
        self._open = False
        self._has_noun = False
        self._after_noun = False  # inside "that is red and small", where adjectives belong to the noun before

    def close(self) -> None:
        self._open = False

    def feed_other(self, word: str) -> None:
        if word in BREAKS:
            self._open = False
        elif word in POST_MODIFIERS and self._has_noun:
            self._after_noun = True

    def feed(self, category: str, value: str) -> int:
        """Take one word; return the index of the object it went to."""
        name = "shape" if category == "noun" else category
        taken = self._open and getattr(self._objects[self.current], name) is not None
        second_noun = category == "noun" and self._has_noun
        bare_adjective = category != "noun" and self._has_noun and not self._after_noun
        if not self._open or taken or second_noun or bare_adjective:
            self._objects.append(Description())
            self.current = len(self._objects) - 1
            self._open, self._has_noun, self._after_noun = True, False, False
        if category == "noun":
            self._has_noun = True
        if value:
            self._objects[self.current] = self._objects[self.current]._replace(**{name: value})
        return self.current


def _items(text: str) -> list[tuple[str, str]]:
    """The text as (category, value) pairs; words outside the lexicon have the category "other"."""
    tokens = []
    for token in _TOKEN.findall(text.lower()):
        token = ALIASES.get(token, token)
        stem, _, suffix = token.rpartition("-")
        tokens.append(stem if suffix in ("coloured", "sized", "colored") else token)
    items = []
    start = 0
    while start < len(tokens):
        for length in range(min(_LONGEST, len(tokens) - start), 0, -1):
            entry = _DICTIONARY.get(tuple(tokens[start : start + length]))
            if entry is not None:
                break
        items.append(entry or ("other", tokens[start]))
        start += length
    return items


def slot_accuracy(predicted: str, truth: str | Scene) -> float:
    """How much of the truth a text says, and how little else: the F1 of its slots, 0 to 1.

    A slot is one size, colour or shape of an object, one relation, motion or event, or one count, truth or position.
    Objects are matched one to one so that the most attributes agree; relations, motions and events count under that
    matching, and a relation equals its inverse with the objects swapped. F1 = 2 * right / (said + true): listing
    everything raises "said" and does not win. Two texts without any slot agree (1).

    Args:
        predicted: the text to judge.
        truth: a reference text, or a scene, which stands for its canonical caption.
    """
    true = parse(truth if isinstance(truth, str) else caption_forms(scene_caption(truth), wordings(1))[0])
    said = parse(predicted)
    total = _slot_count(said) + _slot_count(true)
    if total == 0:
        return 1.0
    right, match = _match(said.objects, true.objects)
    right += _common(_placed_relations(said, match), _placed_relations(true, None))
    for said_pairs, true_pairs in ((said.motions, true.motions), (said.events, true.events)):
        right += _common([(match.get(index, index), value) for index, value in said_pairs], true_pairs)
    right += _common(said.counts, true.counts) + _common(said.truths, true.truths)
    right += _common(said.positions, true.positions)
    return 2 * right / total


def _slot_count(parsed: ParsedText) -> int:
    attributes = sum(value is not None for one in parsed.objects for value in one)
    return attributes + sum(
        len(values)
        for values in (
            parsed.relations,
            parsed.motions,
            parsed.events,
            parsed.counts,
            parsed.truths,
            parsed.positions,
        )
    )


def _common(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """How many entries two lists share, repeated ones counted as often as both hold them."""
    return (Counter(first) & Counter(second)).total()


_SEARCHED_OBJECTS = 8  # the exact search is exponential in this; scenes hold five objects at most


def _match(said: list[Description], true: list[Description]) -> tuple[int, dict[int, int]]:
    """The one-to-one matching with the most equal attributes: their number, and true index by said index.

    Among equally good matchings, equal descriptions and then equal ranks are preferred, so that a text agrees with
    itself. Objects without anything in common are not matched; they map to -2, which no true slot has. Against more
    than eight true objects the best pairs are taken greedily.
    """
    values = [
        [_likeness(one, other, rank == column) for column, other in enumerate(true)] for rank, one in enumerate(said)
    ]
    pairs = _best_pairs(values) if len(true) <= _SEARCHED_OBJECTS else _greedy_pairs(values)
    match = {rank: pairs.get(rank, -2) for rank in range(len(said))}
    return sum(values[rank][column] // 100_000 for rank, column in pairs.items()), match


def _likeness(one: Description, other: Description, same_rank: bool) -> int:
    """100,000 per equal attribute, plus bonuses too small to outweigh one; 0 if there is nothing in common."""
    equal = sum(x is not None and x == y for x, y in zip(one, other, strict=True))
    if not equal and one != other:
        return 0
    return 100_000 * equal + 100 * (one == other) + same_rank


def _best_pairs(values: list[list[int]]) -> dict[int, int]:
    """The pairs (row: column) of the greatest total value, by dynamic programming over the set of used columns."""
    best: dict[int, tuple[int, dict[int, int]]] = {0: (0, {})}
    for row, row_values in enumerate(values):
        following = dict(best)
        for used, (total, pairs) in best.items():
            for column, value in enumerate(row_values):
                key = used | 1 << column
                if value and key != used and total + value > following.get(key, (-1,))[0]:
                    following[key] = (total + value, {**pairs, row: column})
        best = following
    return max(best.values(), key=lambda entry: entry[0])[1]


def _greedy_pairs(values: list[list[int]]) -> dict[int, int]:
    """Pairs (row: column), the most valuable first."""
    ranked = sorted((-value, row, column) for row, entries in enumerate(values) for column, value in enumerate(entries))
    pairs: dict[int, int] = {}
    taken = set()
    for negative, row, column in ranked:
        if negative and row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return pairs


def _placed_relations(parsed: ParsedText, match: dict[int, int] | None) -> list[tuple[int, str, int]]:
    """Relations over true indices, each turned so that "left of" and "above" are the only ones."""
    placed = []
    for first, relation, second in parsed.relations:
        if match is not None:
            first, second = match[first], match[second]
        if relation in ("right of", "below"):
            first, relation, second = second, lexicon.INVERSE[relation], first
        placed.append((first, relation, second))
    return placed

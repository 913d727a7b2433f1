"""Many surface forms for one meaning: the paraphrase dial.

A meaning (what an object is, what is asked, what is answered) is said in K forms. Forms differ in frame, in synonyms,
in the shape of noun phrases and in the order of objects. The K forms of a small dial begin those of a larger one, and
form 0 is short and canonical. Four further forms per text use frames and noun phrases that no training form uses.

Forms are made when read, not stored: 100,000 examples of 32 forms would otherwise be millions of strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

from archlab.data.scenes import frames, lexicon
from archlab.data.scenes.world import COLOURS, SHAPES, SIZES
from archlab.errors import UserError

PARAPHRASES = (1, 2, 4, 8, 32)


class Description(NamedTuple):
    """What is said of an object; None is left unsaid."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None


class Question(NamedTuple):
    """What is asked: a key of `frames.QUESTIONS`, the objects it names and, if it has one, the relation."""

    frame: str
    first: Description = Description()
    second: Description = Description()
    relation: str | None = None


class Clause(NamedTuple):
    """One object of a caption; motion and events are said in videos only."""

    description: Description
    motion: str | None = None
    event: str | None = None


class Caption(NamedTuple):
    """A scene in words. `relation` is that of the first to the second of exactly two objects."""

    clauses: tuple[Clause, ...]
    relation: str | None = None


@dataclass(frozen=True, slots=True)
class Wording:
    """How to say something.

    Attributes:
        frame: which sentence frame, counted from the first training frame or from the first held-out one.
        held_out: whether `frame` is a held-out one.
        words: which synonym.
        phrase: which noun phrase.
        opening: which opening of a question.
        reverse: whether to name the objects of a caption in reverse order.
    """

    frame: int
    held_out: bool
    words: int
    phrase: int
    opening: int
    reverse: bool


class Spoken(NamedTuple):
    """How the examples of a split are said: the wordings of what is asked, and of what is to be said."""

    queries: tuple[Wording, ...]
    targets: tuple[Wording, ...]


@dataclass(frozen=True, slots=True)
class Forms(Sequence[str]):
    """The surface forms of one meaning, formatted when read.

    Attributes:
        say: turns a meaning and a wording into a string; a module-level function, so that forms can be pickled.
        meaning: what is said.
        wordings: one per form, of the sort that `say` reads.
    """

    say: Callable[[Any, Any], str]
    meaning: Any
    wordings: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.wordings)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self.say(self.meaning, wording) for wording in self.wordings[index])
        return self.say(self.meaning, self.wordings[index])


def _plan() -> tuple[Wording, ...]:
    """Every frame with every synonym. Small dials share synonyms, larger ones do not: overlap falls as K grows."""
    first_words = (0, 0, 1, 0, 1, 0, 1, 1)
    first_phrases = (0, 1, 3, 2, 4, 5, 1, 3)
    plan = []
    for index in range(32):
        turn, first = divmod(index, 8)
        plan.append(
            Wording(
                frame=index % 16,
                held_out=False,
                words=(first_words[first] + turn) % 4,
                phrase=(first_phrases[first] + turn) % frames.TRAINING_PHRASES,
                opening=0 if index < 8 else (index * 3 + turn) % len(frames.OPENINGS),
                reverse=index % 2 == 1,
            )
        )
    return tuple(plan)


def _frame(training: tuple[str, ...], held_out: tuple[str, ...], wording: Wording) -> str:
    """The frame that a wording picks; a short table serves a wording's sixteen frames twice, with other synonyms."""
    return held_out[wording.frame] if wording.held_out else training[wording.frame % len(training)]


_TRAINING_WORDINGS = _plan()

# Unseen frames and noun phrases, but no unseen synonyms: the test asks about new sentences, not about new words.
HELD_OUT_WORDINGS = tuple(
    Wording(
        frame=index,
        held_out=True,
        words=index % 2,
        phrase=frames.TRAINING_PHRASES + index // 2,
        opening=0,
        reverse=index % 2 == 1,
    )
    for index in range(frames.HELD_OUT_FRAMES)
)


def wordings(paraphrases: int, name: str = "paraphrases") -> tuple[Wording, ...]:
    """The wordings of a dial setting; smaller settings are prefixes of larger ones.

    Args:
        name: of the setting, for whoever mistook it.

    Raises:
        UserError: `paraphrases` is not one of `PARAPHRASES`.
    """
    if isinstance(paraphrases, bool) or paraphrases not in PARAPHRASES:
        raise UserError(f"{name} = {paraphrases!r} is not on the dial: choose one of {PARAPHRASES}")
    return _TRAINING_WORDINGS[:paraphrases]


def in_all_forms(texts: Sequence[str]) -> Sequence[str]:
    """What a meaning is said in at the largest setting of the dial; held-out forms and other texts stay as they are."""
    if not isinstance(texts, Forms) or texts.wordings[0].held_out:
        return texts
    return replace(texts, wordings=_TRAINING_WORDINGS)


def question_forms(question: Question, spoken: tuple[Wording, ...]) -> Forms:
    """The forms of a question (or of a request to describe a picture)."""
    return Forms(_say_question, question, spoken)


def answer_forms(meaning: str, spoken: tuple[Wording, ...]) -> Forms:
    """The forms of an answer, given its meaning id such as "colour:red". They name the value, never the subject."""
    return Forms(_say_answer, meaning, spoken)


def caption_forms(caption: Caption, spoken: tuple[Wording, ...]) -> Forms:
    """The forms of a caption."""
    return Forms(_say_caption, caption, spoken)


def caption_meaning(caption: Caption) -> str:
    """The meaning id of a caption: its canonical form, which says everything that every other form says."""
    return "caption:" + _say_caption(caption, _TRAINING_WORDINGS[0])


def noun_phrase(description: Description, wording: Wording) -> str:
    """An object in words, without an article: "small red circle"."""
    return _phrase(description, wording, _noun(description, wording))


def _noun(description: Description, wording: Wording) -> str:
    words = lexicon.GENERIC_WORDS if description.shape is None else lexicon.SHAPE_WORDS[description.shape]
    return words[wording.words]


def _phrase(description: Description, wording: Wording, noun: str) -> str:
    size = "" if description.size is None else lexicon.SIZE_WORDS[description.size][wording.words]
    colour = "" if description.colour is None else lexicon.COLOUR_WORDS[description.colour][wording.words]
    given = ("s" if size else "") + ("c" if colour else "")
    return frames.PHRASES[given][wording.phrase].format(s=size, c=colour, n=noun)


def _say_question(question: Question, wording: Wording) -> str:
    slots = _common_slots(wording)
    first = noun_phrase(question.first, wording)
    plural_phrase = _phrase(question.first, wording, lexicon.plural(_noun(question.first, wording)))
    slots["r"] = f"the {first}"
    slots["a"] = lexicon.with_article(first)
    slots["p"] = plural_phrase.replace(" that is ", " that are ").replace(" which is ", " which are ")
    slots["q"] = f"the {noun_phrase(question.second, wording)}"
    if question.relation is not None:
        slots["rel"] = lexicon.RELATION_WORDS[question.relation][wording.words]
    table = frames.QUESTIONS[question.frame]
    sentence = f"{frames.OPENINGS[wording.opening]} {_frame(table[:8], table[8:], wording)}"
    return sentence.strip().format(**slots)


def _say_answer(meaning: str, wording: Wording) -> str:
    kind, value = meaning.split(":", 1)
    slots = _common_slots(wording)
    if kind == "object":
        colour, shape = value.split(" ")
        slots["v"] = noun_phrase(Description(colour=colour, shape=shape), wording)
    else:
        slots["v"] = ANSWER_WORDS[kind][value][wording.words]
    slots["a"] = lexicon.with_article(slots["v"])
    table = frames.ANSWERS[kind]
    return _frame(table[:8] + frames.MORE_ANSWERS, table[8:], wording).format(**slots)


ANSWER_WORDS = {
    "colour": lexicon.COLOUR_WORDS,
    "shape": lexicon.SHAPE_WORDS,
    "size": lexicon.SIZE_WORDS,
    "position": lexicon.POSITION_WORDS,
    "count": lexicon.COUNT_WORDS,
    "truth": lexicon.TRUTH_WORDS,
    "motion": lexicon.MOTION_WORDS,
    "event": lexicon.EVENT_WORDS,
}


def _say_caption(caption: Caption, wording: Wording) -> str:
    def name(description: Description) -> str:
        return lexicon.with_article(noun_phrase(description, wording))

    table = frames.CAPTIONS
    listing = listed(caption, name, wording.words, reverse=wording.reverse)
    return _frame(table[:8], table[8:], wording).format(list=listing, **_common_slots(wording))


def listed(caption: Caption, name: Callable[[Description], str], words: int, *, reverse: bool) -> str:
    """The objects of a caption side by side, or in their relation.

    Args:
        name: an object in words.
        words: which synonym of motions, events and relations.
        reverse: whether to begin with the last object.
    """
    clauses, relation = caption.clauses, caption.relation
    if reverse:
        clauses = clauses[::-1]
        relation = None if relation is None else lexicon.INVERSE[relation]
    spoken = [_clause(clause, name(clause.description), words) for clause in clauses]
    if relation is not None:
        return f"{spoken[0]} {lexicon.RELATION_WORDS[relation][words]} {spoken[1]}"
    return f"{', '.join(spoken[:-1])} and {spoken[-1]}" if len(spoken) > 1 else spoken[0]


def _clause(clause: Clause, spoken: str, words: int) -> str:
    if clause.motion is not None:
        spoken += f" that {lexicon.MOTION_WORDS[clause.motion][words]}"
    if clause.event is not None:
        spoken += f" and {lexicon.EVENT_WORDS[clause.event][words]}"
    return spoken


def _common_slots(wording: Wording) -> dict[str, str]:
    return {"i": lexicon.PICTURE_WORDS[wording.words], "g": lexicon.GENERIC_WORDS[wording.words]}


def caption_order(description: Description) -> tuple[int, int, int]:
    """The sort key of objects in a canonical caption: large ones first, then by colour and shape.

    Raises:
        ValueError: a part of the description is missing.
    """
    size, colour, shape = description
    return SIZES.index(size or ""), COLOURS.index(colour or ""), SHAPES.index(shape or "")

"""Captions in sentences that no training form has, over words that training hears at every K.

The held-out forms of `data.scenes.language` bring synonyms and words of frames that a small dial never utters: there a
low score may be due to a word as well as to a sentence. The forms here put words of the canonical captions, which every
dial utters, into another order, so that nothing but the syntax is new, and that at every K.

Only captions are reworded. Queries are those of the split: how targets are said is what K turns. Answers of one or two
words have no other syntax.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import NamedTuple

from archlab.data.example import Example, Split
from archlab.data.scenes import lexicon
from archlab.data.scenes.language import Caption, Description, Forms, listed
from archlab.errors import UserError

SYNTAX = "test_syntax"
"""Name of the split "test" whose captions are reworded."""


class Syntax(NamedTuple):
    """How the words of a canonical caption are put together: the noun phrase, and whether the last object is first."""

    phrase: str
    reverse: bool


# No article but "a" where a size follows: "an" is in no canonical caption.
SYNTAXES = (
    Syntax("a {s} and {c} {n}", reverse=False),
    Syntax("{s} {c} {n}", reverse=True),
    Syntax("{c} {s} {n}", reverse=False),
    Syntax("{c} and {s} {n}", reverse=True),
)


def syntax_forms(caption: Caption, first: int = 0) -> Forms:
    """The forms of a caption, beginning with the `first` syntax."""
    return Forms(_say, caption, SYNTAXES[first:] + SYNTAXES[:first])


def in_new_syntax(split: Split) -> Split:
    """The split with reworded captions; successive ones begin with different syntaxes.

    Raises:
        UserError: its captions are not those of built-in scenes.
    """
    examples: list[Example] = []
    captions = 0
    for one in split.examples:
        if one.task == "caption":
            if not isinstance(one.targets, Forms):
                raise UserError(f"split {SYNTAX!r}: rewords captions of the built-in scenes alone; leave it out")
            one = replace(one, targets=syntax_forms(one.targets.meaning, captions % len(SYNTAXES)))
            captions += 1
        examples.append(one)
    digest = hashlib.sha256(f"{split.digest} {SYNTAXES}".encode()).hexdigest()
    return replace(split, name=SYNTAX, examples=examples, digest=digest)


def _say(caption: Caption, syntax: Syntax) -> str:
    def name(description: Description) -> str:
        size, colour, shape = (part or "" for part in description)
        words = lexicon.SIZE_WORDS[size][0], lexicon.COLOUR_WORDS[colour][0], lexicon.SHAPE_WORDS[shape][0]
        return syntax.phrase.format(**dict(zip("scn", words, strict=True)))

    return listed(caption, name, 0, reverse=syntax.reverse)

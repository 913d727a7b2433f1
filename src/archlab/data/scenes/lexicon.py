"""Words: the synonyms of every name in the world. The first of each row is canonical.

All rows hold four words, so that one index, a wording's `words`, picks a synonym everywhere. No word occurs in two
rows: that is what makes a sentence mean one thing only.
"""

from __future__ import annotations

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "large": ("large", "big", "huge", "sizeable"),
    "small": ("small", "little", "tiny", "mini"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet", "ruby"),
    "orange": ("orange", "tangerine", "amber", "apricot"),
    "yellow": ("yellow", "golden", "lemon", "canary"),
    "green": ("green", "emerald", "jade", "viridian"),
    "cyan": ("cyan", "turquoise", "aqua", "teal"),
    "blue": ("blue", "azure", "cobalt", "navy"),
    "purple": ("purple", "violet", "plum", "mauve"),
    "pink": ("pink", "rose", "blush", "fuchsia"),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "round shape", "dot"),
    "square": ("square", "box", "block", "tile"),
    "triangle": ("triangle", "wedge", "three-sided shape", "pyramid"),
    "star": ("star", "asterisk", "five-pointed shape", "pentagram"),
    "cross": ("cross", "plus", "plus sign", "plus shape"),
    "ring": ("ring", "hoop", "loop", "band"),
    "diamond": ("diamond", "rhombus", "lozenge", "kite"),
    "heart": ("heart", "valentine", "love heart", "heart shape"),
}
GENERIC_WORDS = ("object", "thing", "item", "figure")  # a noun for "something of any shape"

RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left side of", "leftward of"),
    "right of": ("right of", "to the right of", "on the right side of", "rightward of"),
    "above": ("above", "over", "higher than", "further up than"),
    "below": ("below", "under", "lower than", "further down than"),
}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "top left": ("top left", "upper left", "left-hand top", "upper left-hand"),
    "top right": ("top right", "upper right", "right-hand top", "upper right-hand"),
    "bottom left": ("bottom left", "lower left", "left-hand bottom", "lower left-hand"),
    "bottom right": ("bottom right", "lower right", "right-hand bottom", "lower right-hand"),
    "centre": ("centre", "middle", "central", "mid"),
}
TRUTH_WORDS: dict[str, tuple[str, ...]] = {
    "yes": ("yes", "correct", "true", "affirmative"),
    "no": ("no", "incorrect", "false", "negative"),
}
COUNT_WORDS: dict[str, tuple[str, ...]] = {
    "0": ("zero", "0", "nil", "none"),
    "1": ("one", "1", "single", "singleton"),
    "2": ("two", "2", "pair", "couple"),
    "3": ("three", "3", "trio", "triple"),
    "4": ("four", "4", "quartet", "foursome"),
    "5": ("five", "5", "quintet", "fivesome"),
}
PICTURE_WORDS = ("picture", "image", "scene", "view")

# Videos. A verb of motion is always followed by a direction, so "left" alone is never mistaken for one.
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("moves left", "drifts left", "travels leftwards", "slides leftwards"),
    "right": ("moves right", "drifts right", "travels rightwards", "slides rightwards"),
    "up": ("moves up", "drifts up", "travels upwards", "slides upwards"),
    "down": ("moves down", "drifts down", "travels downwards", "slides downwards"),
    "still": ("stays still", "rests", "remains motionless", "keeps its place"),
}
EVENT_WORDS: dict[str, tuple[str, ...]] = {
    "appears": ("appears", "emerges", "enters", "comes into being"),
    "disappears": ("disappears", "vanishes", "leaves", "fades out"),
    "changes colour": ("changes colour", "is recoloured", "alters its hue", "takes another colour"),
    "stops": ("stops", "halts", "comes to rest", "ceases to move"),
    "starts": ("starts", "sets off", "begins to move", "gets going"),
}


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of a noun of this lexicon."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")

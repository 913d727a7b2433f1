"""Where objects are, in words. A word is used only when it is beyond doubt: between the margins nothing is asserted."""

from __future__ import annotations

from archlab.data.scenes.world import RELATION_MARGIN, SceneObject

RELATIONS = ("left of", "right of", "above", "below")
POSITIONS = ("top left", "top right", "bottom left", "bottom right", "centre")

CENTRE_REACH = 0.10  # the centre cell ends this far from the middle, in picture widths
CORNER_REACH = 0.15  # a corner cell begins this far from it


def offset(first: SceneObject, second: SceneObject, relation: str) -> float:
    """How far `first` lies from `second` in the direction of the relation, in picture widths; negative if opposite."""
    along = first.x - second.x if relation in ("left of", "right of") else first.y - second.y
    return along if relation in ("right of", "below") else -along


def holds(first: SceneObject, second: SceneObject, relation: str) -> bool | None:
    """Whether "first is <relation> second" is true; None if it is too close to say."""
    distance = offset(first, second, relation)
    if abs(distance) < RELATION_MARGIN:
        return None
    return distance > 0


def dominant_relation(first: SceneObject, second: SceneObject) -> str:
    """The relation of `first` to `second` along the axis on which they are further apart."""
    return max(RELATIONS, key=lambda relation: offset(first, second, relation))


def position(one: SceneObject) -> str | None:
    """The cell an object is in; None between the cells."""
    right, down = one.x - 0.5, one.y - 0.5
    if max(abs(right), abs(down)) <= CENTRE_REACH:
        return "centre"
    if min(abs(right), abs(down)) < CORNER_REACH:
        return None
    return f"{'top' if down < 0 else 'bottom'} {'left' if right < 0 else 'right'}"

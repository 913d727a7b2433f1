"""Questions about a scene, with answers that follow from its truth.

Promises: whoever a question names is the only object of that description, described as briefly as uniqueness allows; a
question never contains its answer; and no ordinary question mentions a held-out pair, not even to deny it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

from archlab.data.scenes import lexicon
from archlab.data.scenes.geometry import POSITIONS, RELATIONS, dominant_relation, holds, position
from archlab.data.scenes.language import Caption, Clause, Description, Question, caption_order
from archlab.data.scenes.world import ALL_PAIRS, COLOURS, HELD_OUT_PAIRS, SHAPES, SIZES, Draws, Scene, SceneObject

KINDS = ("colour", "shape", "size", "count", "exists", "relation", "relation_shape", "position", "object")

# Small counts are possible in every scene, large ones in few: these odds make them about equally frequent as answers.
COUNT_ODDS = {0: 0.42, 1: 0.45, 2: 0.95, 3: 2.0, 4: 5.0, 5: 8.0}

CENTRE_SKIPPED = 0.45  # share of objects at the centre whose position is not asked, so that no cell is a safe guess


class Asked(NamedTuple):
    """A question of a kind, and the meaning id of its answer."""

    kind: str
    question: Question
    meaning: str


def describe(one: SceneObject) -> Description:
    """All that words say of an object."""
    return Description(one.size, one.colour, one.shape)


def matches(one: SceneObject, description: Description) -> bool:
    """Whether an object fits a description."""
    return all(said is None or said == true for said, true in zip(description, describe(one), strict=True))


def scene_caption(scene: Scene) -> Caption:
    """The canonical caption: all objects, large ones first, then by colour and shape; of two, also their relation."""
    objects = sorted(scene.objects, key=lambda one: caption_order(describe(one)))
    relation = dominant_relation(*objects) if len(objects) == 2 else None
    return Caption(tuple(Clause(describe(one)) for one in objects), relation)


def ask(scene: Scene, draws: Draws, count: int) -> list[Asked]:
    """`count` distinct questions about a scene, of different kinds as far as the scene allows."""
    asked: list[Asked] = []
    while len(asked) < count:
        kinds = list(KINDS)
        while kinds and len(asked) < count:
            one = _ASKERS[kinds.pop(draws.index(len(kinds)))](scene, draws)
            if one is not None and all(one.question != earlier.question for earlier in asked):
                asked.append(one)
    return asked


def candidates(max_objects: int) -> dict[str, dict[str, str]]:
    """Per kind, the canonical answers and their meaning ids: {"colour": {"red": "colour:red", ...}, ...}."""
    shapes = {shape: f"shape:{shape}" for shape in SHAPES}
    truths = {truth: f"truth:{truth}" for truth in ("yes", "no")}
    return {
        "colour": {colour: f"colour:{colour}" for colour in COLOURS},
        "shape": shapes,
        "size": {size: f"size:{size}" for size in SIZES},
        "count": {lexicon.COUNT_WORDS[str(n)][0]: f"count:{n}" for n in range(max_objects + 1)},
        "exists": truths,
        "relation": truths,
        "relation_shape": shapes,
        "position": {cell: f"position:{cell}" for cell in POSITIONS},
        "object": {f"{colour} {shape}": f"object:{colour} {shape}" for colour, shape in ALL_PAIRS},
    }


def refer(scene: Scene, target: SceneObject, draws: Draws, *, hide: str = "") -> Description | None:
    """A shortest description that fits the target and no other object; None if there is none without `hide`."""
    usable = [name for name in ("shape", "colour", "size") if name != hide]
    for length in range(len(usable) + 1):
        fitting = []
        for names in combinations(usable, length):
            description = Description(**{name: getattr(target, name) for name in names})
            if sum(matches(one, description) for one in scene.objects) == 1:
                fitting.append(description)
        if fitting:
            return fitting[draws.index(len(fitting))]
    return None


def _ask_attribute(name: str) -> Callable[[Scene, Draws], Asked | None]:
    def ask_attribute(scene: Scene, draws: Draws) -> Asked | None:
        target = scene.objects[draws.index(len(scene.objects))]
        description = refer(scene, target, draws, hide=name)
        if description is None:
            return None
        return Asked(name, Question(name, description), f"{name}:{getattr(target, name)}")

    return ask_attribute


def _ask_count(scene: Scene, draws: Draws) -> Asked | None:
    questions: dict[int, list[Question]] = defaultdict(list)
    questions[len(scene.objects)].append(Question("count", Description()))
    filters = [Description(colour=colour) for colour in COLOURS] + [Description(shape=shape) for shape in SHAPES]
    for description in filters:
        questions[sum(matches(one, description) for one in scene.objects)].append(Question("count", description))
    values = sorted(questions)
    threshold = draws.uniform(0, sum(COUNT_ODDS[value] for value in values))
    chosen = values[-1]
    for value in values:
        threshold -= COUNT_ODDS[value]
        if threshold < 0:
            chosen = value
            break
    options = questions[chosen]
    # "how many objects" is one option among many filters: ask it half of the time where it fits
    question = options[0] if draws.uniform() < 0.5 else options[draws.index(len(options))]
    return Asked("count", question, f"count:{chosen}")


def _ask_exists(scene: Scene, draws: Draws) -> Asked | None:
    """Half yes, half no. A "no" differs in one attribute from an object that is there: a glance is not enough."""
    present = draws.uniform() < 0.5
    true = scene.objects[draws.index(len(scene.objects))]
    template = (("colour", "shape"), ("size", "shape"), ("size", "colour"), ("size", "colour", "shape"))[draws.index(4)]
    description = Description(**{name: getattr(true, name) for name in template})
    if present:
        return Asked("exists", Question("exists", description), "truth:yes")
    seen_here = any((one.colour, one.shape) in HELD_OUT_PAIRS for one in scene.objects)
    while True:  # eight colours or shapes and at most five objects: most changes describe nothing that is there
        name = template[draws.index(len(template))]
        values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}[name]
        changed = description._replace(**{name: values[draws.index(len(values))]})
        denied_pair = (changed.colour, changed.shape) in HELD_OUT_PAIRS and not seen_here
        if not denied_pair and not any(matches(one, changed) for one in scene.objects):
            return Asked("exists", Question("exists", changed), "truth:no")


def _ask_relation(scene: Scene, draws: Draws) -> Asked | None:
    if len(scene.objects) < 2:
        return None
    first = draws.index(len(scene.objects))
    second = (first + 1 + draws.index(len(scene.objects) - 1)) % len(scene.objects)
    one, other = scene.objects[first], scene.objects[second]
    wanted = draws.uniform() < 0.5
    fitting = [relation for relation in RELATIONS if holds(one, other, relation) is wanted]
    subject, anchor = refer(scene, one, draws), refer(scene, other, draws)
    if not fitting or subject is None or anchor is None:
        return None
    relation = fitting[draws.index(len(fitting))]
    return Asked("relation", Question("relation", subject, anchor, relation), f"truth:{'yes' if wanted else 'no'}")


def _ask_relation_shape(scene: Scene, draws: Draws) -> Asked | None:
    for _ in range(4):  # few anchors have exactly one object on a side
        anchor = scene.objects[draws.index(len(scene.objects))]
        relation = RELATIONS[draws.index(4)]
        others = [one for one in scene.objects if one is not anchor]
        verdicts = [holds(one, anchor, relation) for one in others]
        description = refer(scene, anchor, draws)
        if verdicts.count(True) != 1 or None in verdicts or description is None:
            continue
        answer = others[verdicts.index(True)].shape
        if answer != description.shape:  # otherwise the question would contain its answer
            question = Question("relation_shape", second=description, relation=relation)
            return Asked("relation_shape", question, f"shape:{answer}")
    return None


def _ask_position(scene: Scene, draws: Draws) -> Asked | None:
    target = scene.objects[draws.index(len(scene.objects))]
    cell, description = position(target), refer(scene, target, draws)
    if cell is None or description is None or (cell == "centre" and draws.uniform() < CENTRE_SKIPPED):
        return None
    return Asked("position", Question("position", description), f"position:{cell}")


def _ask_object(scene: Scene, draws: Draws) -> Asked | None:
    if len(scene.objects) != 1:
        return None
    only = scene.objects[0]
    return Asked("object", Question("object"), f"object:{only.colour} {only.shape}")


_ASKERS: dict[str, Callable[[Scene, Draws], Asked | None]] = {
    "colour": _ask_attribute("colour"),
    "shape": _ask_attribute("shape"),
    "size": _ask_attribute("size"),
    "count": _ask_count,
    "exists": _ask_exists,
    "relation": _ask_relation,
    "relation_shape": _ask_relation_shape,
    "position": _ask_position,
    "object": _ask_object,
}

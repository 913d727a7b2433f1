"""Why a model differs from its reference: the first layer that diverges, known bugs tried, what the pattern says."""

from __future__ import annotations

import copy
import dataclasses

from archlab.interop.parity.probes import PROBES
from archlab.interop.parity.results import STATES, within
from archlab.interop.parity.states import State, blocks, states
from archlab.interop.parity.twin import Twin


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where and why.

    Attributes:
        first: the first place that diverges; empty if none does.
        cause: the likely cause.
    """

    first: str
    cause: str


# What a comparison uses beyond one forward pass, in which every layer agrees.
_BEYOND_FORWARD = {
    "gradients": "every layer agrees; a part is detached from the graph, or a table that is tied has two copies",
    "cached decoding": "every layer agrees in one pass; the cache, or the positions of the tokens after it, are wrong",
    "padding invariance": "every layer agrees without padding; the mask, or positions beside padding, are wrong",
    "generation": "every layer agrees; the cache, or the choice of the next token, is wrong",
    "round trip": "every layer agrees; the map of weights or of options does not return what it was given",
}


def explain(twin: Twin, failed: str = "") -> Explanation:
    """Name the first state that diverges, and the likely cause.

    The cure of each known bug of the family is tried on a copy of our model, in the layer that diverges first and in
    all: one that makes every state agree names the cause with certainty. Otherwise the pattern is all there is to say.

    Args:
        failed: the comparison that failed, for faults that no forward pass shows.
    """
    found = states(twin)
    first = next((state for state in found if not state.equal), None)
    if first is None:
        return Explanation("", _BEYOND_FORWARD.get(failed, "every layer agrees"))
    return Explanation(first.place, _known(twin, first) or _pattern(twin, first))


def _known(twin: Twin, first: State) -> str:
    for fault in twin.family.interop.FAULTS:
        for everywhere in (False, True):
            cured = dataclasses.replace(twin, model=copy.deepcopy(twin.model))
            layers = blocks(cured)
            if not everywhere:
                layers = layers[first.block : first.block + 1] if first.block is not None and first.block >= 0 else []
            fault.repair(cured.model, layers)
            if all(state.equal for state in states(cured)):
                return fault.cause
    return ""


def _pattern(twin: Twin, first: State) -> str:
    if first.block is None:
        return "every layer agrees: the final norm or the output layer differs"
    if first.block < 0:
        return "the input of a first layer differs: embeddings, their scale, or positions"
    if not PROBES[twin.family.kind].causal(twin.config):
        return "a part of this layer differs: norms, projections, scores or feed-forward"
    # The first token sees itself alone: its attention weight is 1 whatever the scores are.
    if within(first.ours[:, 0], first.theirs[:, 0], STATES)[1]:
        return "the first token, which sees itself alone, agrees: scores, positions or the mask differ"
    return "the first token, which sees itself alone, differs too: norms, values, projections or feed-forward"

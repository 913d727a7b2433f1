from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from archlab.train.run import Run, readout_of
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer


@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_an_opened_run_answers_as_the_arm_that_was_trained(
    tiny_run: Callable[[str], Run], tiny_setup: Setup, arm: str
) -> None:
    answerer, trained = Answerer.open(tiny_run(arm).folder), readout_of(tiny_run(arm).arm, tiny_setup)
    request = answerer.request(tiny_setup.dataset["test"].images[:3], ["what colour is it?", "how many?", "a ring?"])
    candidates = ["red", "two", "yes"]
    ours, theirs = (readout.choose(request, candidates) for readout in (answerer.readout, trained))
    assert ours.keys() == theirs.keys()
    for name, scores in ours.items():
        np.testing.assert_array_equal(scores, theirs[name])
    assert answerer.readout.speak(request) == trained.speak(request)  # type: ignore[union-attr]

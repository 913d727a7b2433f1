"""What a comparison's results say of VL-JEPA's embedding space."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archlab.compare.assemble import _collapse
from archlab.train.run import Run
from archlab.train.setup import Setup


def test_what_is_held_against_ln_b_is_infonce_alone(tiny_run: Callable[[str], Run], tiny_setup: Setup) -> None:
    """The loss of training has the text decoder's in it: held against ln B, a run that learns would look like none."""
    run = tiny_run("vljepa")
    found = _collapse(run, tiny_setup)
    watched = run.metrics["monitor"]["points"][-1]
    assert found["loss"] == pytest.approx(watched["loss"], rel=1e-5)
    assert found["log_batch"] == pytest.approx(watched["log_batch"])
    assert found["loss"] <= 1.02 * found["log_batch"]
    assert run.metrics["curve"][-1]["loss"] > found["loss"] + 1

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archlab.config import PretrainConfig
from archlab.errors import UserError
from archlab.train.pretrain import pretrain
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


def test_a_run_whose_encoder_was_replaced_is_refused(
    tiny_run: Callable[[str], Run], tiny_pretraining: PretrainConfig, few_probes: None, tmp_path: Path
) -> None:
    """Its features would be noise to the arm, and nothing else would notice."""
    run = tiny_run("vljepa")
    encoder = Path(run.config.encoder.weights)
    kept = shutil.copytree(encoder, tmp_path / "kept")
    shutil.rmtree(encoder)
    try:
        pretrain(replace(tiny_pretraining, seed=5), encoder)
        with pytest.raises(UserError, match="came from other weights than encoder"):
            Answerer.open(run.folder)
    finally:
        shutil.rmtree(encoder)
        shutil.copytree(kept, encoder)

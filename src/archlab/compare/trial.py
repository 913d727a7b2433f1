"""One trained run on the test splits: scored once, with its controls, and kept beside the checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archlab.config import CompareConfig
from archlab.data.batch import Collator
from archlab.data.example import Split
from archlab.evaluate.captioning import nearest_caption
from archlab.evaluate.controls import Condition, no_query, shuffled_image
from archlab.evaluate.measure import (
    SMALL_GALLERY,
    Items,
    Measurement,
    add_captions,
    batches_of,
    measure_likelihood_retrieval,
    measure_retrieval,
    measure_right,
)
from archlab.evaluate.readout import EmbeddingReadout, SupervisedReadout, TokenReadout
from archlab.evaluate.vqa import majority_answers
from archlab.train.run import Run, measure_arm, readout_of
from archlab.train.setup import Setup

BLIND = ("shuffled_image", "no_query")
"""Controls at test time: what an arm is not shown."""
_CONTROL_SEED = 0
_NEIGHBOURS = 4000  # training captions that the copying control chooses from

Trial = dict[str, Measurement]
"""Name -> measurement: a test split, or a control on the split "test"."""


def try_run(run: Run, setup: Setup, config: CompareConfig, captions: int | None = None) -> Trial:
    """Score a finished run on every test split, and its controls on "test".

    What is already in the run's folder is read, so that an interrupted comparison goes on where it stopped.

    Args:
        captions: of each split, where they are not as many as questions; see `Items.first`.
    """
    readout = readout_of(run.arm, setup)
    tasks: dict[str, Callable[[], Measurement]] = {
        name: lambda name=name: _plain(run, setup, config, name, captions)  # type: ignore[misc]
        for name in setup.dataset.splits
        if name.startswith("test")
    }
    if not run.config.blind and not isinstance(readout, SupervisedReadout):
        for name, condition in blind_controls(len(setup.dataset["test"].images)).items():
            tasks[name] = lambda condition=condition: measure_arm(  # type: ignore[misc]
                run.arm, setup, run.config, "test", config.test_items, condition, captions
            )
        if isinstance(readout, EmbeddingReadout):
            rows = Items.first(setup.dataset["test"], config.test_items, captions).captions
            tasks["decoder_ceiling"] = lambda: _decoder_ceiling(readout, setup.collator("test"), rows)
            tasks["nearest_caption"] = lambda: _nearest_caption(readout, setup, rows)
    return {name: Measurement.cached(run.folder / "test" / f"{name}.json", measure) for name, measure in tasks.items()}


def blind_controls(images: int) -> dict[str, Condition]:
    """`BLIND` on a split of so many images."""
    return dict(zip(BLIND, (shuffled_image(images, _CONTROL_SEED), no_query), strict=True))


def majority(setup: Setup, split: Split, count: int, captions: int | None = None) -> Measurement:
    """The most frequent training answer of each kind, scored on a split; `count` and `captions` as in `Items.first`."""
    train = [one for one in setup.dataset["train"].examples if one.task == "vqa"]
    examples = [split.examples[row] for row in Items.first(split, count, captions).vqa]
    answers = majority_answers(
        [one.kind for one in train], [one.meaning for one in train], [one.kind for one in examples]
    )
    right = np.array([answer == one.meaning for answer, one in zip(answers, examples, strict=True)], dtype=float)
    result = Measurement()
    measure_right(result, right, examples)
    return result


def _plain(run: Run, setup: Setup, config: CompareConfig, split: str, captions: int | None) -> Measurement:
    result = measure_arm(run.arm, setup, run.config, split, config.test_items, captions=captions)
    if split == "test" and not run.config.blind:
        asked = Items.first(setup.dataset[split], config.test_items, captions)
        add_small_gallery(result, run, setup, split, asked.captions[: config.pmi_gallery])
    return result


def add_small_gallery(result: Measurement, run: Run, setup: Setup, split: str, gallery: np.ndarray) -> None:
    """Retrieval among few captions, which the token arm's likelihood can afford; VL-JEPA as it always does.

    Args:
        gallery: rows of the captions.
    """
    readout, collator = readout_of(run.arm, setup), setup.collator(split)
    if len(gallery) < 2 or "train" in setup.uncaptioned:  # the prior is that of training captions
        return
    if isinstance(readout, TokenReadout):
        measure_likelihood_retrieval(result, readout, collator, gallery, setup.collator("train"))
    elif isinstance(readout, EmbeddingReadout):
        measure_retrieval(result, readout, collator, gallery, family=SMALL_GALLERY)


def _decoder_ceiling(readout: EmbeddingReadout, collator: Collator, rows: np.ndarray) -> Measurement:
    """Captions spoken from the embeddings of the true captions: what the decoder alone would allow."""
    result = Measurement()
    if len(rows):
        embeddings = readout.text_vectors([collator.split.examples[row].targets[0] for row in rows])
        spoken = [text for start in range(0, len(rows), 64) for text in readout.decode(embeddings[start : start + 64])]
        add_captions(result, spoken, collator, rows)
    return result


def _nearest_caption(readout: EmbeddingReadout, setup: Setup, rows: np.ndarray) -> Measurement:
    """The training caption nearest to the prediction, copied: a decoder must beat it to have said anything itself."""
    collator, train = setup.collator("test"), setup.collator("train")
    source = Items.first(train.split, _NEIGHBOURS).captions
    result = Measurement()
    if len(rows) and len(source):
        texts = [train.split.examples[row].targets[0] for row in source]
        predicted = np.concatenate([readout.image_vectors(batch) for batch in batches_of(collator, rows)])
        copied = [texts[i] for i in nearest_caption(predicted, readout.text_vectors(texts))]
        add_captions(result, copied, collator, rows)
    return result

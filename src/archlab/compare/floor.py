"""What simple means reach on the data of a comparison; see `evaluate.retrieval_floor` and `evaluate.answer_floor`."""

from __future__ import annotations

from archlab.config import CompareConfig
from archlab.data.example import Split, questions_of
from archlab.evaluate.measure import Measurement
from archlab.train.setup import Setup

RETRIEVAL, IMAGE, QUESTION = "retrieval_floor", "image_floor", "question_floor"
"""Names among the controls: captions from gradients and colours, classes from these, answers from the question."""


def floors_of(setup: Setup) -> list[str]:
    """The floors that data of this kind can have; see `why_no_floor`."""
    asked = questions_of(setup.dataset["train"])
    answers = [] if not asked else [IMAGE] if len(asked) == 1 else [QUESTION]
    return answers + ([RETRIEVAL] if len(setup.uncaptioned) < len(setup.dataset.splits) else [])


def why_no_floor(name: str, setup: Setup, config: CompareConfig) -> str:
    """Why a floor is not measured, or nothing where it is."""
    if setup.dataset.name == "scenes":
        return "the built-in scenes have blind controls and a supervised head instead"
    if config.run.data.frames and name != QUESTION:
        return "it describes images, not clips"
    task, lacking = ("caption", "captions") if name == RETRIEVAL else ("vqa", "questions")
    needed = ("train", "validation", "test")
    if missing := [split for split in needed if not _has(setup.dataset[split], task)]:
        return f"there are no {lacking} in {' and '.join(missing)}"
    return ""


def measure_floor(name: str, setup: Setup, config: CompareConfig) -> Measurement:
    """One of `floors_of`, on the test items of the arms; without metrics where nothing can be learned."""
    # They import scikit-learn, which takes a second.
    from archlab.evaluate.answer_floor import image_floor, question_floor
    from archlab.evaluate.retrieval_floor import retrieval_floor

    measure = {RETRIEVAL: retrieval_floor, IMAGE: image_floor, QUESTION: question_floor}[name]
    return measure(setup.dataset, config.test_items)


def _has(split: Split, task: str) -> bool:
    return any(one.task == task for one in split.examples)

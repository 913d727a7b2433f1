"""What answers have to beat: regression from gradients and colours to classes, and a classifier of the question alone.

python -m archlab.evaluate.answer_floor eurosat

Where one question is asked of all images, the answer is a class of images. Where several are, some answers follow from
the question, and a model that never saw the image knows them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from archlab.config import DataConfig
from archlab.data.example import Dataset, Example, Split, questions_of
from archlab.data.sources import load_dataset
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement, measure_right
from archlab.evaluate.probes import Labelled, linear_probe
from archlab.evaluate.retrieval_floor import described
from archlab.evaluate.text_floors import tfidf

_SIDE = 64
_MOST = 20_000  # training questions: what a regression can be solved with in a minute


def image_floor(dataset: Dataset, items: int) -> Measurement:
    """Logistic regression on `describe`, its penalty chosen on validation; answers the test questions of the arms.

    Args:
        dataset: of images, with one question in "train", "validation" and "test".
        items: questions of the test split, at most; see `Items.first`.
    """

    def labelled(name: str, limit: int) -> Labelled:
        split, rows = dataset[name], Items.first(dataset[name], limit).vqa
        examples = [split.examples[row] for row in rows]
        meanings, images = np.array([one.meaning for one in examples]), np.array([one.image for one in examples])
        return Labelled(described(split, rows), meanings, images)

    right = linear_probe(labelled("train", _MOST), labelled("validation", _MOST), labelled("test", items), limit=_MOST)
    return _scored(right, _asked(dataset["test"], items))


def question_floor(dataset: Dataset, items: int) -> Measurement:
    """Logistic regression on the words of the question; answers the test questions of the arms without an image.

    Args:
        dataset: with questions in "train" and "test".
        items: see `image_floor`.

    Returns:
        the metrics of an arm; none where all training answers mean the same, or no word occurs in two questions.
    """
    train, test = _asked(dataset["train"], _MOST), _asked(dataset["test"], items)
    questions, answers = ([one.queries[0] for one in train], [one.meaning for one in train])
    try:
        right = tfidf(questions, answers, [one.queries[0] for one in test], [one.meaning for one in test])
    except ValueError:  # no word is left, or a single answer
        return Measurement()
    return _scored(right, test)


def _asked(split: Split, limit: int) -> list[Example]:
    return [split.examples[row] for row in Items.first(split, limit).vqa]


def _scored(right: np.ndarray, examples: Sequence[Example]) -> Measurement:
    result = Measurement()
    measure_right(result, right.astype(float), examples)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the floor of one source."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if len(given) != 1:
            raise UserError("answer_floor: needs one data source, such as eurosat")
        dataset = load_dataset(DataConfig(source=given[0]), _SIDE)
        asked = questions_of(dataset["train"])
        if not asked:
            raise UserError(f"data.source={given[0]!r}: asks no questions; give data with answers")
        floor = (image_floor if len(asked) == 1 else question_floor)(dataset, len(dataset["test"].examples))
        if not floor.values:
            raise UserError(f"data.source={given[0]!r}: no word occurs in two training questions, or all answers agree")
    except UserError as error:
        print(f"answer_floor: error: {error}", file=sys.stderr)
        return 2
    for metric, value in floor.means().items():
        print(f"{metric}: {100 * value:.1f} % of {len(floor.values[metric])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

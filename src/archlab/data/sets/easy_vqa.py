"""easy-VQA (Victor Zhou, MIT): 64-pixel pictures of one coloured shape, 13 answers.

The official split has no validation images; they are cut from the training images. A question's kind follows from its
answer, so the candidates of every kind are all 13 answers. Questions repeat over images: a model that never sees the
image answers many of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from archlab.data.images import Encoded, FileImage
from archlab.data.pairs.rows import Row
from archlab.data.sets.reading import first_folder, read, read_json, table
from archlab.errors import UserError

FILES = ("easy_vqa_images.parquet", "easy_vqa_questions.parquet")
SHAPES = frozenset({"circle", "rectangle", "triangle"})


def prepared(images: Path, questions: Path) -> Iterator[Row]:
    """Rows of the two prepared files, joined on split and image."""
    found = {(one.values["split"], one.values["image_id"]): one.image for one in read(images, "split", "image_id")}
    for number, row in enumerate(table(questions)):
        where = f"{questions}, row {number}"
        key = (row["split"], row["image_id"])
        if key not in found:
            raise UserError(f"{where}: its image {key} is not in {images}; download both files again")
        yield _row(number, where, found[key], row["question"], row["answer"], row["split"])


def official(root: Path) -> Iterator[Row]:
    """Rows of the repository (or its `data` folder): `train/questions.json` of [question, answer, image] and images."""
    data = first_folder(root, (".", "data", "easy_vqa/data"), "train/questions.json", "easy-VQA")
    for split in ("train", "test"):
        file = data / split / "questions.json"
        try:
            questions = [(str(question), str(answer), int(image)) for question, answer, image in read_json(file)]
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}: is no list of [question, answer, image] ({error}); download it again") from None
        for number, (question, answer, image) in enumerate(questions):
            where = f"{file}, question {number}"
            yield _row(number, where, FileImage(data / split / "images" / f"{image}.png"), question, answer, split)


def installed() -> Path | None:
    """Data folder of the pip package `easy-vqa`, if it is installed."""
    package = importlib.util.find_spec("easy_vqa")
    return Path(package.origin).parent / "data" if package and package.origin else None


def _row(number: int, where: str, image: Encoded, question: str, answer: str, split: str) -> Row:
    kind = "yes/no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "colour"
    return Row(f"{split}-{number}", where, image, "vqa", kind, question, [answer], split)

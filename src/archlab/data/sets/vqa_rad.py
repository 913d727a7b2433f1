"""VQA-RAD (Lau et al., Scientific Data 2018, CC0): questions of clinicians about radiology images.

The official test split asks new questions about images that are in training too; `Dataset.notes` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archlab.data.images import Encoded, FileImage
from archlab.data.pairs.rows import Row
from archlab.data.sets.reading import first_folder, read, read_json, table
from archlab.errors import UserError

FILES = ("vqa_rad_images_256.parquet", "vqa_rad_qa.parquet")
PUBLIC = "VQA_RAD Dataset Public.json"
_FIELDS = frozenset({"qid", "image_name", "question", "answer", "answer_type", "phrase_type"})


def prepared(images: Path, questions: Path) -> Iterator[Row]:
    """Rows of the two prepared files, joined on the image's name."""
    found = {one.values["image_name"]: one.image for one in read(images, "image_name")}
    for number, row in enumerate(table(questions)):
        where = f"{questions}, row {number}"
        if row["image_name"] not in found:
            raise UserError(f"{where}: its image {row['image_name']!r} is not in {images}; download both files again")
        yield _row(str(number), where, found[row["image_name"]], row, row["split"])


def official(root: Path) -> Iterator[Row]:
    """Rows of the OSF release: one JSON file, and `VQA_RAD Image Folder`. Its test split is marked by `phrase_type`."""
    folder = first_folder(root, (".", "osfstorage-archive"), PUBLIC, "VQA-RAD")
    for number, row in enumerate(read_json(folder / PUBLIC)):
        if not isinstance(row, dict) or not row.keys() >= _FIELDS:
            raise UserError(f"{folder / PUBLIC}, question {number}: lacks one of {', '.join(sorted(_FIELDS))}")
        image = FileImage(folder / "VQA_RAD Image Folder" / row["image_name"])
        split = "test" if row["phrase_type"].startswith("test") else "train"
        yield _row(str(row["qid"]), f"{folder / PUBLIC}, question {number}", image, row, split)


def _row(name: str, where: str, image: Encoded, row: Mapping[str, Any], split: str) -> Row:
    # The release has numbers among the answers and blanks after them, and "CLOSED " beside "CLOSED".
    kind, answer = str(row["answer_type"]).strip().lower(), str(row["answer"]).strip()
    return Row(name, where, image, "vqa", kind, str(row["question"]).strip(), [answer], split)

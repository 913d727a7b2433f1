"""EuroSAT RGB (Helber et al., arXiv 1709.00029, MIT): Sentinel-2 tiles of 64 pixels, 10 classes of land use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archlab.data.pairs.folder import class_rows
from archlab.data.pairs.rows import Row
from archlab.data.sets.reading import class_row, first_folder, read

FILES = ("eurosat_rgb_10500.parquet",)
TEMPLATES = ("a satellite photo of {}", "land seen from above: {}", "this tile shows {}", "{}, from orbit")
"""Surface forms of a caption."""


def prepared(file: Path) -> Iterator[Row]:
    """Rows of the prepared file, with its splits."""
    for record in read(file, "label", "file", "split"):
        yield class_row(record, record.values["label"], record.values["split"], name=record.values["file"])


def official(root: Path) -> Iterator[Row]:
    """Rows of the unpacked archive: one folder per class. The archive brings no splits; they are cut."""
    return class_rows(first_folder(root, (".", "EuroSAT_RGB", "2750"), "AnnualCrop", "EuroSAT RGB"))

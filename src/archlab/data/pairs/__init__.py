"""Image-text data of the user's own: image folders, parquet, WebDataset shards and the hub, by one mapping of columns.

Every reader yields rows; `assemble` makes them a `Dataset`. See `archlab.config.PairsData` for the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.images import SUFFIXES
from archlab.data.pairs import folder, hub, parquet, webdataset
from archlab.data.pairs.assembly import assemble
from archlab.data.pairs.columns import resolve
from archlab.data.pairs.rows import Problems, Record, Row, to_rows
from archlab.errors import UserError

__all__ = ["load_hub", "load_pairs"]


def load_pairs(place: Path, config: PairsData, *, image_size: int, seed: int, frames: int = 0) -> Dataset:
    """Read a folder or a file; what it holds decides how.

    In this order: `metadata.jsonl` in the folder or its sub-folders, parquet files, tar files, sub-folders named after
    classes. Without splits (a `split` column, `train/`, `train-00000.parquet`, `train-0.tar`), validation and test
    images are cut off by a hash of their bytes; rows of one image, equal images and images of one group stay together.

    Args:
        place: folder, parquet file or tar file.
        image_size: side of the decoded images.
        seed: of the cut.
        frames: of each clip, where clips are read; images among them fill one. 0: images.

    Raises:
        UserError: the path is missing, its contents are not understood, or a row is broken and not to be skipped.
    """
    if not place.exists():
        raise UserError(f"data.source={place}: no such file or folder; correct the path")
    problems = Problems(skip=config.on_error == "skip", root=place if place.is_dir() else place.parent)
    rows, pooled = _read(place, config, problems, folder.CLIP_SUFFIXES if frames else SUFFIXES)
    return assemble(
        str(place), rows, config, image_size=image_size, seed=seed, problems=problems, pooled=pooled, frames=frames
    )


def load_hub(name: str, config: PairsData, *, image_size: int, seed: int, stream: bool) -> Dataset:
    """Read a data set of the hub by its id (or `id:configuration`).

    Args:
        stream: pass over the data once instead of downloading it; see `pairs.hub`.
    """
    problems = Problems(skip=config.on_error == "skip")
    settle = partial(resolve, mapping=config.columns, place=name)
    columns, records = hub.records(name, settle, config, image_size, problems, stream=stream)
    rows = to_rows(records, columns, config.query, problems)
    pooled = "kind" not in columns
    return assemble(name, rows, config, image_size=image_size, seed=seed, problems=problems, pooled=pooled)


def _read(place: Path, config: PairsData, problems: Problems, suffixes: frozenset[str]) -> tuple[Iterable[Row], bool]:
    """The rows of a folder or file, and whether the kinds of its questions share their candidates.

    Args:
        suffixes: of the files in folders named after classes.
    """
    columns: Mapping[str, str]
    records: Iterable[Record]
    if place.is_dir() and folder.metadata_files(place):
        lines = folder.read_lines(place, problems)
        found = dict.fromkeys(chain.from_iterable(values for _, _, values in lines))
        columns = resolve(found, config.columns, f"{place}, {folder.METADATA}", {"image": "file_name"})
        records = folder.records(place, lines, columns["image"], problems)
    elif _holds(place, "parquet"):
        files = parquet.shards(place)
        columns = resolve(parquet.schema(files).names, config.columns, str(place))
        records = parquet.records(place, files, columns, problems)
    elif _holds(place, "tar"):
        records = list(webdataset.records(place, webdataset.shards(place), problems))
        found = dict.fromkeys(chain.from_iterable(record.values for record in records))
        columns = resolve(found, config.columns, str(place), webdataset.DEFAULTS)
    elif place.is_dir() and folder.holds_classes(place, suffixes):
        return folder.class_rows(place, suffixes), True
    else:
        raise folder.refuse(place)
    return to_rows(records, columns, config.query, problems), "kind" not in columns


def _holds(place: Path, ending: str) -> bool:
    return place.suffix == f".{ending}" if place.is_file() else next(place.rglob(f"*.{ending}"), None) is not None

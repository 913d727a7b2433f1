"""Named public image-text sets, each from a prepared folder (`ARCHLAB_DATA`) or from its official source.

Every module reads one set and says which layouts it knows. All yield the rows of `data.pairs`, so that splits, checks,
candidates and digests are made in one place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from archlab.config import PairsData
from archlab.data.example import Dataset
from archlab.data.pairs.assembly import assemble
from archlab.data.pairs.rows import Problems, Row
from archlab.data.sets import clothing, easy_vqa, emoji, eurosat, openstax, vqa_rad
from archlab.data.sets.reading import hub_rows, with_captions
from archlab.errors import UserError

__all__ = ["SETS", "load_set"]

ENVIRONMENT = "ARCHLAB_DATA"
"""Folder of the prepared parquet files."""


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """One public set.

    Attributes:
        files: its parquet files below `ARCHLAB_DATA`.
        prepared: rows of these files.
        official: rows of a folder as the official source lays it out.
        source: the official source, and how to get it.
        cited: what others, or earlier measurements on the prepared files, say of its test split; a comparison measures
            floors of its own.
        hub: hub id, where it is there.
        hub_columns: role -> column of the hub's copy; one without a question asks for the class.
        templates: of captions, where the data have classes alone; see `reading.with_captions`.
        installed: folder of an installed package that brings the data, if there is one.
        finish: makes further test splits of the data.
    """

    files: tuple[str, ...]
    prepared: Callable[..., Iterable[Row]]
    official: Callable[[Path], Iterable[Row]]
    source: str
    cited: str = ""
    hub: str = ""
    hub_columns: tuple[tuple[str, str], ...] = ()
    templates: tuple[str, ...] = ()
    installed: Callable[[], Path | None] = lambda: None
    finish: Callable[[Dataset], Dataset] = lambda dataset: dataset


SETS = {
    "easy-vqa": NamedSet(
        files=easy_vqa.FILES,
        prepared=easy_vqa.prepared,
        official=easy_vqa.official,
        source="https://github.com/vzhou842/easy-VQA (pip install easy-vqa, or clone it)",
        cited="a third party reports 87.6 % of the answers for a CNN + LSTM",
        installed=easy_vqa.installed,
    ),
    "eurosat": NamedSet(
        files=eurosat.FILES,
        prepared=eurosat.prepared,
        official=eurosat.official,
        source="https://zenodo.org/records/7711810 (unpack EuroSAT_RGB.zip)",
        hub="blanchon/EuroSAT_RGB",
        hub_columns=(("image", "image"), ("answer", "label")),
        templates=eurosat.TEMPLATES,
    ),
    "clothing": NamedSet(
        files=clothing.FILES,
        prepared=clothing.prepared,
        official=clothing.official,
        source="https://github.com/alexeygrigorev/clothing-dataset-small or clothing-dataset (clone it)",
        templates=clothing.TEMPLATES,
    ),
    "vqa-rad": NamedSet(
        files=vqa_rad.FILES,
        prepared=vqa_rad.prepared,
        official=vqa_rad.official,
        source="https://osf.io/89kps (download all files)",
        hub="flaviagiammarino/vqa-rad",
        hub_columns=(("image", "image"), ("question", "question"), ("answer", "answer")),
    ),
    "emoji": NamedSet(
        files=emoji.FILES,
        prepared=emoji.prepared,
        official=emoji.official,
        source="https://github.com/googlefonts/noto-emoji (clone it, and put "
        "https://unicode.org/Public/emoji/latest/emoji-test.txt into it)",
        finish=emoji.by_keywords,
    ),
    "openstax": NamedSet(
        files=openstax.FILES,
        prepared=openstax.prepared,
        official=openstax.official,
        source="https://github.com/openstax (clone osbooks-* repositories into one folder)",
        cited="ridge regression from HOG and colour to TF-IDF, image to text among 698: R@1 3.6 %, R@10 18.5 %",
    ),
    "openstax-photo": NamedSet(
        files=openstax.FILES,
        prepared=openstax.prepared_photos,
        official=openstax.official_photos,
        source="https://github.com/openstax (clone osbooks-* repositories into one folder)",
        cited="ridge regression from HOG and colour to TF-IDF, image to text among 249: R@1 4.4 %, R@10 28.5 %",
    ),
}


def load_set(name: str, place: str, config: PairsData, *, image_size: int, seed: int) -> Dataset:
    """Load one of `SETS`.

    Args:
        name: its name.
        place: a download in the official layout, "hub", or "" for the prepared folder (and then an installed package).
        image_size: side of the decoded images.
        seed: of the cut, where splits are missing.

    Raises:
        UserError: the data is not where it should be; says from where to get it.
    """
    if config.columns:
        raise UserError(f"data.pairs.columns={config.columns}: the columns of data.source={name} are known; remove it")
    chosen = SETS[name]
    problems = Problems(skip=config.on_error == "skip")
    rows = _rows(name, chosen, place, config, image_size, problems)
    if chosen.templates:
        rows = with_captions(rows, chosen.templates)
    dataset = chosen.finish(assemble(name, rows, config, image_size=image_size, seed=seed, problems=problems))
    if chosen.cited:
        dataset.notes.append(f"cited, not measured in this run, of the test split: {chosen.cited}")
    return dataset


def _rows(
    name: str, chosen: NamedSet, place: str, config: PairsData, image_size: int, problems: Problems
) -> Iterable[Row]:
    ways = f"data.source={name}:FOLDER reads a download from {chosen.source}"
    if chosen.hub:
        ways += f", data.source={name}:hub the hub's {chosen.hub}"
    if place == "hub":
        if not chosen.hub:
            raise UserError(f"data.source={name}:hub: this set is not on the hub; {ways}")
        return hub_rows(chosen.hub, dict(chosen.hub_columns), config, image_size, problems)
    if place:
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise UserError(f"data.source={name}:{place}: no such folder; {ways}")
        return chosen.official(folder)
    prepared = os.environ.get(ENVIRONMENT, "")
    files = [Path(prepared) / file for file in chosen.files]
    if prepared and all(file.is_file() for file in files):
        return chosen.prepared(*files)
    if (folder_of_package := chosen.installed()) is not None:
        return chosen.official(folder_of_package)
    if prepared:
        lacking = next(file for file in files if not file.is_file())
        raise UserError(f"data.source={name}: {ENVIRONMENT} names a folder without {lacking.name}; {ways}")
    raise UserError(f"data.source={name}: {ENVIRONMENT} (a folder with {chosen.files[0]}) is not set; {ways}")

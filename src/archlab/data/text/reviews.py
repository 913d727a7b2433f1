"""Texts with their sentiment, each set from the prepared folder (`ARCHLAB_DATA`) or from its official source.

`NAME` reads the prepared files, `NAME:FOLDER` a download, `sst2:hub` the hub's copy.

- IMDB (Maas et al., 2011): whole film reviews, for research.
- SST-2 (Socher et al., 2013): sentences of film reviews; no licence is stated. GLUE's release (arXiv 1804.07461)
  trains on phrases of these sentences as well, and keeps the labels of the test split to itself.

Weights trained on either are never shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archlab.data.pairs.hub import load_splits
from archlab.data.text.sets import digest, prepared_files, read_rows
from archlab.errors import UserError


@dataclass(frozen=True)
class Reviews:
    """Texts and their classes, 0 (negative) or 1 (positive)."""

    texts: list[str]
    labels: list[int]

    def digest(self) -> str:
        """Hash of all of it."""
        return digest([*self.texts, *map(str, self.labels)])


@dataclass(frozen=True)
class ReviewSet:
    """All splits of one set.

    Attributes:
        splits: "train" and "test", and "validation" where the set has one.
        notes: what a reader of the results must know of the data.
    """

    splits: dict[str, Reviews]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Reviews:
        return self.splits[name]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a set is read from.

    Attributes:
        files: its files below `ARCHLAB_DATA`.
        prepared: reads these files.
        official: reads a folder as the official source lays it out.
        source: the official source, and how to get it.
        hub: reads the hub's copy, where it is there.
    """

    files: tuple[str, ...]
    prepared: Callable[[Sequence[Path]], ReviewSet]
    official: Callable[[Path], ReviewSet]
    source: str
    hub: Callable[[], ReviewSet] | None = None


def load_reviews(source: str) -> ReviewSet:
    """The set that `source` names: `imdb`, `imdb:FOLDER` (the unpacked `aclImdb`), `sst2`, `sst2:FOLDER` (the unpacked
    archive of GLUE) or `sst2:hub`.

    Raises:
        UserError: the set is unknown, or not where it should be, or damaged.
    """
    name, _, place = source.partition(":")
    if name not in _SOURCES:
        raise UserError(f"source={source!r}: no such set of reviews; known are {', '.join(_SOURCES)}")
    chosen = _SOURCES[name]
    if place == "hub" and chosen.hub:
        found = chosen.hub()
    elif place:
        found = chosen.official(Path(place).expanduser())
    else:
        found = chosen.prepared(prepared_files(name, chosen.files, chosen.source))
    return ReviewSet(found.splits, [*_overlaps(found.splits), *found.notes])


def _overlaps(splits: Mapping[str, Reviews]) -> Iterable[str]:
    """Evaluated texts that were trained on too."""
    known = set(splits["train"].texts)
    for name, reviews in splits.items():
        shared = sum(text in known for text in reviews.texts)
        if name != "train" and shared:
            yield f"{shared} of {len(reviews.texts)} {name} texts occur in train too"


def _imdb(files: Sequence[Path]) -> ReviewSet:
    read = {}
    for split, file in zip(("train", "test"), files, strict=True):
        rows = read_rows(file, ("text", "label"))
        read[split] = Reviews([row["text"] for row in rows], [row["label"] for row in rows])
    return ReviewSet(read)


def _imdb_official(root: Path) -> ReviewSet:
    read = {}
    for split in ("train", "test"):
        texts, labels = [], []
        for label, name in enumerate(("neg", "pos")):
            files = sorted((root / split / name).glob("*.txt"))
            if not files:
                raise UserError(f"{root / split / name}: holds no reviews; the official source is {_IMDB}")
            texts += [file.read_text(encoding="utf-8") for file in files]
            labels += [label] * len(files)
        read[split] = Reviews(texts, labels)
    return ReviewSet(read)


def _sst2(files: Sequence[Path]) -> ReviewSet:
    splits = dict(zip(("train", "validation", "test"), map(_labelled_lines, files), strict=True))
    return ReviewSet(splits, ["floor that a model must beat on the test split: logistic regression on TF-IDF 81.3 %"])


def _sst2_official(root: Path) -> ReviewSet:
    folder = next((one for one in (root, root / "SST-2") if (one / "train.tsv").is_file()), None)
    if folder is None:
        raise UserError(f"{root}: holds no train.tsv; the official source is {_GLUE}")
    return _glue(_labelled_lines(folder / "train.tsv"), _labelled_lines(folder / "dev.tsv"))


def _sst2_hub() -> ReviewSet:
    splits = load_splits(_HUB, stream=False, option="source")

    def read(split: str) -> Reviews:
        columns: Any = splits.get(split)
        try:
            return Reviews([text.strip() for text in columns["sentence"]], [int(one) for one in columns["label"]])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"source=sst2:hub: {_HUB} has no {split} split with columns sentence and label; its copy has changed"
            ) from None

    return _glue(read("train"), read("validation"))


def _glue(train: Reviews, validation: Reviews) -> ReviewSet:
    """The labels of its test split are not public: the validation split is what is tested on."""
    notes = [
        "tested on the validation split of GLUE, whose test split has no public labels",
        "train holds phrases beside the sentences they are from: scores on texts that are cut from it are too good",
    ]
    return ReviewSet({"train": train, "test": validation}, notes)


def _labelled_lines(file: Path) -> Reviews:
    """Lines of text, tab and class, below a heading or without one."""
    try:
        lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{file}: cannot be read ({reason}); the official source is {_GLUE}") from None
    texts, labels = [], []
    for number, line in enumerate(lines, start=1):
        text, _, label = line.rpartition("\t")
        if number == 1 and line == "sentence\tlabel":
            continue
        if label not in ("0", "1") or not text.strip():
            raise UserError(f"{file}, line {number}: must be a text, a tab and 0 or 1; the official source is {_GLUE}")
        texts.append(text.strip())
        labels.append(int(label))
    if not texts:
        raise UserError(f"{file}: holds no texts; the official source is {_GLUE}")
    return Reviews(texts, labels)


_IMDB = "https://ai.stanford.edu/~amaas/data/sentiment (unpack aclImdb_v1.tar.gz)"
_GLUE = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip (unpack it)"
_HUB = "stanfordnlp/sst2"
_SOURCES = {
    "imdb": _Source(
        files=("imdb_train25k.parquet", "imdb_test5k.parquet"),
        prepared=_imdb,
        official=_imdb_official,
        source=_IMDB,
    ),
    "sst2": _Source(
        files=("text/sst2_train.tsv", "text/sst2_dev.tsv", "text/sst2_test.tsv"),
        prepared=_sst2,
        official=_sst2_official,
        source=f"{_GLUE}, and source=sst2:hub the hub's {_HUB}",
        hub=_sst2_hub,
    ),
}

"""Rows of any source to a `Dataset`: images looked at once, splits settled, candidates, digests and notes added."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from archlab.config import PairsData
from archlab.data.clips import SAMPLING, ClipReader, LazyClips, clip_fingerprint, clip_of, require_av
from archlab.data.example import Dataset, Example, Images, Split
from archlab.data.images import DECODING, BrokenInput, Encoded, LazyImages, check, decode
from archlab.data.images import SUFFIXES as IMAGE_SUFFIXES
from archlab.data.pairs.rows import Problems, Row, meaning, meaning_of
from archlab.data.pairs.splits import hold_out, units
from archlab.errors import UserError

MAX_CANDIDATES = 1000
"""A discriminative read-out chooses among at most this many answers, the most frequent of the training split."""

Seen = tuple[Row, str]
"""A row and the fingerprint of its image."""


def assemble(
    name: str,
    rows: Iterable[Row],
    config: PairsData,
    *,
    image_size: int,
    seed: int,
    problems: Problems,
    pooled: bool = True,
    frames: int = 0,
) -> Dataset:
    """Build the data set. Texts are kept in memory; images are read once for their fingerprints and decoded on demand.

    Every image's bytes are hashed: one sequential read of the data, without decoding. Equal bytes are one image. When
    broken inputs are skipped, every image is decoded once here as well, because which rows are left must be known.

    Args:
        name: what messages and reports call the data.
        image_size: side of the decoded images.
        seed: of the cut, where splits are missing.
        problems: told about broken images and repeated ids.
        pooled: the candidates of a kind are the answers of all kinds. Only where the kind of a question is known
            without its answer may they be narrowed to the kind; else the candidates would give the answer away.
        frames: of each clip; 0 for images.

    Raises:
        UserError: nothing usable, a broken input that is not to be skipped, or splits that cannot be settled.
    """
    looking = _Looking(config, image_size, frames, thorough=problems.skip)
    seen = list(_look(rows, looking, problems))
    if not seen:
        first = f"; the first problem: {problems.skipped[0][1]}" if problems.skipped else ""
        raise UserError(f"{name}: holds no usable row{first}")
    if frames and not any(clip_of(row.image) for row, _ in seen):
        raise UserError(f"data.frames={frames}: {name} holds no clip; leave it at 0")
    by_split = _settle(name, seen, config, seed)
    answers = _candidates(by_split["train"], pooled)
    kinds = sorted({row.kind for members in by_split.values() for row, _ in members if row.task == "vqa"})
    everything = _candidates(by_split["train"], pooled=True).get("", [])
    candidates = {kind: answers.get("" if pooled else kind) or everything for kind in kinds}
    splits = {split: _split(split, members, candidates, looking) for split, members in by_split.items()}
    for split, line in problems.skipped:  # what was left out before it had a split is listed with the training split
        splits[split if split in splits else "train"].skipped.append(line)
    return Dataset(name, splits, notes=_notes(by_split))


@dataclass(frozen=True)
class _Looking:
    """How the images or clips of a data set are read.

    Attributes:
        frames: of each clip; 0: images.
        thorough: decode each once, to know which can be.
    """

    config: PairsData
    image_size: int
    frames: int
    thorough: bool

    def images(self, encoded: Sequence[Encoded]) -> Images:
        """Those of a split."""
        if self.frames:
            return LazyClips(encoded, self._clips())
        return LazyImages(encoded, self.image_size, self.config.max_pixels)

    def fingerprint(self, row: Row) -> str | UserError:
        """Hash of the bytes of an image or clip, or what is wrong with it.

        Raises:
            UserError: it is a clip, and images are read, or PyAV is missing.
        """
        path = clip_of(row.image)
        if path is not None and not self.frames and path.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"{row.where}: {path} is a clip; say how many of its frames are looked at, data.frames=8")
        clip = path if self.frames else None
        if clip is not None:
            require_av()  # without it all clips would pass for broken ones
        try:
            if clip is not None:
                reader = self._clips()
                (reader.read if self.thorough else reader.check)(row.image)
                return clip_fingerprint(clip)
            encoded = row.image.read()
            if self.thorough:
                decode(encoded, self.image_size, max_pixels=self.config.max_pixels, name=row.image.name)
            else:
                check(encoded, max_pixels=self.config.max_pixels, name=row.image.name)
        except UserError as error:
            return error
        return row.fingerprint or fingerprint(encoded)

    def digest(self, fingerprints: Iterable[str]) -> str:
        """Hash of the bytes of images, in order, and of how they are decoded."""
        how = [SAMPLING, str(self.frames)] if self.frames else []
        return hashlib.sha256(" ".join([DECODING, str(self.image_size), *how, *fingerprints]).encode()).hexdigest()

    def _clips(self) -> ClipReader:
        return ClipReader(self.image_size, self.frames, self.config.max_pixels, self.config.max_seconds)


def _look(rows: Iterable[Row], looking: _Looking, problems: Problems) -> Iterable[Seen]:
    """Fingerprint the image of each row, in order; broken images and repeated ids are problems."""
    known: dict[Encoded, str | UserError] = {}
    ids: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.split] += 1
        if looking.config.limit and counts[row.split] > looking.config.limit:
            continue
        if row.image not in known:
            known[row.image] = looking.fingerprint(row)
        fingerprint = known[row.image]
        first = ids.setdefault((row.split, row.id), row.where)
        if isinstance(fingerprint, UserError):
            problems.report(row.split, row.where, fingerprint)
        elif first != row.where:
            used = BrokenInput(f"id {row.id!r} was already used by {first}", "ids must be unique")
            problems.report(row.split, row.where, used)
        else:
            yield row, fingerprint


def fingerprint(encoded: bytes) -> str:
    """Identity of an image: equal bytes, equal image."""
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _settle(name: str, seen: Sequence[Seen], config: PairsData, seed: int) -> dict[str, list[Seen]]:
    """Rows by split, the standard splits first; those that the data does not bring are cut from its training images."""
    declared = {row.split for row, _ in seen}
    if "" in declared and len(declared) > 1:
        where = next(row.where for row, _ in seen if not row.split)
        others = ", ".join(sorted(declared - {""}))
        raise UserError(f"{where}: belongs to no split, while other rows do ({others}); give every row a split or none")
    if declared != {""} and "train" not in declared:
        raise UserError(f"{name}: has {', '.join(sorted(declared))} but no training split; add rows of split 'train'")
    shares = {"validation": config.validation_fraction, "test": config.test_fraction}
    if "validation" in declared:
        del shares["validation"]
    if any(split.startswith("test") for split in declared):
        del shares["test"]
    pool = [(row, image) for row, image in seen if row.split in ("", "train")]
    cut = hold_out(units((image, row.group) for row, image in pool), shares, seed, name) if shares else {}
    by_split: dict[str, list[Seen]] = {"train": [], "validation": [], "test": []}
    for row, image in seen:
        split = cut.get(image, "train") if row.split in ("", "train") else row.split
        by_split.setdefault(split, []).append((row, image))
    return {split: members for split, members in by_split.items() if members}


def _candidates(train: Sequence[Seen], pooled: bool) -> dict[str, list[str]]:
    """Per kind (or under "" for all) the training answers, the most frequent first; one form per meaning."""
    forms: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row, _ in train:
        if row.task == "vqa":
            forms["" if pooled else row.kind][meaning(row.targets[0])][row.targets[0]] += 1
    result = {}
    for kind, meanings in forms.items():
        ranked = sorted(meanings, key=lambda one: (-meanings[one].total(), one))[:MAX_CANDIDATES]
        result[kind] = [_most_frequent(meanings[one]) for one in ranked]
    return result


def _most_frequent(forms: Counter[str]) -> str:
    return min(forms, key=lambda form: (-forms[form], form))


def _split(name: str, members: Sequence[Seen], candidates: dict[str, list[str]], looking: _Looking) -> Split:
    image_rows: dict[str, int] = {}
    encoded: list[Encoded] = []
    examples = []
    for row, image in members:
        if image not in image_rows:
            image_rows[image] = len(encoded)
            encoded.append(row.image)
        examples.append(
            Example(
                id=row.id,
                image=image_rows[image],
                task=row.task,
                kind=row.kind,
                queries=(row.query,),
                targets=tuple(row.targets),
                meaning=meaning_of(row),
            )
        )
    image_digest = looking.digest(image_rows)
    return Split(
        name=name,
        images=looking.images(encoded),
        examples=examples,
        digest=_digest(image_digest, examples),
        image_digest=image_digest,
        candidates=candidates,
        canonical_meaning={text: meaning(text) for texts in candidates.values() for text in texts},
    )


def _digest(image_digest: str, examples: Sequence[Example]) -> str:
    """Hash of the images and of all texts, in order."""
    state = hashlib.sha256(image_digest.encode())
    for one in examples:
        line = [one.id, one.image, one.task, one.kind, list(one.queries), list(one.targets), one.meaning]
        state.update(json.dumps(line).encode() + b"\n")
    return state.hexdigest()


def _notes(by_split: dict[str, list[Seen]]) -> list[str]:
    """Overlaps between training and evaluation that a reader of the results must know."""
    notes = []
    known_images = {image for _, image in by_split["train"]}
    known_captions = {meaning_of(row) for row, _ in by_split["train"] if row.task == "caption"}
    for split, members in by_split.items():
        if split == "train":
            continue
        images = {image for _, image in members}
        if shared := len(images & known_images):
            notes.append(
                f"{shared} of {len(images)} {split} images occur in train too: "
                f"{split} measures new texts about known images, not new images"
            )
        captions = [meaning_of(row) for row, _ in members if row.task == "caption"]
        seen_before = sum(caption in known_captions for caption in captions)
        repeated = len(captions) - len(set(captions))
        if seen_before or repeated:
            notes.append(
                f"of {len(captions)} {split} captions, {seen_before} occur in train too "
                f"and {repeated} repeat an earlier one"
            )
    return notes

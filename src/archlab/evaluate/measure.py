"""Everything measured of one arm on one split: discriminative VQA, captions, retrieval, with per-item values.

Per-item values, not means, are kept: intervals and paired differences need them (`evaluate.statistics`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from archlab.data.batch import Batch, Collator
from archlab.data.example import Example, Split
from archlab.data.scenes.parser import slot_accuracy
from archlab.evaluate.captioning import cider_d
from archlab.evaluate.controls import Condition
from archlab.evaluate.readout import Readout, SupervisedReadout, TokenReadout
from archlab.evaluate.retrieval import LinearMap, retrieval_hits
from archlab.evaluate.statistics import score
from archlab.evaluate.vectors import cosine
from archlab.evaluate.vqa import credit, credit_among, rows_by_kind
from archlab.train.folder import undamaged, write_text

SMALL_GALLERY = "retrieval_pmi"
"""Retrieval among few captions, which the token arm's likelihood can afford."""
CURVE = "curve/"
"""Before the name of a metric: its mean over a learning curve, in the same unit."""
_BATCH = 64
_TOP = 5  # of the classes, as the paper's section 4.5 counts
_PRIOR_IMAGES = 64
OPEN_VOCABULARY = frozenset({"object", "class"})
"""Kinds that are reported as classification: which of all combinations of attributes, or of all classes, is it?"""


@dataclass(frozen=True)
class Items:
    """Which examples of a split are scored.

    Attributes:
        vqa: rows of question-answer examples.
        captions: rows of caption examples, at most one per image.
    """

    vqa: np.ndarray
    captions: np.ndarray

    @classmethod
    def first(cls, split: Split, count: int, captions: int | None = None) -> Items:
        """The first questions and captions; questions of a kind without candidates are left out.

        Args:
            count: questions, and as many captions.
            captions: another number of captions, and of open-vocabulary questions, which are rare and then counted
                apart from the others.
        """
        vqa = [row for row, e in enumerate(split.examples) if e.task == "vqa" and split.candidates.get(e.kind)]
        if captions is None:
            vqa, captions = vqa[:count], count
        else:
            named = [row for row in vqa if split.examples[row].kind in OPEN_VOCABULARY]
            others = [row for row in vqa if split.examples[row].kind not in OPEN_VOCABULARY]
            vqa = sorted(others[:count] + named[:captions])
        spoken: dict[int, int] = {}
        for row, example in enumerate(split.examples):
            if example.task == "caption":
                spoken.setdefault(example.image, row)
        return cls(np.array(vqa, np.int64), np.array(list(spoken.values())[:captions], np.int64))


@dataclass
class Measurement:
    """Per-item values of one arm, by metric, and what was answered.

    Attributes:
        values: metric -> one value per item.
        clusters: metric -> image of each item; items of one image are not independent.
        chance: metric -> score of guessing, where it is known.
        answers: row of the example -> the chosen answer or the spoken caption.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    clusters: dict[str, np.ndarray] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)

    def add(self, metric: str, values: Sequence[float] | np.ndarray, clusters: np.ndarray) -> None:
        """Record a metric."""
        self.values[metric] = np.asarray(values, dtype=np.float64)
        self.clusters[metric] = np.asarray(clusters)

    def means(self) -> dict[str, float]:
        """Mean of every metric over its items."""
        return {metric: float(values.mean()) for metric, values in self.values.items()}

    def save(self, path: Path) -> None:
        """Write to one JSON file, atomically."""
        arrays = {
            name: {metric: array.tolist() for metric, array in getattr(self, name).items()}
            for name in ("values", "clusters")
        }
        write_text(path, json.dumps(arrays | {"chance": self.chance, "answers": self.answers}))

    @classmethod
    def load(cls, path: Path, made_by: Path | None = None) -> Measurement:
        """Read what `save` wrote.

        Args:
            made_by: folder of the run that measured it while it was trained; see `undamaged`.

        Raises:
            UserError: it is damaged.
        """
        with undamaged(path, made_by):
            raw = json.loads(path.read_text(encoding="utf-8"))
            arrays = {
                name: {metric: np.array(array) for metric, array in raw[name].items()}
                for name in ("values", "clusters")
            }
            return cls(**arrays, chance=raw["chance"], answers={int(row): said for row, said in raw["answers"].items()})

    @classmethod
    def cached(cls, path: Path, measure: Callable[[], Measurement]) -> Measurement:
        """What was saved to `path` before, or is measured and saved now; read from the file in either case."""
        if not path.exists():
            measure().save(path)
        return cls.load(path)


def measure_vqa(
    result: Measurement,
    readout: Readout | SupervisedReadout,
    collator: Collator,
    rows: np.ndarray,
    condition: Condition | None = None,
) -> None:
    """Discriminative VQA: the best-scored candidate of the question's kind, right if it means what the answer means.

    Adds `vqa/accuracy`, `vqa/<kind>` for the primary read-out, `vqa_<read-out>/...` for the others, and
    `classification/accuracy` and `/top5` for open-vocabulary kinds, which do not count towards `vqa/accuracy`.
    """
    split = collator.split
    by_kind = {kind: rows[index] for kind, index in rows_by_kind([split.examples[row].kind for row in rows]).items()}
    right: dict[str, dict[str, np.ndarray]] = {}  # kind -> read-out -> (n,)
    ranked: dict[str, tuple[np.ndarray, list[str], list[str]]] = {}  # open-vocabulary kind -> what is needed for top 5
    for kind, kind_rows in by_kind.items():
        candidates = split.candidates[kind]
        meanings = [split.canonical_meaning[candidate] for candidate in candidates]
        truth = [split.examples[row].meaning for row in kind_rows]
        parts: dict[str, list[np.ndarray]] = defaultdict(list)
        for batch in batches_of(collator, kind_rows, condition):
            for name, chunk in readout.choose(batch, candidates).items():
                parts[name].append(chunk)
        scores = {name: np.concatenate(chunks) for name, chunks in parts.items()}
        right[kind] = {name: credit(matrix, meanings, truth) for name, matrix in scores.items()}
        primary = next(iter(scores.values()))
        choice = primary.argmax(1)
        if kind in OPEN_VOCABULARY and len(set(meanings)) > _TOP:
            ranked[kind] = primary, meanings, truth
        result.answers |= {int(row): candidates[index] for row, index in zip(kind_rows, choice, strict=True)}
        result.chance[f"vqa/{kind}"] = 1 / len(set(meanings))
    if not right:
        return
    images = {kind: np.array([split.examples[row].image for row in kind_rows]) for kind, kind_rows in by_kind.items()}
    closed = [kind for kind in right if kind not in OPEN_VOCABULARY]
    named = [kind for kind in right if kind in OPEN_VOCABULARY]
    for position, name in enumerate(next(iter(right.values()))):
        prefix = "vqa" if position == 0 else f"vqa_{name}"
        for kind in closed:
            result.add(f"{prefix}/{kind}", right[kind][name], images[kind])
        groups = {f"{prefix}/accuracy": closed, "classification/accuracy": named if position == 0 else []}
        for metric, kinds in groups.items():
            if kinds:
                result.add(
                    metric,
                    np.concatenate([right[kind][name] for kind in kinds]),
                    np.concatenate([images[kind] for kind in kinds]),
                )
    if ranked:
        among = f"classification/top{_TOP}"
        hits = [credit_among(_TOP, *one) for one in ranked.values()]
        guessed = [credit_among(_TOP, np.zeros_like(scores), *rest) for scores, *rest in ranked.values()]
        result.add(among, np.concatenate(hits), np.concatenate([images[kind] for kind in ranked]))
        result.chance[among] = float(np.concatenate(guessed).mean())
    for metric, kinds in (("vqa/accuracy", closed), ("classification/accuracy", named)):
        if kinds:
            guesses = [np.full(len(by_kind[kind]), result.chance[f"vqa/{kind}"]) for kind in kinds]
            result.chance[metric] = float(np.concatenate(guesses).mean())
    for kind in named:
        del result.chance[f"vqa/{kind}"]


def measure_right(result: Measurement, right: np.ndarray, examples: Sequence[Example]) -> None:
    """Record which questions were answered rightly, under the names that `measure_vqa` gives; `right` is (n,)."""
    images, kinds = np.array([one.image for one in examples]), np.array([one.kind for one in examples])
    closed = ~np.isin(kinds, list(OPEN_VOCABULARY))
    for kind in np.unique(kinds[closed]):
        result.add(f"vqa/{kind}", right[kinds == kind], images[kinds == kind])
    if closed.any():
        result.add("vqa/accuracy", right[closed], images[closed])
    if not closed.all():
        result.add("classification/accuracy", right[~closed], images[~closed])


def measure_captions(
    result: Measurement, readout: Readout, collator: Collator, rows: np.ndarray, condition: Condition | None = None
) -> None:
    """Free captions: CIDEr-D against all surface forms, and slot accuracy where the parser knows the world."""
    spoken: list[str] = []
    for batch in batches_of(collator, rows, condition):
        spoken.extend(readout.speak(batch))
    add_captions(result, spoken, collator, rows)


def add_captions(result: Measurement, spoken: Sequence[str], collator: Collator, rows: np.ndarray) -> None:
    """Score captions that were already spoken for the examples in `rows`."""
    examples = [collator.split.examples[row] for row in rows]
    images = np.array([example.image for example in examples])
    result.answers |= {int(row): text for row, text in zip(rows, spoken, strict=True)}
    result.add("caption/cider_d", cider_d(spoken, [list(example.targets) for example in examples]), images)
    if all(example.meaning.startswith("caption:") for example in examples):
        slots = [slot_accuracy(text, example.targets[0]) for text, example in zip(spoken, examples, strict=True)]
        result.add("caption/slots", slots, images)
        result.add("caption/exact", [slot == 1.0 for slot in slots], images)


def measure_retrieval(
    result: Measurement,
    readout: Readout,
    collator: Collator,
    rows: np.ndarray,
    linear_map: LinearMap | None = None,
    condition: Condition | None = None,
    family: str = "retrieval",
) -> None:
    """Image-to-text and text-to-image R@1, 5, 10 among the captions in `rows`; equal meanings are all right.

    Where captions repeat, `retrieval_strict/...` stands beside it, in which only the own caption is.

    Args:
        family: first part of the names of the metrics.
        linear_map: fitted on training captions, from image vectors to text vectors; VL-JEPA needs none.
    """
    if len(rows) < 2:
        return
    split = collator.split
    image_vectors = np.concatenate([readout.image_vectors(batch) for batch in batches_of(collator, rows, condition)])
    text_vectors = readout.text_vectors([split.examples[row].targets[0] for row in rows])
    if linear_map is not None:
        image_vectors = linear_map(image_vectors)
        text_vectors = linear_map.centre_targets(text_vectors)
    similarity = cosine(image_vectors, text_vectors)
    add_retrieval(result, family, similarity, split, rows)


def measure_likelihood_retrieval(
    result: Measurement, readout: TokenReadout, collator: Collator, rows: np.ndarray, prior: Collator
) -> None:
    """Retrieval by the token arm's likelihood, corrected for how likely a caption is without its image.

    The score is pointwise mutual information, log p(caption | image) - log p(caption), where p(caption) is the mean
    over training images (`prior`). Every image is read once and all captions are scored behind that prefix.
    """
    texts = [collator.split.examples[row].targets[0] for row in rows]

    def likelihood(source: Collator, source_rows: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [readout.score(readout.read(b), texts)[0] for b in batches_of(source, source_rows, None, 16)]
        )

    conditional = likelihood(collator, rows)
    marginal = likelihood(prior, Items.first(prior.split, _PRIOR_IMAGES).captions)
    peak = marginal.max(0)
    log_prior = peak + np.log(np.exp(marginal - peak).mean(0))
    add_retrieval(result, SMALL_GALLERY, conditional - log_prior, collator.split, rows)


def fit_retrieval_map(readout: Readout, collator: Collator, validation: Collator, count: int) -> LinearMap:
    """The linear map from image vectors to text vectors, fitted on `count` training captions."""
    data = []
    for source in (collator, validation):
        rows = Items.first(source.split, count).captions
        image_vectors = np.concatenate([readout.image_vectors(batch) for batch in batches_of(source, rows, None)])
        data.append((image_vectors, readout.text_vectors([source.split.examples[row].targets[0] for row in rows])))
    return LinearMap.fit(*data[0], *data[1])


def batches_of(
    collator: Collator, rows: np.ndarray, condition: Condition | None = None, size: int = _BATCH
) -> Iterator[Batch]:
    """Batches of the examples in `rows`, under the condition of a control."""
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        images = np.array([collator.split.examples[row].image for row in chunk])
        yield collator(chunk, **(condition(chunk, images) if condition else {}))  # type: ignore[arg-type]


def scores_of(measurements: Sequence[Measurement], samples: int) -> dict[str, dict[str, Any]]:
    """Every metric over seeds and items, with its interval, as `results.json` holds it.

    Args:
        measurements: of the same items, one for each seed.
        samples: of the bootstrap; see `statistics.score`.
    """
    first = measurements[0]
    return {
        metric: score(
            np.stack([one.values[metric] for one in measurements]),
            clusters,
            samples=samples,
            seed=0,
            unit=unit_of(metric),
            chance=first.chance.get(metric),
        ).to_dict()
        for metric, clusters in first.clusters.items()
    }


def unit_of(metric: str) -> str:
    """The unit in which a metric is stated."""
    metric = metric.removeprefix(CURVE)
    if metric == "caption/cider_d":
        return "CIDEr-D"
    if metric.startswith("retrieval"):
        return "recall"
    if metric.startswith("monitor"):
        return "monitor"
    return "F1" if metric == "caption/slots" else "accuracy"


def add_retrieval(result: Measurement, name: str, similarity: np.ndarray, split: Split, rows: np.ndarray) -> None:
    """Record R@k in both directions among the captions in `rows`, the strict variant too where captions repeat.

    Args:
        name: family of the metrics.
        similarity: (rows, rows), images by captions.
    """
    examples = [split.examples[row] for row in rows]
    images = np.array([example.image for example in examples])
    groups = {name: np.unique([example.meaning for example in examples], return_inverse=True)[1]}
    if len(np.unique(groups[name])) < len(rows):  # captions repeat: is a score due to them?
        groups[f"{name}_strict"] = np.arange(len(rows))
    for family, group in groups.items():
        for direction, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T)):
            hits, chance = retrieval_hits(matrix, group, group)
            for k, values in hits.items():
                metric = f"{family}/{direction}_r{k}"
                result.add(metric, values, images)
                result.chance[metric] = chance[k]

"""The paraphrase dial's ledger: what a run was told, and how far apart its targets lie.

What must stay fixed while K grows is counted (images, steps, entropy of the meanings), and what grows with it (strings,
same-meaning negatives), and two overlaps that the paper's argument is about: of the tokens of paraphrases, and of their
embeddings in the space of the targets.

Shape legend: n texts, V vocabulary, E embedding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from archlab.data.batch import pick
from archlab.data.example import Split
from archlab.data.order import Order
from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.readout import EmbeddingReadout
from archlab.evaluate.vectors import cosine
from archlab.train.run import Run, readout_of, run_order
from archlab.train.setup import Setup

_BATCHES = 100  # of the order that texts are spelt out for: they are strings, and slow
_MEANINGS = 60  # of each task whose forms are compared with each other


def measure_language(run: Run, setup: Setup) -> dict[str, Any]:
    """The ledger of a run, the token overlap of its targets and, where it has any, the similarity of their embeddings.

    Returns:
        "ledger" and, for "vqa" and "caption", "tokens" and "embeddings", each with "within" and "between" meanings.
    """
    order, split = run_order(run.config, setup), setup.dataset["train"]
    found: dict[str, Any] = {"ledger": ledger(order, split)}
    readout = readout_of(run.arm, setup)
    for task in ("vqa", "caption"):
        texts, meanings, kinds = forms_of(split, task)
        if len(set(meanings)) < 2:
            continue
        one = {"tokens": within_between(token_overlap(texts, setup.tokenizer), meanings, kinds)}
        if isinstance(readout, EmbeddingReadout):
            vectors = readout.text_vectors(texts)
            one["embeddings"] = within_between(cosine(vectors, vectors), meanings, kinds)
        found[task] = one
    return found


def ledger(order: Order, split: Split) -> dict[str, float]:
    """What training was told.

    Returns:
        images, steps, samples; `meaning_entropy` of the targets' meanings over the whole order, in bits. Of its first
        batches: `strings`, the number of different targets, `string_entropy` in bits, and the shares of a batch's pairs
        with one meaning and with one string, `same_meaning` and `same_string`, which plain InfoNCE takes for negatives.
    """
    meanings = np.unique([example.meaning for example in split.examples], return_inverse=True)[1]
    strings: Counter[str] = Counter()
    shares: dict[str, list[float]] = {"same_meaning": [], "same_string": []}
    for rows, forms in zip(order.rows[:_BATCHES], order.target_forms[:_BATCHES], strict=True):
        told = [pick(split.examples[row].targets, form) for row, form in zip(rows, forms, strict=True)]
        strings.update(told)
        shares["same_string"].append(_same(np.unique(told, return_inverse=True)[1]))
        shares["same_meaning"].append(_same(meanings[rows]))
    return {
        "images": len(split.images),
        "steps": len(order.rows),
        "samples": order.rows.size,
        "meaning_entropy": _entropy(np.bincount(meanings[order.rows.ravel()])),
        "strings": len(strings),
        "string_entropy": _entropy(np.array(list(strings.values()))),
        **{name: float(np.mean(values)) for name, values in shares.items()},
    }


def forms_of(split: Split, task: str) -> tuple[list[str], list[str], list[str]]:
    """All surface forms of the first meanings of a task, each with its meaning and its kind."""
    forms: dict[tuple[str, str], Sequence[str]] = {}
    for example in split.examples:
        if example.task == task and len(forms) < _MEANINGS:
            forms.setdefault((example.meaning, example.kind), example.targets)
    spread = [(text, meaning, kind) for (meaning, kind), texts in forms.items() for text in texts]
    texts, meanings, kinds = (list(part) for part in zip(*spread, strict=True)) if spread else ([], [], [])
    return texts, meanings, kinds


def token_overlap(texts: Sequence[str], tokenizer: TextTokenizer) -> np.ndarray:
    """Jaccard overlap (n, n) of the sets of tokens of every two texts."""
    present = np.zeros((len(texts), tokenizer.vocab_size), dtype=np.float32)  # (n, V)
    for row, tokens in enumerate(tokenizer.tokens(texts)):
        present[row, tokens] = 1
    shared = present @ present.T
    sizes = present.sum(1)
    return shared / np.maximum(sizes[:, None] + sizes - shared, 1)


def within_between(similarity: np.ndarray, meanings: Sequence[str], kinds: Sequence[str]) -> dict[str, float | None]:
    """Mean similarity of different texts of one meaning, and of texts of different meanings of one kind.

    Args:
        similarity: (n, n), symmetric.
        meanings, kinds: of each text.

    Returns:
        "within" and "between"; None where there is no such pair, as within meanings that are said in one way.
    """
    meaning, kind = (np.unique(labels, return_inverse=True)[1] for labels in (meanings, kinds))
    same_kind = kind[:, None] == kind
    same_meaning = same_kind & (meaning[:, None] == meaning)
    other = ~np.eye(len(meaning), dtype=bool)
    pairs = {"within": same_meaning & other, "between": same_kind & ~same_meaning}
    return {name: float(similarity[chosen].mean()) if chosen.any() else None for name, chosen in pairs.items()}


def _same(labels: np.ndarray) -> float:
    """Share of the pairs of different places that carry one label."""
    counts = np.bincount(labels)
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1))) if len(labels) > 1 else 0.0


def _entropy(counts: np.ndarray) -> float:
    """In bits."""
    shares = counts[counts > 0] / counts.sum()
    return -math.fsum(shares * np.log2(shares))

"""What a trunk knows: probes that read its pooled state for image and question, and must give the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from archlab.data.batch import Batch, Collator
from archlab.data.example import Split
from archlab.evaluate.measure import Measurement, batches_of
from archlab.evaluate.probes import Labelled, knn_probe, linear_probe
from archlab.evaluate.readout import pooled_states
from archlab.evaluate.vqa import rows_by_kind
from archlab.vl.arms import Arm

FEWEST = 50  # a kind with fewer items in one of the splits is not probed
MOST_ANSWERS = 32
PROBED = "answers"
"""What the probes of a checkpoint are asked for: the answers to all questions, kind by kind."""

_AT_CHECKPOINT = 200  # training items per kind: enough to compare checkpoints by, and quick
_STRENGTH = 0.01  # fixed, since validation scores the checkpoints and so cannot choose it

States = Callable[[Batch], torch.Tensor]


def pooled(arm: Arm) -> States:
    """The pooled trunk states (B, W) of an arm."""
    return lambda batch: pooled_states(arm, batch)


def probed_rows(splits: Mapping[str, Split], limits: Mapping[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """Kind -> split -> its first rows, for the kinds that have enough items in each split and few enough answers.

    Args:
        splits: by name; one of them is "train".
        limits: name of a split -> most items of a kind.
    """
    by_split = {name: rows_by_kind([one.kind for one in splits[name].examples]) for name in limits}
    chosen = {}
    for kind, candidates in splits["train"].candidates.items():
        rows = {name: by_split[name].get(kind, np.zeros(0, np.int64))[:limit] for name, limit in limits.items()}
        if len(candidates) <= MOST_ANSWERS and min(map(len, rows.values())) >= FEWEST:
            chosen[kind] = rows
    return chosen


@torch.no_grad()
def labelled(collator: Collator, rows: np.ndarray, states: States) -> Labelled:
    """States of the examples in `rows`, with their meanings and images."""
    examples = [collator.split.examples[row] for row in rows]
    return Labelled(
        np.concatenate([states(batch).cpu().numpy() for batch in batches_of(collator, rows)]),
        np.array([one.meaning for one in examples]),
        np.array([one.image for one in examples]),
    )


def measure_probes(result: Measurement, arm: Arm, train: Collator, validation: Collator, count: int) -> None:
    """Add `probe/linear/answers` and `probe/knn/answers`: probes fitted on training items, scored on validation.

    Args:
        count: most validation items of a kind.
    """
    states = pooled(arm)
    splits = {"train": train.split, "validation": validation.split}
    right: dict[str, list[np.ndarray]] = {"linear": [], "knn": []}
    images = []
    for rows in probed_rows(splits, {"train": _AT_CHECKPOINT, "validation": count}).values():
        known = labelled(train, rows["train"], states)
        asked = labelled(validation, rows["validation"], states)
        right["linear"].append(linear_probe(known, known, asked, strengths=(_STRENGTH,)))
        right["knn"].append(knn_probe(known, asked))
        images.append(asked.images)
    if images:
        for method, values in right.items():
            result.add(f"probe/{method}/{PROBED}", np.concatenate(values), np.concatenate(images))

"""What the trunks know: linear and nearest-neighbour probes on the pooled states of both arms.

For every question kind, the probe reads the state that the trunk has for image and question, and must give the answer.
The frozen features without any trunk stand beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from archlab.config import CompareConfig
from archlab.data.batch import Batch
from archlab.evaluate.measure import batches_of
from archlab.evaluate.probes import Labelled, knn_probe, linear_probe
from archlab.evaluate.vqa import rows_by_kind
from archlab.train.run import Run
from archlab.train.setup import Setup

_PER_KIND = 1000  # training items of a probe
FEWEST = 50  # a kind with fewer test items is not probed
MOST_ANSWERS = 32

States = Callable[[Batch], torch.Tensor]
Right = dict[str, dict[str, list[np.ndarray]]]
"""Probe -> what was probed -> whether each test item was right, once per seed."""


def probe_trunks(
    runs: Mapping[str, Sequence[Run]], setup: Setup, config: CompareConfig
) -> tuple[Right, dict[str, np.ndarray]]:
    """Probe every run of both arms, and the frozen features.

    Args:
        runs: arm -> its runs, one per seed.

    Returns:
        "linear/<kind>" and "knn/<kind>" -> arm or "features" -> (n,) per seed; and <kind> -> image of each test item.
    """
    right: Right = defaultdict(lambda: defaultdict(list))
    images: dict[str, np.ndarray] = {}
    for kind, rows in _rows(setup, config.test_items).items():
        sources: list[tuple[str, States]] = [("features", lambda batch: batch.features.mean(1))]
        sources += [(arm, _pooled(run)) for arm, finished in runs.items() for run in finished]
        for name, states in sources:
            train, validation, test = (_labelled(setup, split, rows[split], states) for split in rows)
            right[f"linear/{kind}"][name].append(linear_probe(train, validation, test))
            right[f"knn/{kind}"][name].append(knn_probe(train, test))
            images[kind] = test.images
    return right, images


def _pooled(run: Run) -> States:
    return lambda batch: run.arm.backbone.pooled(batch.features, batch.query, batch.query_mask)


def _rows(setup: Setup, test_items: int) -> dict[str, dict[str, np.ndarray]]:
    """Kind -> split -> rows, for the kinds that have enough items and few enough answers."""
    limits = {"train": _PER_KIND, "validation": _PER_KIND, "test": test_items}
    by_split = {name: rows_by_kind([one.kind for one in setup.dataset[name].examples]) for name in limits}
    chosen = {}
    for kind, candidates in setup.dataset["train"].candidates.items():
        rows = {name: by_split[name].get(kind, np.zeros(0, np.int64))[:limit] for name, limit in limits.items()}
        if len(candidates) <= MOST_ANSWERS and min(map(len, rows.values())) >= FEWEST:
            chosen[kind] = rows
    return chosen


@torch.no_grad()
def _labelled(setup: Setup, split: str, rows: np.ndarray, states: States) -> Labelled:
    collator = setup.collator(split)
    examples = [collator.split.examples[row] for row in rows]
    return Labelled(
        np.concatenate([states(batch).numpy() for batch in batches_of(collator, rows)]),
        np.array([one.meaning for one in examples]),
        np.array([one.image for one in examples]),
    )

"""What the trunks know: linear and nearest-neighbour probes on the pooled states of both arms.

For every question kind, the probe reads the state that the trunk has for image and question, and must give the answer.
The frozen features without any trunk stand beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from archlab.config import CompareConfig
from archlab.evaluate.probes import knn_probe, linear_probe
from archlab.evaluate.trunk_probes import States, labelled, pooled, probed_rows
from archlab.train.run import Run
from archlab.train.setup import Setup

_PER_KIND = 1000  # training items of a probe

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
    limits = {"train": _PER_KIND, "validation": _PER_KIND, "test": config.test_items}
    for kind, rows in probed_rows(setup.dataset.splits, limits).items():
        sources: list[tuple[str, States]] = [("features", lambda batch: batch.features.mean(1))]
        sources += [(arm, pooled(run.arm)) for arm, finished in runs.items() for run in finished]
        for name, states in sources:
            train, validation, test = (labelled(setup.collator(split), rows[split], states) for split in rows)
            right[f"linear/{kind}"][name].append(linear_probe(train, validation, test))
            right[f"knn/{kind}"][name].append(knn_probe(train, test))
            images[kind] = test.images
    return right, images

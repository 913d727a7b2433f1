from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from archlab.data.batch import Batch, Collator
from archlab.evaluate import trunk_probes
from archlab.evaluate.measure import Measurement
from archlab.evaluate.trunk_probes import labelled, measure_probes, pooled, probed_rows
from archlab.train.run import Run
from archlab.train.setup import Setup


class Knowing(nn.Module):
    """A backbone whose pooled state is the meaning of the answer, or noise."""

    def __init__(self, collator: Collator, *, knows: bool) -> None:
        super().__init__()
        meanings = sorted(collator.meanings)
        self.meaning = {e.id: meanings.index(e.meaning) for e in collator.split.examples if e.meaning in meanings}
        self.size, self.knows = len(meanings), knows

    def states(self, batch: Batch) -> torch.Tensor:
        if self.knows:
            return torch.eye(self.size)[[self.meaning.get(id, 0) for id in batch.ids]]
        return torch.randn(len(batch.ids), self.size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_probes, "FEWEST", 2)


def probe(setup: Setup, monkeypatch: pytest.MonkeyPatch, *, knows: bool) -> Measurement:
    train, validation = setup.collator("train"), setup.collator("validation")
    known = {name: Knowing(collator, knows=knows) for name, collator in (("a", train), ("b", validation))}
    ids = {e.id for e in train.split.examples}
    monkeypatch.setattr(
        trunk_probes,
        "pooled",
        lambda arm: lambda batch: known["a" if batch.ids[0] in ids else "b"].states(batch),
    )
    result = Measurement()
    measure_probes(result, SimpleNamespace(), train, validation, 100)  # type: ignore[arg-type]
    return result


def test_states_that_hold_the_answer_are_read_and_noise_is_not(
    tiny_setup: Setup, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing = probe(tiny_setup, monkeypatch, knows=True).means()
    ignorant = probe(tiny_setup, monkeypatch, knows=False).means()
    for method in ("linear", "knn"):
        # Answers that no training question had cannot be known.
        assert knowing[f"probe/{method}/answers"] > 0.6
        assert ignorant[f"probe/{method}/answers"] < knowing[f"probe/{method}/answers"] - 0.2


def test_every_item_carries_its_image(tiny_setup: Setup, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = probe(tiny_setup, monkeypatch, knows=True)
    values, images = (part["probe/knn/answers"] for part in (result.values, result.clusters))
    assert values.shape == images.shape
    assert set(images) <= set(range(len(tiny_setup.dataset["validation"].images)))


def test_kinds_with_few_items_or_many_answers_are_left_out(tiny_setup: Setup, few: None) -> None:
    splits, limits = tiny_setup.dataset.splits, {"train": 5, "validation": 4}
    chosen = probed_rows(splits, limits)
    assert "object" not in chosen  # 64 answers
    assert {"colour", "count"} <= chosen.keys()
    for kind, rows in chosen.items():
        for split, limit in limits.items():
            assert 2 <= len(rows[split]) <= limit
            assert {splits[split].examples[row].kind for row in rows[split]} == {kind}


def test_too_few_items_give_no_probe(tiny_setup: Setup) -> None:
    result = Measurement()
    train, validation = tiny_setup.collator("train"), tiny_setup.collator("validation")
    measure_probes(result, SimpleNamespace(backbone=None), train, validation, 10)  # type: ignore[arg-type]
    assert result.values == {}


def test_pooled_states_are_those_of_the_trunk(tiny_run: Callable[[str], Run], tiny_setup: Setup) -> None:
    arm, collator = tiny_run("vljepa").arm, tiny_setup.collator("validation")
    rows = np.arange(4)
    read = labelled(collator, rows, pooled(arm))
    batch = collator(rows)
    with torch.no_grad():
        expected = arm.backbone.pooled(batch.features, batch.query, batch.query_mask)
    np.testing.assert_array_equal(read.features, expected.numpy())
    assert read.labels.tolist() == [collator.split.examples[row].meaning for row in rows]

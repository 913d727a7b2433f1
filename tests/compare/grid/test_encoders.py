"""A protocol that pretrains encoders: its budgets, its cells, and the report made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.compare.grid.small import TINY
from tests.evaluate.classes import SIZES, classes_of

from archlab.compare.grid import run as grid
from archlab.compare.grid.encoders import apply_budget, digests, step_flops
from archlab.compare.grid.inputs import make_inputs
from archlab.compare.grid.protocol import load_protocol
from archlab.compare.grid.results import FILE
from archlab.compare.grid.run import Places, run_grid
from archlab.config import OptimizerConfig, PretrainConfig, TransformerConfig
from archlab.errors import UserError
from archlab.evaluate import set_probes
from archlab.train import streams

PROTOCOL: dict[str, Any] = {
    "recipe": "pretrain",
    "question": "q",
    "hypothesis": "h",
    "decision": "d",
    "primary": "tokens/shape",
    "expect": [
        {"arm": "ijepa", "over": "none", "claim": "higher"},
        {"arm": "ijepa", "over": "none", "metric": "monitor/alarm", "claim": "within", "margin": 0.5},
    ],
    "arms": {"none": {"method": "none"}, "ijepa": {"method": "ijepa"}, "vjepa": {"method": "vjepa"}},
    "seeds": [0],
    "base": {
        "encoder": TINY,
        "jepa": {"predictor": TINY},
        "optimizer": {"steps": 3, "batch_size": 8},
        "probe_every": 2,
    },
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are run in this process, which knows of the few probes."""

    def one_by_one(work: Callable[..., Any], calls: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
        yield from (work(*call) for call in calls)

    monkeypatch.setattr(grid, "side_by_side", one_by_one)


def test_a_protocol_of_encoders_runs_to_cells_and_a_report(here: None, few_probes: None, tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(PROTOCOL), encoding="utf-8")
    places, out = Places(tmp_path / "cells", tmp_path / "work"), tmp_path / "out"
    run_grid(path, places, out, workers=1)
    files = {file: json.loads(file.read_text()) for file in places.cells.glob(f"*/{FILE}")}
    assert len(files) == 3
    for file, results in files.items():
        method = results["config"]["method"]
        assert results["test"]["test"]["tokens/shape"].keys() == {"value", "n"}
        assert "knn/shape" in results["test"]["test"]
        steps = [0] if method == "none" else [0, 2, 3]
        assert [point["step"] for point in results["curve"]] == steps
        assert [point["step"] for point in results["monitor"]["points"]] == steps
        assert not [name for name in results["curve"][0]["scores"] if name.startswith("monitor")]
        assert (results["training"]["flops"] > 0) == (results["parameters"]["trainable"] > 0) == (method != "none")
        assert results["training"]["samples"] == 8 * steps[-1]
        assert file.stat().st_size < 20_000
    text = (out / "report.md").read_text(encoding="utf-8")
    for heading in ("## Probes", "## Equal time", "## Collapse monitors", "## Learning curves"):
        assert heading in text
    assert "3 of 3 runs are finished" in text
    assert "ijepa minus none is within 0.5 of zero in the monitor's alarm | +0.00 | +0.00" in text
    assert "| shape, nearest neighbours |" in text
    assert "Not run yet" not in text
    assert (out / "report.html").exists()
    assert list(out.glob("monitors-*.svg"))

    before = {file: file.stat().st_mtime_ns for file in files}
    run_grid(path, places, out, workers=1)
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_an_encoder_that_learned_from_sets_of_known_classes_is_probed_on_them_beside_their_pixels(
    here: None, few_probes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eurosat = classes_of("eurosat")
    monkeypatch.setattr(set_probes, "load_dataset", lambda config, size: eurosat)
    monkeypatch.setattr(streams, "image_source", lambda name, size, seed: eurosat["train"].images)
    set_probes._known.cache_clear()
    path, places = tmp_path / "protocol.yaml", Places(tmp_path / "cells", tmp_path / "work")
    base = PROTOCOL["base"] | {"sources": ["scenes", "eurosat"]}
    expect = [{"arm": "ijepa", "over": "none", "metric": "pooled/eurosat"}]
    path.write_text(yaml.safe_dump(PROTOCOL | {"base": base, "expect": expect}), encoding="utf-8")
    run_grid(path, places, tmp_path / "out", workers=1)
    cells = [json.loads(file.read_text()) for file in places.cells.glob(f"*/{FILE}")]
    asked = [cell["test"]["test"] for cell in cells]
    assert all(one["pooled/eurosat"]["n"] == SIZES["test"] for one in asked)
    assert len({one["pixels/eurosat"]["value"] for one in asked}) == 1  # whatever the encoder
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| eurosat, linear probe of the mean token |" in text
    assert "| eurosat, linear probe of gradients and colours, without the encoder |" in text
    assert "waits for runs" not in text

    config = replace(SMALL, sources=["scenes", "eurosat"])
    before = digests(config)
    eurosat = classes_of("eurosat", seed=5)  # other pictures are asked about
    set_probes._known.cache_clear()
    assert digests(config) != before
    set_probes._known.cache_clear()


SMALL = PretrainConfig(
    encoder=TransformerConfig(width=32, depth=2, heads=2, feed_forward=64),
    optimizer=OptimizerConfig(steps=100, batch_size=8),
)


@pytest.mark.parametrize("method", ["mae", "ijepa", "vjepa"])
def test_equal_operations_are_those_of_lejepa_to_within_half_a_step(method: Any) -> None:
    config = replace(SMALL, method=method)
    reference = replace(SMALL, method="lejepa")
    budgeted = apply_budget("equal-flops", config)
    assert replace(budgeted, optimizer=config.optimizer) == config  # nothing else differs
    goal, spent = (one.optimizer.steps * step_flops(one) for one in (reference, budgeted))
    assert abs(goal - spent) <= step_flops(config) / 2 + 1
    assert apply_budget("equal-flops", reference) == reference
    assert apply_budget("equal-images", config) == config


@pytest.mark.parametrize("name", ["encoders", "encoders-real"])
def test_no_cell_of_equal_operations_is_longer_than_the_dearest_in_its_protocol(name: str) -> None:
    """A cheap method has more steps than `most_steps` allows; what that bounds, the length of a cell, is kept."""
    path = Path(__file__).parents[3] / "04-comparisons" / "protocols" / f"{name}.yaml"
    protocol = load_protocol(path)
    configs = [protocol.config(arm, {"budget": "equal-flops"}, 0) for arm in protocol.arms]
    budgeted = [apply_budget("equal-flops", one) for one in configs if isinstance(one, PretrainConfig)]
    spent = [one.optimizer.steps * step_flops(one) for one in budgeted]
    dearest = next(cost for one, cost in zip(budgeted, spent, strict=True) if one.method == "lejepa")
    assert max(spent) <= 1.01 * dearest


def test_the_masked_autoencoder_is_the_cheaper_for_the_patches_that_it_does_not_see() -> None:
    cheap, dear = (step_flops(replace(SMALL, mae=replace(SMALL.mae, mask_ratio=share))) for share in (0.9, 0.1))
    assert cheap < dear
    assert step_flops(replace(SMALL, method="none")) == 0


def test_operations_grow_with_the_batch_and_counting_them_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    one = step_flops(replace(SMALL, method="lejepa"))
    two = step_flops(replace(SMALL, method="lejepa", optimizer=replace(SMALL.optimizer, batch_size=16)))
    assert two == pytest.approx(2 * one, rel=0.01)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_budget_is_refused() -> None:
    with pytest.raises(UserError, match="budget 'paper': must be one of equal-images, equal-flops where encoders are"):
        make_inputs().budgeted("paper", SMALL)


def test_a_run_is_known_by_the_images_it_reads() -> None:
    assert digests(SMALL) == digests(replace(SMALL, method="ijepa"))
    assert digests(SMALL) != digests(replace(SMALL, image_size=32))
    assert digests(SMALL)[0] == "pretrain"
    assert make_inputs().digests(SMALL) == digests(SMALL)


@pytest.mark.parametrize("name", ["encoders", "encoders-real"])
def test_an_arm_is_called_lejepa_only_where_it_reconstructs_nothing(name: str) -> None:
    protocol = load_protocol(Path(__file__).parents[3] / "04-comparisons" / "protocols" / f"{name}.yaml")
    for arm in protocol.arms:
        config = protocol.config(arm, {"budget": "equal-images"}, 0)
        if isinstance(config, PretrainConfig) and config.method == "lejepa":
            assert ("reconstruction" in arm) == (config.lejepa.reconstruction > 0), arm

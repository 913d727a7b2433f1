"""A whole protocol of tiny cells: run, continued, shared, interrupted, tuned, and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.compare.grid.small import small_base

from archlab.compare.budgets import apply_budget
from archlab.compare.experiment import batch_shapes
from archlab.compare.flops import Sizes
from archlab.compare.grid import items
from archlab.compare.grid import run as grid
from archlab.compare.grid.cells import Cell
from archlab.compare.grid.inputs import make_inputs
from archlab.compare.grid.items import StoredItems
from archlab.compare.grid.language import forms_of, ledger, token_overlap, within_between
from archlab.compare.grid.results import FILE, load_cell
from archlab.compare.grid.run import Places, run_grid
from archlab.config import RunConfig, TransformerConfig, to_dict
from archlab.data.order import Order
from archlab.errors import DivergedError, UserError
from archlab.train.setup import Setup
from archlab.vl.encoder import FrozenEncoder


def protocol_of(weights: Path, **changes: Any) -> dict[str, Any]:
    """Two arms and one after another, at two settings of the dial, one seed, three steps each."""
    return {
        "question": "q",
        "hypothesis": "h",
        "decision": "d",
        "primary": "vqa/accuracy",
        "expect": [{"arm": "vljepa", "over": "token", "claim": "rising", "along": "K"}],
        "arms": {
            "token": {"arm": "token"},
            "vljepa": {"arm": "vljepa"},
            "hybrid": {"arm": "hybrid", "after": "vljepa"},
        },
        "factors": {"K": {"key": "data.scenes.paraphrases", "values": [1, 4]}},
        "seeds": [0],
        "test_items": 6,
        "base": small_base(weights),
        **changes,
    }


def write(folder: Path, protocol: dict[str, Any], name: str = "dial") -> Path:
    path = folder / "protocols" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(protocol), encoding="utf-8")
    return path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells are run in this process; the keys of those that were asked for."""
    asked: list[str] = []

    def one_by_one(work: Callable[..., Any], calls: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
        for call in calls:
            asked.append(call[0].key)
            yield work(*call)

    monkeypatch.setattr(grid, "side_by_side", one_by_one)
    return asked


def run(path: Path, **options: Any) -> Path:
    root = path.parents[1]
    return run_grid(path, Places(root / "cells", root / "work"), root / "results" / path.stem, workers=1, **options)


def cells_of(path: Path) -> dict[str, dict[str, Any]]:
    files = (path.parents[1] / "cells").glob(f"*/{FILE}")
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def test_a_protocol_runs_to_cells_and_a_report_and_goes_on_where_it_stopped(
    tiny_encoder: Path, tmp_path: Path, here: list[str]
) -> None:
    path = write(tmp_path, protocol_of(tiny_encoder))
    page = run(path)
    found = cells_of(path)
    assert len(found) == len(here) == 6
    for key, results in found.items():
        assert results["key"] == key
        assert results["test"]["test"]["vqa/accuracy"].keys() >= {"value", "n", "chance"}
        kept = StoredItems(tmp_path / "cells" / key / items.FILE)
        for where, scores in results["test"].items():
            for metric, score in scores.items():
                values, images, _ = kept.get(where, metric) or pytest.fail(f"{where} {metric}: no items")
                assert len(values) == len(images) == score["n"]
                assert values.astype(float).mean() == pytest.approx(score["value"], abs=2e-3)
        assert results["curve"][-1]["step"] == 3
        assert results["training"]["flops"] > 0
        assert results["language"]["ledger"]["steps"] == 3
        assert len(json.dumps(results)) < 60_000
        embeds = results["config"]["arm"] != "token"
        assert ("embeddings" in results["language"]["vqa"]) == embeds
        assert ("decoder_ceiling" in results["test"]) == ("nearest_caption" in results["test"]) == embeds
        if results["config"]["arm"] == "hybrid":
            parent = found[results["config"]["start"]["run"].removeprefix("cell:")]
            assert parent["config"]["arm"] == "vljepa"
            assert parent["config"]["data"] == results["config"]["data"]
    entropies = {round(one["language"]["ledger"]["meaning_entropy"], 9) for one in found.values()}
    assert len(entropies) == 1  # the dial turns wording alone

    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "6 of 6 runs are finished" in text
    assert "Entropy of meanings, bits: the same in all runs." in text
    assert (page.parent / "primary.svg").exists()

    # Again: nothing is run. With one cell less: that one. Another protocol of the same cells: nothing.
    here.clear()
    run(path)
    assert here == []
    missing = next(key for key, one in found.items() if one["config"]["arm"] == "token")
    (tmp_path / "cells" / missing / FILE).unlink()
    run(path, run=False)
    assert "5 of 6 runs are finished" in (page.parent / "report.md").read_text(encoding="utf-8")
    assert here == []
    other = protocol_of(tiny_encoder, question="other", arms={"vljepa": {"arm": "vljepa"}}, expect=[])
    run(write(tmp_path, other, "other"))
    assert here == []
    run(path)
    assert here == [missing]
    again = cells_of(path)[missing]
    for part in ("test", "language", "order_digest", "data_digest"):
        assert again[part] == found[missing][part]


def test_rates_are_tuned_equally_on_validation_and_a_screen_is_the_first_seed(
    tiny_encoder: Path, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without training: what matters is which cells are made of what."""
    best = {"token": 0.02, "vljepa": 0.01}

    def finish(cell: Cell, places: Places) -> None:
        rate, arm = cell.config.optimizer.learning_rate, cell.config.arm
        results: dict[str, Any] = {"config": to_dict(cell.config), "git": "x"}
        if cell.test_items == 0 and arm == "token" and rate == 0.5:
            results["diverged"] = "step 2: the loss is nan"
        else:
            results["curve"] = [{"samples": 8, "scores": {"vqa/accuracy": 1.0 if rate == best[arm] else 0.5}}]
        folder = places.cells / cell.key
        folder.mkdir(parents=True)
        (folder / FILE).write_text(json.dumps(results))

    monkeypatch.setattr(grid, "finish", finish)
    changes = {
        "arms": {arm: {"arm": arm} for arm in best},
        "factors": {},
        "expect": [],
        "seeds": [0, 1],
        "tuning": {"learning_rates": [0.01, 0.02, 0.5], "steps": 2},
    }
    path = write(tmp_path, protocol_of(tiny_encoder, **changes))
    run(path, screen=True)
    found = cells_of(path).values()
    trials = [one["config"] for one in found if one["config"]["optimizer"]["steps"] == 2]
    main = [one["config"] for one in found if one["config"]["optimizer"]["steps"] == 3]
    assert len(trials) == 6
    assert {(one["arm"], one["seed"], one["optimizer"]["learning_rate"]) for one in main} == {
        ("token", 0, 0.02),
        ("vljepa", 0, 0.01),
    }
    report = (tmp_path / "results" / "dial" / "report.md").read_text(encoding="utf-8")
    assert "diverged" in report
    assert "Not run yet: token, seed 1" in report


def test_a_cell_that_fails_does_not_stop_the_others_and_one_that_diverges_is_a_result(
    tiny_encoder: Path, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(cell: Cell, places: Places) -> Any:
        if cell.config.arm == "token":
            raise DivergedError("step 3: the loss is nan")
        raise UserError("disk full")

    monkeypatch.setattr(grid, "trained", trained)
    changes = {"arms": {"token": {"arm": "token"}, "vljepa": {"arm": "vljepa"}}, "factors": {}, "expect": []}
    path = write(tmp_path, protocol_of(tiny_encoder, **changes))
    with pytest.raises(UserError, match=r"1 cell failed, all others are kept and reported; cell [0-9a-f]+: disk full"):
        run(path)
    assert [one["diverged"] for one in cells_of(path).values()] == ["step 3: the loss is nan"]
    report = (tmp_path / "results" / "dial" / "report.md").read_text(encoding="utf-8")
    assert "Diverged: token, seed 0: step 3: the loss is nan." in report
    assert "Not run yet: vljepa, seed 0" in report
    with pytest.raises(UserError, match="1 cell failed"):
        run(path)


def test_a_cell_made_under_another_default_is_refused(tmp_path: Path) -> None:
    cell = Cell(RunConfig(), 5, ())
    path = tmp_path / cell.key / FILE
    path.parent.mkdir()
    old = to_dict(RunConfig())
    old["optimizer"]["weight_decay"] = 0.3
    path.write_text(json.dumps({"config": old}))
    with pytest.raises(UserError, match=r"made with optimizer.weight_decay=0.3, a default that is 0.05 now; remove"):
        load_cell(cell, tmp_path)
    del old["optimizer"]["weight_decay"]  # an option that came later, at its default, is no difference
    path.write_text(json.dumps({"config": old}))
    assert load_cell(cell, tmp_path) == {"config": old}
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged; remove its folder"):
        load_cell(cell, tmp_path)


def test_digests_are_those_of_the_data_the_tokenizer_and_the_encoder(tiny_config: RunConfig, tiny_setup: Setup) -> None:
    for _ in range(2):  # read from the cache the second time
        digests = make_inputs().digests(tiny_config)
        *of_data, of_tokenizer, of_encoder = digests
        assert [*of_data, of_encoder] == tiny_setup.digests()
    scenes = replace(tiny_config.data.scenes, paraphrases=8)
    other = make_inputs().digests(replace(tiny_config, data=replace(tiny_config.data, scenes=scenes)))
    assert other[-1] == of_encoder == FrozenEncoder.load(tiny_config.encoder.weights).digest
    assert other[-2] == of_tokenizer  # the dial does not change the vocabulary
    assert set(other[:-2]).isdisjoint(of_data)
    small = replace(tiny_config, tokenizer=replace(tiny_config.tokenizer, vocab_size=270))
    *same, smaller, _ = make_inputs().digests(small)
    assert same == of_data
    assert smaller != of_tokenizer


def test_a_pretrained_part_that_changes_under_its_name_makes_other_cells(
    tiny_config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    weights = tmp_path / "model.safetensors"
    plain = make_inputs().digests(tiny_config)
    for part in ("vljepa.target_weights", "language.weights"):
        section, name = part.split(".")
        plain_trunk = replace(tiny_config, trunk=TransformerConfig())  # a language model brings its own
        own = replace(plain_trunk, **{section: replace(getattr(tiny_config, section), **{name: str(tmp_path)})})
        weights.write_bytes(b"before")
        before = make_inputs().digests(own)
        assert before[:-1] == plain
        assert make_inputs().digests(own) == before
        weights.write_bytes(b"after")
        assert make_inputs().digests(own)[-1] != before[-1]


@pytest.mark.parametrize("name", ["shared", "paper", "equal-params", "equal-flops"])
def test_a_run_under_a_budget_is_that_of_a_comparison(tiny_config: RunConfig, tiny_setup: Setup, name: Any) -> None:
    sizes = Sizes(tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size, len(tiny_setup.answers))
    inputs = make_inputs()
    for arm in ("token", "vljepa"):
        own = replace(tiny_config, arm=arm)  # type: ignore[arg-type]
        wanted = apply_budget(name, own, sizes, batch_shapes(own, tiny_setup))
        assert inputs.budgeted(name, own) == getattr(wanted, arm)
        assert inputs.budgeted(name, replace(own, seed=4)) == replace(getattr(wanted, arm), seed=4)


def test_the_ledger_counts_what_training_was_told(tiny_setup: Setup) -> None:
    split = tiny_setup.dataset["train"]
    rows = np.array([[0, 0, 1, 2], [0, 0, 0, 0]])
    zeros = np.zeros_like(rows)
    one = ledger(Order(rows, zeros, zeros, zeros), split)
    meanings = [split.examples[row].meaning for row in rows.ravel()]
    shares = np.unique(meanings, return_counts=True)[1] / len(meanings)
    assert one["meaning_entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert (one["steps"], one["samples"], one["images"]) == (2, 8, len(split.images))
    first = [split.examples[row].meaning for row in rows[0]]
    same = np.mean([a == b for i, a in enumerate(first) for j, b in enumerate(first) if i != j])
    assert one["same_meaning"] == pytest.approx((same + 1) / 2)
    reworded = ledger(Order(rows, zeros, np.array([[0, 1, 2, 3], [0, 1, 2, 3]]), zeros), split)
    assert reworded["same_meaning"] == one["same_meaning"]
    assert reworded["same_string"] < one["same_string"]
    assert reworded["strings"] > one["strings"]


def test_overlap_is_taken_within_and_between_meanings_of_one_kind(tiny_setup: Setup) -> None:
    similarity = np.array([[1, 0.5, 0.2, 9], [0.5, 1, 0.4, 9], [0.2, 0.4, 1, 9], [9, 9, 9, 1]], float)
    found = within_between(similarity, ["red", "red", "blue", "two"], ["colour", "colour", "colour", "count"])
    assert found == {"within": pytest.approx(0.5), "between": pytest.approx(0.3)}
    assert within_between(similarity, list("abcd"), list("wxyz")) == {"within": None, "between": None}
    texts, meanings, kinds = forms_of(tiny_setup.dataset["train"], "vqa")
    assert len(texts) == len(meanings) == len(kinds) == 4 * len(set(zip(meanings, kinds, strict=True)))
    overlap = token_overlap(texts, tiny_setup.tokenizer)
    assert np.allclose(np.diag(overlap), 1)
    ids = [set(row) for row in tiny_setup.tokenizer.tokens(texts[:2])]
    assert overlap[0, 1] == pytest.approx(len(ids[0] & ids[1]) / len(ids[0] | ids[1]))


@pytest.mark.slow
def test_ctrl_c_loses_nothing_and_the_same_command_ends_in_the_same_numbers(tiny_encoder: Path, tmp_path: Path) -> None:
    """In real processes: two workers, interrupted once the first cell is there, and a run that is left alone."""
    base = protocol_of(tiny_encoder)
    base["base"]["optimizer"] = {"steps": 60, "batch_size": 8}
    base |= {"arms": {"token": {"arm": "token"}, "vljepa": {"arm": "vljepa"}}, "factors": {}, "expect": []}
    base["seeds"] = [0, 1]
    paths = [write(tmp_path / name, base) for name in ("whole", "broken")]

    def command(path: Path) -> list[str]:
        work = ["--work", str(path.parents[1] / "work")]
        return [sys.executable, "-m", "archlab", "grid", str(path), "--workers", "2", *work]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(paths[0]), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    assert "s left" in done.stderr or "done in" in done.stderr

    process = subprocess.Popen(
        command(paths[1]), stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    while not cells_of(paths[1]) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert process.returncode in (0, 130), error  # 0: it was faster than the signal
    assert process.returncode == 0 or "the same command resumes the run" in error
    done = subprocess.run(command(paths[1]), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    whole, broken = (cells_of(path) for path in paths)
    assert whole.keys() == broken.keys()
    assert len(whole) == 4
    for key, results in whole.items():
        for part in ("test", "language", "order_digest", "parameters"):
            assert broken[key][part] == results[part], part
        assert [p["scores"] for p in broken[key]["curve"]] == [p["scores"] for p in results["curve"]]

"""Finished runs, asked on other splits, on corrupted images and under controls, by cells that train nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.compare.grid.small import small_base

from archlab.compare.grid import run as grid
from archlab.compare.grid.conditions import Condition, measure_conditions
from archlab.compare.grid.results import FILE
from archlab.compare.grid.run import Places, run_grid
from archlab.data.scenes.syntax import SYNTAX, in_new_syntax
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.train.run import load_run, measure_arm
from archlab.train.setup import Setup


def protocol_of(weights: Path, **changes: Any) -> dict[str, Any]:
    """Two arms with their blind controls, one seed, three steps each."""
    arms = {arm: {"arm": arm} for arm in ("token", "vljepa")}
    return {
        "question": "q",
        "hypothesis": "h",
        "decision": "d",
        "primary": "vqa/accuracy",
        "also": ["caption/slots"],
        "arms": arms | {f"{arm}-blind": {"of": arm, "control": "shuffled_image"} for arm in arms},
        "seeds": [0],
        "test_items": 8,
        "base": small_base(weights),
        **changes,
    }


ROBUSTNESS: dict[str, Any] = {
    "factors": {
        "corruption": {"key": "corruption", "values": ["noise", "style"]},
        "severity": {"key": "severity", "values": [0, 1, 2, 8]},
    },
    "expect": [
        {"arm": "token", "claim": "lower", "at": {"severity": 8}, "against": {"severity": 0}},
        {"arm": "vljepa", "over": "vljepa-blind", "at": {"severity": 1, "corruption": "noise"}},
    ],
}
SPLITS: dict[str, Any] = {
    "factors": {"split": {"key": "split", "values": ["test", "test_combinations"]}},
    "expect": [{"arm": "token", "over": "token-blind", "at": {"split": "test_combinations"}}],
}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells are run in this process; the folders of the runs that were begun."""
    begun: list[str] = []

    def one_by_one(work: Callable[..., Any], calls: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
        yield from (work(*call) for call in calls)

    train = grid.train_run

    def noted(config: Any, setup: Any, folder: Path, description: str) -> Any:
        if not (folder / "metrics.json").exists():
            begun.append(description)
        return train(config, setup, folder, description)

    monkeypatch.setattr(grid, "side_by_side", one_by_one)
    monkeypatch.setattr(grid, "train_run", noted)
    return begun


def run(root: Path, name: str, protocol: dict[str, Any], **options: Any) -> Path:
    path = root / "protocols" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(protocol), encoding="utf-8")
    run_grid(path, Places(root / "cells", root / "work"), root / "results" / name, workers=1, **options)
    return root / "results" / name


def test_a_protocol_of_robustness_trains_each_arm_once_and_asks_both_on_the_same_features(
    tiny_encoder: Path, tmp_path: Path, trained: list[str]
) -> None:
    plain = protocol_of(tiny_encoder, arms={arm: {"arm": arm} for arm in ("token", "vljepa")})
    run(tmp_path, "plain", plain)
    before = set(trained)
    assert len(before) == len(trained) == 2
    out = run(tmp_path, "robustness", protocol_of(tiny_encoder, **ROBUSTNESS))
    assert len(trained) == 2  # its runs were there

    cells = {file.parent.name: json.loads(file.read_text()) for file in (tmp_path / "cells").glob(f"*/{FILE}")}
    asked = [one for key, one in cells.items() if key not in before]
    assert len(asked) == 4  # an arm and a corruption each
    by_arm: dict[str, dict[str, str]] = {"token": {}, "vljepa": {}}
    for one in asked:
        assert one["run"] in before
        assert len(json.dumps(one)) < 60_000
        by_arm[one["config"]["arm"]] |= one["features_digest"]
        for name, scores in one["test"].items():
            assert scores["vqa/accuracy"]["n"] == cells[one["run"]]["test"]["test"]["vqa/accuracy"]["n"], name
    assert by_arm["token"] == by_arm["vljepa"]
    damaged = {f"{kind}-{severity}" for kind in ("noise", "style") for severity in (1, 2, 8)}
    assert by_arm["token"].keys() == damaged | {f"{name}/shuffled_image" for name in damaged}
    assert len(set(by_arm["token"].values())) == 6  # a control reads the features that it controls

    text = (out / "report.md").read_text(encoding="utf-8")
    assert "32 of 32 places of the tables are finished, in 6 cells" in text
    assert "| corruption=style, severity=8 |" in text  # wide tables are turned
    assert "token, less the same at severity=0, is below zero at corruption=noise, severity=8" in text
    assert text.count("## Learning curves") == 1
    assert "## Captions, facts right" in text
    assert len(list(out.glob("primary-*.svg"))) == 2  # accuracy over severity, one for each corruption
    assert len(list(out.glob("learning*.svg"))) == 1  # runs are drawn once, whatever they were asked on
    found = json.loads((out / "results.json").read_text())
    assert found["cells"] == {"finished": 6, "of": 6}
    assert [one["outcome"] for one in found["verdicts"]] == ["undecided"] * 3

    # One corruption less: nothing is measured anew. Nothing is trained where weights are gone and cells are there.
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob(f"*/{FILE}")}
    noise = {"corruption": {"key": "corruption", "values": ["noise"]}}
    run(tmp_path, "fewer", protocol_of(tiny_encoder, **(ROBUSTNESS | {"factors": ROBUSTNESS["factors"] | noise})))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob(f"*/{FILE}")} == stamps


def test_other_splits_are_read_from_the_runs_cells_and_only_their_controls_are_measured(
    tiny_encoder: Path, tmp_path: Path, trained: list[str]
) -> None:
    out = run(tmp_path, "splits", protocol_of(tiny_encoder, **SPLITS))
    cells = {file.parent.name: json.loads(file.read_text()) for file in (tmp_path / "cells").glob(f"*/{FILE}")}
    asked = [one for one in cells.values() if "run" in one]
    assert len(trained) == len(asked) == 2
    for one in asked:
        assert one["test"].keys() == {"test_combinations/shuffled_image"}
    found = json.loads((out / "results.json").read_text())["verdicts"][0]["found"]
    token = next(one for one in asked if one["config"]["arm"] == "token")
    own = cells[token["run"]]["test"]["test_combinations"]["vqa/accuracy"]["value"]
    blind = token["test"]["test_combinations/shuffled_image"]["vqa/accuracy"]["value"]
    assert found["value"] == pytest.approx(own - blind)


def test_a_split_that_the_data_have_not_is_named(tiny_encoder: Path, tmp_path: Path, trained: list[str]) -> None:
    factors = {"split": {"key": "split", "values": ["test", "test_nights"]}}
    arms = {"token": {"arm": "token"}, "token-blind": {"of": "token", "control": "no_query"}}
    with pytest.raises(UserError, match="split 'test_nights': the data have none of that name; they have test, "):
        run(tmp_path, "nights", protocol_of(tiny_encoder, factors=factors, arms=arms))


def test_a_control_is_shown_other_images(talkative_run: Callable[[str], Path], tiny_setup: Setup) -> None:
    """And reads the corrupted features: those of the images as they were say something else again."""
    opened = load_run(talkative_run("vljepa"), tiny_setup)
    conditions = [Condition(severity=8, corruption="noise", control=control) for control in ("", "shuffled_image")]
    own, other = measure_conditions(conditions, opened, tiny_setup, 12).values()
    assert own.features_digest == other.features_digest
    assert own.images == other.images == tiny_setup.dataset["test"].image_digest  # paired with those as they were
    assert own.measurement.answers != other.measurement.answers
    plain = measure_arm(opened.arm, tiny_setup, opened.config, "test", 12)
    assert own.measurement.answers != plain.answers
    assert own.measurement.answers.keys() == plain.answers.keys()


def test_in_unseen_syntax_the_same_is_asked_and_other_captions_are_searched(
    talkative_run: Callable[[str], Path], tiny_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = load_run(talkative_run("vljepa"), tiny_setup)
    searched: list[list[str]] = []
    embed = EmbeddingReadout.text_vectors
    monkeypatch.setattr(
        EmbeddingReadout, "text_vectors", lambda self, texts: (searched.append(list(texts)), embed(self, texts))[1]
    )
    asked = measure_conditions([Condition(), Condition(SYNTAX)], opened, tiny_setup, 12).values()
    assert len({(one.features_digest, one.images) for one in asked}) == 1
    plain, new = (one.measurement for one in asked)
    assert new.answers == plain.answers
    assert new.values["caption/slots"].tolist() == plain.values["caption/slots"].tolist()  # the truth is the same
    captions = [
        [one.targets[0] for one in split.examples if one.task == "caption"][:12]
        for split in (tiny_setup.dataset["test"], in_new_syntax(tiny_setup.dataset["test"]))
    ]
    plain_captions, new_captions = captions
    # The new ones twice: once more among few, as the token arm's likelihood can.
    assert [texts for texts in searched if texts in captions] == [plain_captions, new_captions, new_captions]
    assert "retrieval_pmi/image_to_text_r1" in new.values


def test_a_condition_is_known_by_what_differs_from_the_test_split() -> None:
    names = [
        Condition(),
        Condition(control="no_query"),
        Condition("test_forms"),
        Condition("test_forms", control="no_query"),
        Condition("test", "blur", 2),
        Condition("test_forms", "blur", 2, "no_query"),
        Condition(SYNTAX),
    ]
    assert [one.name for one in names] == [
        "test", "no_query", "test_forms", "test_forms/no_query", "blur-2", "test_forms/blur-2/no_query",
        "test_syntax",
    ]  # fmt: skip
    assert [one.usual for one in names] == [True, True, True, False, False, False, False]

"""Protocols say what is run and what decides; a wrong one is refused in one line before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from archlab.compare.grid.cells import CELL, Cell, Inputs, main_rows, place, relevant, tuning_rows, unique_cells
from archlab.compare.grid.protocol import Config, Protocol, load_protocol
from archlab.config import ContrastiveConfig, LatentPredictionConfig, PretrainConfig, RunConfig, StartConfig
from archlab.errors import UserError

COMMITTED = sorted(
    path
    for path in (Path(__file__).parents[3] / "04-comparisons" / "protocols").glob("*.yaml")
    if not path.stem.startswith("selective-")  # of `archlab selective`
)
SMALL: dict[str, Any] = {
    "question": "q",
    "hypothesis": "h",
    "decision": "d",
    "primary": "vqa/accuracy",
    "arms": {"token": {"arm": "token"}, "vljepa": {"arm": "vljepa"}},
    "factors": {"K": {"key": "data.scenes.paraphrases", "values": [1, 4]}},
    "seeds": [0, 1],
}


def corruptions(kinds: list[str], severities: Sequence[int] = (0, 1)) -> dict[str, Any]:
    return {
        "corruption": {"key": "corruption", "values": kinds},
        "severity": {"key": "severity", "values": list(severities)},
    }


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}), encoding="utf-8")
    return path


def budget(name: str, config: Config) -> Config:
    """Stands in for the real one: as that, it leaves VL-JEPA as it is but under equal-flops."""
    if isinstance(config, PretrainConfig):
        return config if name == "equal-images" else replace(config, optimizer=replace(config.optimizer, steps=7))
    if config.arm == "token" and name == "paper":
        return replace(config, trunk=replace(config.trunk, depth=2 * config.trunk.depth))
    return config


def digests(config: Config) -> tuple[str, ...]:
    return ("images",) if isinstance(config, PretrainConfig) else (f"digest at K={config.data.scenes.paraphrases}",)


INPUTS = Inputs(digests, budget)


def test_every_arm_is_run_at_every_level_under_every_seed(tmp_path: Path) -> None:
    protocol = load_protocol(write(tmp_path))
    rows = main_rows(protocol, INPUTS, {})
    assert {(row.arm, row.levels["K"], row.seed) for row in rows} == {
        (arm, k, seed) for arm in ("token", "vljepa") for k in (1, 4) for seed in (0, 1)
    }
    for row in rows:
        assert (row.cell.config.arm, row.cell.config.seed) == (row.arm, row.seed)
        assert row.cell.config.data.scenes.paraphrases == row.levels["K"]
    assert [row.seed for row in rows] == [0] * 4 + [1] * 4  # an early interruption leaves a whole screening
    assert len({row.cell.key for row in rows}) == len(rows)


def test_base_is_under_the_arm_and_the_arm_is_under_the_factor(tmp_path: Path) -> None:
    base = {"optimizer": {"steps": 7, "batch_size": 9}, "data": {"scenes": {"paraphrases": 8}}}
    arms = {"token": {"arm": "token", "optimizer": {"steps": 5}}}
    protocol = load_protocol(write(tmp_path, base=base, arms=arms))
    config = protocol.config("token", {"K": 1}, 3)
    assert (config.optimizer.steps, config.optimizer.batch_size, config.seed) == (5, 9, 3)
    assert config.data.scenes.paraphrases == 1


def test_equal_runs_are_one_cell_whatever_protocol_and_arm_they_are_of(tmp_path: Path) -> None:
    ours = {"a": {"arm": "vljepa"}, "b": {"arm": "vljepa", "token": {"attention": "causal"}}, "c": {"arm": "token"}}
    rows = main_rows(load_protocol(write(tmp_path, arms=ours)), INPUTS, {})
    other = main_rows(load_protocol(write(tmp_path, question="another", seeds=[1])), INPUTS, {})
    assert len(unique_cells(rows)) == 8  # a and b are the same run: vljepa does not read the token section
    shared = {cell.key for cell in unique_cells(rows)} & {cell.key for cell in unique_cells(other)}
    assert shared == {cell.key for cell in unique_cells(other)}


def test_under_budgets_that_leave_an_arm_as_it_is_it_is_run_once(tmp_path: Path) -> None:
    factors = {"budget": {"key": "budget", "values": ["shared", "paper"]}}
    rows = main_rows(load_protocol(write(tmp_path, factors=factors, seeds=[0])), INPUTS, {})
    keys = {(row.arm, row.levels["budget"]): row.cell.key for row in rows}
    assert keys["vljepa", "shared"] == keys["vljepa", "paper"]
    assert keys["token", "shared"] != keys["token", "paper"]


def test_a_cell_is_its_configuration_its_data_and_what_is_measured() -> None:
    cell = Cell(RunConfig(), 5, ("data",))
    assert cell.key == Cell(RunConfig(), 5, ("data",)).key
    others = [Cell(RunConfig(seed=1), 5, ("data",)), Cell(RunConfig(), 6, ("data",)), Cell(RunConfig(), 5, ("other",))]
    others.append(Cell(RunConfig(), 5, ("data",), test_captions=3))
    assert len({cell.key, *(other.key for other in others)}) == 5


def test_a_new_option_leaves_the_keys_of_finished_cells_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from archlab.compare.grid import cells

    before = Cell(RunConfig(seed=3), 5, ()).key
    known = cells.to_dict
    monkeypatch.setattr(cells, "to_dict", lambda config: known(config) | {"invented": {"later": 1}})
    assert Cell(RunConfig(seed=3), 5, ()).key == before


def test_options_of_other_losses_do_not_make_another_run() -> None:
    own = RunConfig().vljepa
    cosine = replace(own, objective="cosine", loss=ContrastiveConfig(temperature=0.5))
    assert relevant(RunConfig(vljepa=cosine)).vljepa == replace(own, objective="cosine")
    info_nce = replace(own, loss=ContrastiveConfig(temperature=0.5))
    assert relevant(RunConfig(vljepa=info_nce)).vljepa == info_nce
    assert relevant(RunConfig(start=StartConfig(parts=["head"]))) == RunConfig()
    kept = RunConfig(start=StartConfig(run="x", parts=["head"]))
    assert relevant(kept) == kept


def test_an_arm_after_another_begins_with_its_cell_at_the_same_levels_and_seed(tmp_path: Path) -> None:
    arms = {"later": {"arm": "hybrid", "after": "vljepa"}, "vljepa": {"arm": "vljepa"}}
    rows = main_rows(load_protocol(write(tmp_path, arms=arms)), INPUTS, {})
    first = {(row.levels["K"], row.seed): row.cell for row in rows if row.arm == "vljepa"}
    for row in rows:
        if row.arm == "later":
            parent = first[row.levels["K"], row.seed]
            assert row.cell.parent == parent
            assert row.cell.config.start.run == f"{CELL}{parent.key}"
    order = [cell.config.arm for cell in unique_cells(rows)]
    assert order.index("vljepa") < order.index("hybrid")
    assert [row.arm for row in rows[:2]] == ["later", "vljepa"]  # the table is as the protocol wrote it


def test_all_arms_try_the_same_learning_rates_in_short_runs_that_never_see_test(tmp_path: Path) -> None:
    tuning = {"learning_rates": [0.1, 0.2], "steps": 3, "items": 77, "at": {"K": 4}}
    protocol = load_protocol(write(tmp_path, tuning=tuning, base={"optimizer": {"steps": 9}}))
    rows = tuning_rows(protocol, INPUTS)
    assert {(row.arm, row.levels["learning_rate"]) for row in rows} == {
        (arm, rate) for arm in ("token", "vljepa") for rate in (0.1, 0.2)
    }
    assert len(rows) == 4  # at K=4 alone
    for row in rows:
        config = row.cell.config
        assert (config.optimizer.steps, config.evaluation.checkpoints, row.cell.test_items) == (3, 1, 0)
        assert config.evaluation.items == 77
        assert (config.optimizer.learning_rate, config.seed) == (row.levels["learning_rate"], 0)
    main = main_rows(protocol, INPUTS, {("token", place({"K": 4})): 0.2, ("vljepa", place({"K": 4})): 0.1})
    assert {(row.arm, row.cell.config.optimizer.learning_rate) for row in main} == {("token", 0.2), ("vljepa", 0.1)}
    assert {(row.cell.test_items, row.cell.test_captions) for row in main} == {(1600, 400)}
    assert all(row.cell.config.evaluation.items != 77 for row in main)


def test_each_budget_is_tuned_by_itself_and_equal_trials_are_one_cell(tmp_path: Path) -> None:
    factors = {"budget": {"key": "budget", "values": ["shared", "paper"]}}
    protocol = load_protocol(write(tmp_path, factors=factors, tuning={"learning_rates": [0.1], "steps": 3}))
    rows = tuning_rows(protocol, INPUTS)
    assert len(rows) == 4
    assert len(unique_cells(rows)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, "question='': must not be empty"),
        ({"arms": {}}, "arms: must name at least one arm"),
        ({"arms": {"a": {"arm": "tokens"}}}, "'arm': 'tokens' must be one of token, vljepa, hybrid, supervised"),
        ({"arms": {"a": {"optimiser": {}}}}, "key 'optimiser' is unknown; did you mean"),
        ({"arms": {"a": {"after": "b"}}}, "arm 'b': is not defined; did you mean"),
        ({"arms": {"a": {"after": "b"}, "b": {"after": "c"}, "c": {}}}, "'b', which itself begins after another"),
        ({"expect": [{"arm": "tokn", "over": "vljepa"}]}, "arm 'tokn': is not defined; did you mean 'token'?"),
        ({"expect": [{"arm": "token", "over": "vljepa", "claim": "rising"}]}, "along='': names the factor of"),
        ({"expect": [{"arm": "token", "over": "vljepa", "claim": "within"}]}, "margin=0.0: is positive for"),
        ({"expect": [{"arm": "token", "over": "vljepa", "at": {"K": 2}}]}, "expect.at: K=2 is no level of it"),
        ({"expect": {"arm": "token"}}, "expect: must be a list of expectations"),
        ({"expect": [{"arm": "token", "more": "vljepa"}]}, "key 'more' is unknown"),
        (
            {"factors": {"K": {"key": "data.scenes.paraphrase", "values": [1]}}},
            "did you mean 'data.scenes.paraphrases'",
        ),
        ({"factors": {"K": {"key": "seed", "values": [1, 1]}}}, "must be one or more different values"),
        ({"factors": {"K": [1, 2]}}, "K: [1, 2] must be a section of keys"),
        ({"tuning": {"at": {"K": 3}}}, "tuning.at: K=3 is no level of it"),
        ({"base": {"optimizer": {"steps": 1501}}}, "optimizer.steps=1501 is more than most_steps=1500"),
        ({"seeds": [1, 1]}, "must be one or more different values"),
        ({"expect": [{"arm": "token"}]}, "over='': names the arm that is subtracted, unless against says from where"),
        ({"expect": [{"arm": "token", "against": {"K": 2}}]}, "expect.against: K=2 is no level of it"),
        ({"arms": {"a": {"arm": "token"}, "b": {"of": "a"}}}, "arm 'b': has of; a control has 'of' and 'control'"),
        ({"arms": {"a": {}, "b": {"of": "c", "control": "no_query"}}}, "arm 'c': is not defined; did you mean"),
        ({"arms": {"a": {}, "b": {"of": "a", "control": "blind"}}}, "control='blind': must be one of shuffled_image"),
        ({"factors": {"c": {"key": "corruption", "values": ["noise"]}}}, "one of key 'corruption' needs one of key"),
        ({"factors": corruptions(["nois"])}, "corruption 'nois': is not defined; did you mean 'noise'?"),
        ({"factors": corruptions(["noise"], [1, 2])}, "severity: [1, 2] must be whole numbers up to 8 with 0"),
        ({"factors": corruptions(["noise"], [0, 9])}, "severity: [0, 9] must be whole numbers up to 8 with 0"),
        (
            {"recipe": "pretrain", "arms": {"mae": {}}, "factors": {"s": {"key": "split", "values": ["test"]}}},
            "splits, corruptions and controls are for recipe='arm'",
        ),
        ({"hypotesis": "x"}, "key 'hypotesis' is unknown; did you mean 'hypothesis'?"),
    ],
)
def test_a_wrong_protocol_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_protocol(write(tmp_path, **changes))
    assert message in str(caught.value)
    assert str(caught.value).startswith("protocol ")
    assert "\n" not in str(caught.value)


def test_the_first_protocols_are_there() -> None:
    names = {path.stem for path in COMMITTED}
    assert {"learning-curves", "paraphrase-dial", "ablations", "false-negatives"} <= names
    assert {"encoders", "encoders-real", "collapse", "collapse-encoder"} <= names
    assert {"compositional", "robustness", "learning-curves-long"} <= names


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_protocol_expands_to_cells_of_three_seeds(path: Path) -> None:
    protocol = load_protocol(path)
    assert protocol.expect
    assert len(protocol.seeds) >= 3
    rows = main_rows(protocol, INPUTS, {})
    assert len(rows) == len(protocol.arms) * len(protocol.combinations()) * len(protocol.seeds)
    tuning_rows(protocol, INPUTS)


def of(name: str) -> Protocol:
    return load_protocol(next(path for path in COMMITTED if path.stem == name))


def test_the_dial_turns_wording_alone_and_takes_the_meaning_as_positive_at_every_k() -> None:
    protocol = of("paraphrase-dial")
    assert protocol.factors["K"].values == [1, 2, 4, 8, 32]
    for arm, positives in (("vljepa", "meaning"), ("vljepa-deduplicated", "text"), ("vljepa-plain", "none")):
        configs = [protocol.config(arm, {"K": k}, 0) for k in (1, 2, 4, 8, 32)]
        assert {config.vljepa.loss.positives for config in configs} == {positives}
        plain = {replace(c.data.scenes, paraphrases=1).__repr__() for c in configs}
        assert len(plain) == 1
        assert len({(c.optimizer.steps, c.optimizer.batch_size) for c in configs}) == 1


def test_protocols_share_the_cells_they_can() -> None:
    """At one learning rate, the dial's plain curve at K = 4 is the false negatives' plain arm at a batch of 64."""
    dial, negatives = of("paraphrase-dial"), of("false-negatives")
    at_4 = place({"K": 4})
    tuned = {(arm, at_4): 2.0e-3 for arm in dial.arms}
    ours = {cell.key for cell in unique_cells(main_rows(dial, INPUTS, tuned))}
    tuned = {(arm, place({"batch": size})): 2.0e-3 for arm in negatives.arms for size in (16, 64)}
    theirs = {row.cell.key for row in main_rows(negatives, INPUTS, tuned) if row.levels["batch"] == 64}
    assert theirs <= ours
    assert len(theirs) == 9


@pytest.mark.parametrize(
    ("asking", "of_protocol", "cells"),
    [("robustness", "learning-curves", 6), ("compositional", "paraphrase-dial", 18)],
)
def test_protocols_that_ask_more_of_runs_take_those_of_others(asking: str, of_protocol: str, cells: int) -> None:
    """Trials too: what is tuned alike is tuned once."""
    ours, theirs = of(asking), of(of_protocol)
    mine = unique_cells([*tuning_rows(ours, INPUTS), *main_rows(ours, INPUTS, {})])
    there = {cell.key for cell in unique_cells([*tuning_rows(theirs, INPUTS), *main_rows(theirs, INPUTS, {})])}
    trained = [cell for cell in mine if not cell.conditions]
    assert {cell.key for cell in trained} <= there
    assert len([cell for cell in trained if cell.test_items]) == cells
    assert {cell.parent.key for cell in mine if cell.parent} <= {cell.key for cell in trained}


def test_a_corruption_is_a_cell_for_each_run_at_all_severities_with_its_controls() -> None:
    rows = main_rows(of("robustness"), INPUTS, {})
    asked = [cell for cell in unique_cells(rows) if cell.conditions]
    assert len(asked) == 4 * 2 * 3
    for cell in asked:
        assert {one.severity for one in cell.conditions} == {1, 2, 4, 8}
        assert {one.control for one in cell.conditions} == {"", "shuffled_image"}
        assert len({one.corruption for one in cell.conditions}) == 1
        assert len(cell.conditions) == 8
    clean = {row.condition.name for row in rows if row.levels["severity"] == 0}
    assert clean == {"test", "shuffled_image"}
    assert all(not row.cell.conditions for row in rows if row.levels["severity"] == 0)


ENCODERS: dict[str, Any] = {
    "recipe": "pretrain",
    "primary": "tokens/shape",
    "arms": {"mae": {"method": "mae"}, "ijepa": {"method": "ijepa"}},
    "factors": {"budget": {"key": "budget", "values": ["equal-images", "equal-flops"]}},
    "base": {"image_size": 32, "optimizer": {"steps": 10}},
}


def test_a_protocol_of_encoders_configures_their_pretraining(tmp_path: Path) -> None:
    protocol = load_protocol(write(tmp_path, **ENCODERS))
    rows = main_rows(protocol, INPUTS, {})
    assert {type(row.cell.config) for row in rows} == {PretrainConfig}
    assert {(row.cell.config.method, row.cell.config.image_size, row.cell.config.seed) for row in rows} == {
        (method, 32, seed) for method in ("mae", "ijepa") for seed in (0, 1)
    }
    tuned = {"tuning": {"learning_rates": [0.1, 0.2], "steps": 5, "at": {"budget": "equal-images"}}}
    trials = tuning_rows(load_protocol(write(tmp_path, **ENCODERS, **tuned)), INPUTS)
    assert [(row.cell.config.optimizer.steps, row.cell.config.probe_every, row.cell.test_items) for row in trials] == [
        (5, 5, 0)
    ] * 4


def test_an_encoders_key_leaves_out_what_its_method_does_not_read() -> None:
    changed = replace(PretrainConfig(), jepa=LatentPredictionConfig(momentum=0.9))
    assert relevant(changed) == PretrainConfig()
    for method in ("ijepa", "vjepa"):
        assert relevant(replace(changed, method=method)).jepa == changed.jepa
    assert relevant(replace(changed, method="lejepa", mae=replace(changed.mae, mask_ratio=0.5))) == PretrainConfig(
        method="lejepa"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arms": {"a": {"arm": "token"}}}, "key 'arm' is unknown"),
        ({"factors": {"K": {"key": "data.seed", "values": [1, 2]}}}, "factor 'K': key 'data.seed': is not defined"),
        ({"arms": {"a": {}, "b": {"after": "a"}}}, "arm 'b': 'after' is for recipe='arm'"),
    ],
)
def test_a_protocol_of_encoders_refuses_what_is_of_arms(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        load_protocol(write(tmp_path, **{**ENCODERS, **changes}))

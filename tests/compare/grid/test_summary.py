"""What a grid says of its cells: estimates over seeds, paired differences, slopes, predictions that hold or fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archlab.compare.grid.cells import Cell, Row, place
from archlab.compare.grid.items import StoredItems, write_items
from archlab.compare.grid.protocol import Expectation, Factor, Protocol, Tuning
from archlab.compare.grid.report import as_html, as_markdown, make_report, outcomes
from archlab.compare.grid.summary import (
    best_rates,
    blind_controls,
    conclude,
    difference,
    judge,
    mean_over_curve,
    on_validation,
    over_seeds,
    predicted,
    score_at,
)
from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement

METRIC = "vqa/accuracy"
K = (1, 2, 8)


def protocol(*expect: Expectation) -> Protocol:
    return Protocol(
        question="q | r",
        hypothesis="<h>",
        decision="d",
        primary=METRIC,
        arms={"token": {"arm": "token"}, "vljepa": {"arm": "vljepa"}},
        factors={"K": Factor(key="data.scenes.paraphrases", values=list(K))},
        expect=list(expect),
    )


def found(score: Callable[[str, int, int], float | None], seeds: int = 3) -> list[tuple[Row, Mapping[str, Any] | None]]:
    """Cells with the score of (arm, K, seed); None is not finished."""
    cells = []
    for seed in range(seeds):
        for k in K:
            for arm in ("token", "vljepa"):
                value = score(arm, k, seed)
                results = None if value is None else {"test": {"test": {METRIC: {"value": value}}}}
                cells.append((Row(arm, {"K": k}, seed, Cell(RunConfig(), 1, (arm, str(k), str(seed)))), results))
    return cells


def growing(arm: str, k: int, seed: int) -> float:
    """VL-JEPA gains a tenth per doubling, with noise that differs between seeds and is shared by the arms of one."""
    return 0.3 * seed + (0.1 * float(np.log2(k)) + 0.01 * seed * k if arm == "vljepa" else 0.0)


def test_an_interval_is_students_over_seeds() -> None:
    one = over_seeds({0: 1.0, 1: 2.0, 2: 3.0})
    assert one.value == 2.0
    assert one.high is not None
    assert one.high - one.value == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom
    assert one.value - one.low == pytest.approx(one.high - one.value)  # type: ignore[operator]
    alone = over_seeds({4: 0.7})
    assert (alone.value, alone.low, alone.high) == (0.7, None, None)


def test_differences_are_taken_seed_by_seed() -> None:
    """What seeds share cancels: across seeds the arms would overlap."""
    one = difference(found(growing), protocol(), "vljepa", "token", {"K": 8})
    assert one is not None
    assert one.per_seed == pytest.approx({0: 0.3, 1: 0.38, 2: 0.46})
    lacking = found(lambda arm, k, seed: None if arm == "token" and seed == 1 else growing(arm, k, seed))
    some = difference(lacking, protocol(), "vljepa", "token", {"K": 8})
    assert some is not None
    assert some.per_seed.keys() == {0, 2}
    assert difference(found(lambda *_: None), protocol(), "vljepa", "token", {"K": 8}) is None


def test_a_slope_is_the_growth_per_doubling() -> None:
    rising = Expectation(arm="vljepa", over="token", claim="rising", along="K")
    one = predicted(found(lambda arm, k, seed: 0.05 * float(np.log2(k)) * (arm == "vljepa")), protocol(), rising, {})
    assert one is not None
    assert one.per_seed == pytest.approx({0: 0.05, 1: 0.05, 2: 0.05})
    assert predicted(found(lambda arm, k, seed: None if k == 2 else 0.0), protocol(), rising, {}) is None


CASES: list[tuple[Any, list[float], str]] = [
    ("higher", [0.10, 0.11, 0.12], "holds"),
    ("higher", [-0.10, -0.11, -0.12], "fails"),
    ("higher", [0.10, 0.11], "undecided"),
    ("higher", [0.1, -0.1, 0.1], "undecided"),
    ("lower", [-0.10, -0.11, -0.12], "holds"),
    ("lower", [0.10, 0.11, 0.12], "fails"),
    ("within", [0.001, 0.0, -0.001], "holds"),
    ("within", [0.10, 0.11, 0.12], "fails"),
    ("within", [-0.10, -0.11, -0.12], "fails"),
    ("within", [0.04, 0.0, -0.04], "undecided"),
    ("within", [0.031, *[0.0] * 20], "undecided"),  # the interval is narrow, but one seed is not within
    ("higher", [0.0, 0.0, 0.0], "fails"),
    ("lower", [0.0, 0.0, 0.0], "fails"),
    ("within", [0.0, 0.0, 0.0], "holds"),
    ("higher", [0.0, 0.0], "undecided"),
    ("higher", [0.0, 0.0, 1.0], "undecided"),
]


@pytest.mark.parametrize(("claim", "gaps", "outcome"), CASES)
def test_a_prediction_holds_fails_or_stays_open(claim: Any, gaps: list[float], outcome: str) -> None:
    one = Expectation(arm="vljepa", over="token", claim=claim, at={"K": 1}, margin=0.03 if claim == "within" else 0.0)
    cells = found(lambda arm, k, seed: gaps[seed] if arm == "vljepa" else 0.0, seeds=len(gaps))
    (verdict,) = judge(cells, protocol(one))
    assert verdict.outcome == outcome
    assert verdict.what.endswith("at K=1")


def test_a_prediction_without_levels_is_made_at_all_of_them() -> None:
    higher = Expectation(arm="vljepa", over="token")
    rising = Expectation(arm="vljepa", over="token", claim="rising", along="K")
    verdicts = judge(found(growing), protocol(higher, rising))
    assert len(verdicts) == len(K) + 1
    assert verdicts[-1].outcome == "holds"


def test_what_is_predicted_against_other_levels_is_the_difference_of_differences() -> None:
    """Seed 2 lacks the reference, and is left out."""
    values = {("token", 1): 0.5, ("token", 8): 0.4, ("vljepa", 1): 0.6, ("vljepa", 8): 0.55}
    cells = found(lambda arm, k, seed: None if (k, seed) == (1, 2) else values.get((arm, k), 0.0) + 0.1 * seed)
    lead = Expectation(arm="vljepa", over="token", at={"K": 8}, against={"K": 1})
    own = Expectation(arm="token", claim="lower", at={"K": 8}, against={"K": 1})
    verdicts = judge(cells, protocol(lead, own))
    found_each = [one.estimate.per_seed for one in verdicts if one.estimate]
    assert found_each == [pytest.approx({0: 0.05, 1: 0.05}), pytest.approx({0: -0.1, 1: -0.1})]
    assert verdicts[0].what == "vljepa minus token, less the same at K=1, is above zero at K=8"
    assert verdicts[1].what == "token, less the same at K=1, is below zero at K=8"


def test_nothing_is_predicted_of_levels_against_themselves() -> None:
    everywhere = Expectation(arm="vljepa", over="token", against={"K": 1})
    assert [one.what[-3:] for one in judge(found(growing), protocol(everywhere))] == ["K=2", "K=8"]


def test_results_beside_the_report_say_what_the_predictions_came_to() -> None:
    cells = found(lambda arm, k, seed: None if (arm, k, seed) == ("token", 8, 2) else growing(arm, k, seed))
    asked = protocol(Expectation(arm="vljepa", over="token", at={"K": 2}), Expectation(arm="token", against={"K": 1}))
    results = json.loads(json.dumps(outcomes("dial", asked, [], cells), allow_nan=False))
    assert results["protocol"]["name"] == "dial"
    assert results["protocol"]["hypothesis"] == "<h>"
    assert results["cells"] == {"finished": 17, "of": 18}
    assert [one["outcome"] for one in results["verdicts"]] == ["holds", "fails", "undecided"]
    assert results["verdicts"][1]["why"] == "there is no difference at all, under any seed"
    first = results["verdicts"][0]["found"]
    assert first["low"] < first["value"] < first["high"]
    assert first["unit"] == "accuracy"
    assert results["seeds"] == [0, 1, 2]


def test_the_conclusion_needs_all_predictions_and_one_refutes_it() -> None:
    higher = Expectation(arm="vljepa", over="token", at={"K": 8})
    lower = Expectation(arm="vljepa", over="token", claim="lower", at={"K": 8})
    assert conclude(judge(found(growing), protocol(higher))).startswith("supported")
    assert conclude(judge(found(growing), protocol(higher, lower))).startswith("contradicted: 1 of 2")
    assert conclude(judge(found(growing, seeds=1), protocol(higher))).startswith("undecided")
    assert conclude(judge(found(lambda *_: None), protocol(higher))).startswith("open: 1 of 1")
    assert conclude([]).startswith("exploratory")


def test_a_report_of_unfinished_cells_says_what_is_missing_and_shows_the_rest() -> None:
    cells = found(lambda arm, k, seed: None if (arm, k, seed) == ("token", 8, 2) else growing(arm, k, seed))
    report = make_report("dial", protocol(Expectation(arm="vljepa", over="token", at={"K": 1})), [], cells)
    markdown, page = as_markdown(report), as_html(report)
    for text in (markdown, page):
        assert "17 of 18 runs are finished" in text
        assert "Not run yet: token, K=8, seed 2" in text
        assert "undecided" in text
    assert "<h>" not in page
    assert "&lt;h&gt;" in page
    assert "<svg" in page
    assert "](primary.svg)" in markdown


def test_a_report_of_nothing_is_a_report() -> None:
    report = make_report("dial", protocol(), [], found(lambda *_: None))
    assert "0 of 18 runs are finished" in as_markdown(report)
    assert "exploratory" in as_html(report)


ITEMS, IMAGES = 1600, 420
WITHOUT_FACTORS = replace(protocol(), factors={})


def asked(
    folder: Path, rates: Mapping[str, Mapping[str, float]], seeds: int = 3, draw: int = 0
) -> list[tuple[Row, Mapping[str, Any] | None]]:
    """Cells of arms that answer items at a rate (arm -> where -> rate), with their files of items.

    Items differ in difficulty, which arms share, and so do seeds in luck, which they do not; the spread between runs is
    one point, as between the seeds of the committed standard run.
    """
    rng = np.random.default_rng(draw)
    images, hardness = np.sort(rng.integers(0, IMAGES, ITEMS)), 0.25 * rng.normal(size=ITEMS)
    cells = []
    for seed in range(seeds):
        for arm, places in rates.items():
            measured = {}
            for where, rate in places.items():
                chances = rate + hardness + 0.01 * rng.normal()
                measured[where] = Measurement()
                measured[where].add(METRIC, rng.random(ITEMS) < chances, images)
            path = folder / f"{draw}-{arm}-{seed}.npz"
            write_items(path, {where: ("scenes", one) for where, one in measured.items()})
            test = {where: {METRIC: {"value": one.means()[METRIC]}} for where, one in measured.items()}
            row = Row(arm, {}, seed, Cell(RunConfig(), 1, (arm, str(seed))))
            cells.append((row, {"test": test, "items": StoredItems(path)}))
    return cells


def gap(folder: Path, claim: Any, size: float, draw: int = 0, seeds: int = 3) -> Any:
    one = Expectation(arm="vljepa", over="token", claim=claim, margin=0.05 if claim == "within" else 0.0)
    cells = asked(folder, {"token": {"test": 0.5}, "vljepa": {"test": 0.5 + size}}, seeds, draw)
    (verdict,) = judge(cells, replace(WITHOUT_FACTORS, expect=[one]))
    return verdict


def test_three_seeds_and_1600_items_show_that_equal_arms_are_within_five_points(tmp_path: Path) -> None:
    equal = [gap(tmp_path, "within", 0.0, draw).outcome for draw in range(20)]
    assert equal.count("holds") >= 18
    assert "fails" not in equal


def test_arms_that_are_ten_points_apart_are_not_within_five(tmp_path: Path) -> None:
    apart = [gap(tmp_path, "within", 0.1, draw).outcome for draw in range(20)]
    assert apart.count("fails") >= 18
    assert "holds" not in apart


def test_items_decide_what_students_interval_of_three_seeds_cannot(tmp_path: Path) -> None:
    verdict = gap(tmp_path, "higher", 0.05)
    assert verdict.outcome == "holds"
    student = over_seeds(verdict.estimate.per_seed)
    assert student.low is not None
    assert student.low < verdict.estimate.low < verdict.estimate.value
    assert verdict.estimate.value == pytest.approx(student.value)


def test_one_seed_has_an_interval_over_images_and_decides_nothing(tmp_path: Path) -> None:
    verdict = gap(tmp_path, "higher", 0.2, seeds=1)
    assert verdict.estimate.low < verdict.estimate.value < verdict.estimate.high
    assert (verdict.outcome, verdict.why) == (
        "undecided",
        "one seed: decides nothing; the interval is over images alone",
    )


@pytest.mark.parametrize(
    ("blind", "outcome"), [({}, "holds"), ({"majority": 0.3}, "holds"), ({"shuffled_image": 0.69}, "undecided")]
)
def test_a_win_that_is_not_above_its_own_blind_control_is_taken_back(
    tmp_path: Path, blind: dict[str, float], outcome: str
) -> None:
    cells = asked(tmp_path, {"token": {"test": 0.5}, "vljepa": {"test": 0.7, **blind}})
    for claim, expected in (("higher", outcome), ("lower", "undecided" if outcome == "undecided" else "fails")):
        one = Expectation(arm="vljepa", over="token", claim=claim)  # type: ignore[arg-type]
        asking = replace(WITHOUT_FACTORS, expect=[one])
        (verdict,) = judge(cells, asking)
        assert verdict.outcome == expected
        if expected == "undecided":
            assert verdict.why == "vljepa is not clearly above its blind control, shuffled image"
    assert blind_controls(cells, asking, "vljepa", {}, METRIC).keys() == blind.keys()
    text = as_markdown(make_report("blind", asking, [], cells))
    assert ("Beside its blind controls" in as_html(make_report("blind", asking, [], cells))) == bool(blind)
    assert ("| clearly above all |" in text) == bool(blind)


def test_the_blind_controls_of_an_arm_are_its_own(tmp_path: Path) -> None:
    arms = {
        "token": {"arm": "token"},
        "trained": {"arm": "token", "blind": True},
        "shuffled": {"of": "token", "control": "shuffled_image"},
        "other": {"arm": "vljepa", "blind": True},
    }
    places = {"test": 0.5, "shuffled_image": 0.1, "no_query": 0.2, "majority": 0.3}
    cells = asked(tmp_path, {"token": places, "trained": {"test": 0.4}, "other": {"test": 0.6}})
    asking = replace(WITHOUT_FACTORS, arms=arms)
    known = blind_controls(cells, asking, "token", {}, METRIC)
    assert {name: round(one.value, 1) for name, one in known.items()} == {
        "no_query": 0.2, "majority": 0.3, "trained_blind": 0.4,
    }  # fmt: skip
    assert "no_query" not in blind_controls(cells, asking, "token", {}, "caption/slots")
    for control in ("trained", "shuffled"):
        assert blind_controls(cells, asking, control, {}, METRIC) == {}


def test_cells_of_one_arm_on_other_images_are_refused(tmp_path: Path) -> None:
    cells = asked(tmp_path, {"token": {"test": 0.5}})[:1]
    cells += [(replace(row, seed=1), one) for row, one in asked(tmp_path, {"token": {"test": 0.5}}, draw=1)[:1]]
    with pytest.raises(UserError, match="were scored on other images"):
        score_at(cells, WITHOUT_FACTORS, "token", {})


def test_a_mean_over_the_curve_is_taken_over_the_logarithm_of_samples() -> None:
    def curve(*scores: float) -> list[dict[str, Any]]:
        return [{"samples": 10**i, "scores": {METRIC: score}} for i, score in enumerate(scores)]

    assert mean_over_curve(curve(0.5, 0.5, 0.5), METRIC) == pytest.approx(0.5)
    assert mean_over_curve(curve(0.0, 0.0, 1.0), METRIC) == pytest.approx(0.25)
    assert mean_over_curve(curve(0.0, 1.0, 1.0), METRIC) == pytest.approx(0.75)  # sooner, with the same end
    untrained = {"samples": 0, "scores": {METRIC: 9.0}}
    assert mean_over_curve([untrained, *curve(0.2, 0.4)], METRIC) == pytest.approx(0.3)
    assert mean_over_curve(curve(0.5), METRIC) is None
    assert mean_over_curve(curve(0.5, 0.5), "caption/slots") is None


def test_a_prediction_can_be_about_the_learning_curve() -> None:
    cells: list[Any] = found(lambda *_: 0.0)
    for row, results in cells:
        lead = 0.1 * (row.arm == "vljepa") + 0.01 * row.seed * (row.arm == "vljepa")
        results["curve"] = [{"samples": n, "scores": {METRIC: 0.5 + lead}} for n in (64, 640)]
    one = Expectation(arm="vljepa", over="token", metric=f"curve/{METRIC}", at={"K": 1})
    (verdict,) = judge(cells, protocol(one))
    assert verdict.outcome == "holds"
    assert verdict.estimate is not None
    assert verdict.estimate.per_seed == pytest.approx({0: 0.1, 1: 0.11, 2: 0.12})
    assert "in questions about the image, mean over the learning curve" in verdict.what
    assert "+11.0 points" in as_markdown(make_report("dial", protocol(one), [], cells))


def test_tuning_maximises_the_mean_of_the_metrics_that_it_names() -> None:
    scores = {METRIC: 0.4, "caption/slots": 0.8, "caption/cider_d": 5.0}
    trial = {"curve": [{"scores": {METRIC: 1.0}}, {"scores": scores}]}
    asking = replace(protocol(), also=["caption/cider_d"], tuning=Tuning(metrics=[METRIC, "caption/slots"]))
    assert on_validation(trial, asking) == pytest.approx(0.6)
    assert on_validation(trial, replace(asking, tuning=Tuning())) == 0.4
    assert on_validation({"diverged": "step 3"}, asking) == float("-inf")
    with pytest.raises(UserError, match=r"tuning\.metrics='vqa/colour': is not measured on validation; choose among"):
        on_validation(trial, replace(asking, tuning=Tuning(metrics=["vqa/colour"])))


def test_the_best_rate_of_every_arm_is_taken_the_lower_one_of_equals_and_none_before_all_are_run() -> None:
    (row, _), *_ = found(lambda *_: 0.0)

    def trial(arm: str, rate: float, score: float) -> Any:
        at = replace(row, arm=arm, levels={"K": 1, "learning_rate": rate})
        return at, {"curve": [{"scores": {METRIC: score}}]}

    trials = [trial("token", 1e-3, 0.5), trial("token", 2e-3, 0.5), trial("vljepa", 1e-3, 0.5)]
    trials.append(trial("vljepa", 2e-3, 0.6))
    at = place({"K": 1})
    assert best_rates(trials, protocol()) == {("token", at): 1e-3, ("vljepa", at): 2e-3}
    assert best_rates([*trials, (trials[0][0], None)], protocol()) == {}

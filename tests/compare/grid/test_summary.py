"""What a grid says of its cells: estimates over seeds, paired differences, slopes, predictions that hold or fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from archlab.compare.grid.cells import Cell, Row
from archlab.compare.grid.protocol import Expectation, Factor, Protocol
from archlab.compare.grid.report import as_html, as_markdown, make_report, outcomes
from archlab.compare.grid.summary import conclude, difference, judge, over_seeds, slope
from archlab.config import RunConfig

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
    one = slope(found(lambda arm, k, seed: 0.05 * float(np.log2(k)) * (arm == "vljepa")), protocol(), rising, {})
    assert one is not None
    assert one.per_seed == pytest.approx({0: 0.05, 1: 0.05, 2: 0.05})
    assert slope(found(lambda arm, k, seed: None if k == 2 else 0.0), protocol(), rising, {}) is None


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
    assert [one["outcome"] for one in results["verdicts"]] == ["holds", "undecided", "undecided"]
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

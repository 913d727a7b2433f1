"""What the summary says follows from the cells: curves, shares, ratios, verdicts, pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archlab.compare.selective.protocol import BASE, Expectation, SelectiveProtocol
from archlab.compare.selective.report import make_report, write_selective_report
from archlab.compare.selective.summary import Condition, judge, summarise
from archlab.data.streams.stream import StreamConfig

FACTS = "caption/slots"
GOAL = Expectation(policy="trigger", over="uniform", claim="share", least=0.9)
ABOVE = Expectation(policy="trigger", over="ward-features", claim="higher")
PROTOCOL = SelectiveProtocol(
    question="q | r",
    hypothesis="<h>",
    decision="d",
    budgets=[0.5, 1.0, 2.0],
    expect=[GOAL, ABOVE],
    sweep={"interval": [12.0, 6.0], "contrast": ["high"]},
)


def condition(cells: list[dict[str, Any]]) -> Condition:
    return Condition(cells, samples=200)


def seeds(make_cell: Any, *scores: dict[str, Any]) -> Condition:
    return condition([make_cell(one, seed=seed) for seed, one in enumerate(scores)])


def test_a_score_is_the_mean_over_annotations_and_seeds(make_cell: Any) -> None:
    found = seeds(make_cell, {"ward": 0.5}, {"ward": 0.7}).score("ward", "1", "paired", FACTS)
    ripple = (8 * 0.02 - 12 * 0.01) / 30
    assert found.value == pytest.approx(0.6 + ripple)
    np.testing.assert_allclose(found.per_seed, [0.5 + ripple, 0.7 + ripple])


def test_a_tuned_policy_is_read_at_exactly_one_decode_per_event(make_cell: Any) -> None:
    curve = {0.5: 0.3, 1.0: 0.5, 2.0: 0.6}
    missed = {"trigger": {0.5: 0.5, 0.9: 0.7, 1.0: 0.8, 1.1: 1.2, 2.0: 1.8}}
    found = condition([make_cell({"trigger": curve}, rates=missed)]).at_one("trigger", "dense", FACTS)
    assert found.value == pytest.approx((0.42 + 0.52) / 2 + (0.02 - 0.01) / 3)


def test_the_share_is_of_what_the_oracle_gains_over_uniform_at_the_same_number(make_cell: Any) -> None:
    scores = {"uniform": 0.4, "oracle-exact": 0.6, "trigger": 0.55}
    found = seeds(make_cell, scores, scores, scores).share("trigger", "paired", FACTS, "uniform")
    assert found.value == pytest.approx(0.75)
    np.testing.assert_allclose(found.drawn, 0.75)  # the ripple is common to all: pairing removes it


def test_cuts_are_held_against_events(make_cell: Any) -> None:
    found = seeds(make_cell, {}, {})
    precision, recall, f1 = found.boundaries("ward", "1")
    assert precision.value == pytest.approx(21 / 30)
    assert recall.value == pytest.approx(21 / 27)  # the first segment of a stream is no event
    assert f1.value == pytest.approx(2 * 21 / (30 + 27))
    assert found.delay("trigger", "1") == 1.0
    assert f1.drawn.std() > 0


def test_no_event_found_has_no_delay(make_cell: Any) -> None:
    cell = make_cell({})
    cell["policies"]["trigger"]["1"] |= {"found": [0, 0, 0], "cuts": [0, 0, 0], "delays": [0, 0, 0]}
    found = condition([cell])
    assert found.delay("trigger", "1") is None
    precision, recall, f1 = found.boundaries("trigger", "1")
    assert np.isnan(precision.value)
    assert recall.value == f1.value == 0.0


def test_intervals_come_from_seeds_and_streams_resampled_together(make_cell: Any) -> None:
    one, other = ({"uniform": 0.4, "oracle-exact": 0.6, "trigger": value} for value in (0.5, 0.6))
    estimate = seeds(make_cell, one, other).share("trigger", "paired", FACTS, "uniform").estimate([0, 1])
    assert (estimate.low, estimate.high) == (pytest.approx(0.5), pytest.approx(1.0))
    assert estimate.per_seed == {0: pytest.approx(0.5), 1: pytest.approx(1.0)}


@pytest.mark.parametrize(("trigger", "needed"), [(0.35, 0.75), (0.5, 1.5), (0.2, 0.5), (0.65, float("inf"))])
def test_decodes_that_uniform_needs_are_read_off_its_curve(make_cell: Any, trigger: float, needed: float) -> None:
    scores = {"uniform": {0.5: 0.3, 1.0: 0.4, 2.0: 0.6}, "trigger": trigger}
    assert seeds(make_cell, scores).fewer("trigger", "paired", FACTS, "uniform").value == pytest.approx(needed)


def test_what_pools_stands_between_those_that_pool_and_single_frames_between_single_frames(make_cell: Any) -> None:
    """Pooling alone is worth 0.2 here, and no policy is: none has a share, whichever way it speaks."""
    single = {"uniform": 0.4, "ward-exact": 0.4, "oracle-exact": 0.5}
    pooled = {"uniform-pooled": 0.6, "ward": 0.6, "trigger-settled": 0.6, "oracle": 0.7}
    found = seeds(make_cell, *[single | pooled] * 3)
    shown = summarise("s", replace(PROTOCOL, sweep={}, bootstrap_samples=100), found.cells)["conditions"][BASE]
    for policy in ("ward", "ward-exact", "trigger-settled"):
        own = shown["policies"][policy]
        assert own["share"]["paired"]["value"] == pytest.approx(0.0), policy
        assert own["gain"]["paired"]["value"] == pytest.approx(0.1), policy
        assert own["fewer"]["paired"]["value"] == pytest.approx(0.5), policy
    assert shown["policies"]["ward"]["over"] == {"paired": "uniform-pooled", "dense": "periodic"}
    assert found.share("trigger-settled", "paired", FACTS, "uniform").value == pytest.approx(
        2 / 3
    )  # what pooling hides


OUTCOMES = [
    ([0.6, 0.59, 0.6], "holds"),
    ([0.5, 0.5, 0.5], "fails"),
    ([0.5, 0.6, 0.62], "undecided"),
    ([0.6, 0.6], "undecided"),
]


@pytest.mark.parametrize(("triggers", "outcome"), OUTCOMES)
def test_a_share_is_decided_by_its_whole_interval_and_three_seeds(
    make_cell: Any, triggers: list[float], outcome: str
) -> None:
    cells = [{"uniform": 0.4, "oracle-exact": 0.6, "trigger": value} for value in triggers]
    assert judge(GOAL, seeds(make_cell, *cells)).outcome == outcome


def test_of_a_gain_that_is_not_there_no_share_is_decided(make_cell: Any) -> None:
    scores = [{"uniform": 0.6, "oracle-exact": 0.6 + own, "trigger": 0.9} for own in (-0.01, 0.01, 0.02)]
    verdict = judge(GOAL, seeds(make_cell, *scores))
    assert (verdict.outcome, verdict.why) == ("undecided", "the oracle's own gain is not clearly above zero")


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [([0.1, 0.1, 0.05], "holds"), ([-0.1, -0.1, -0.1], "fails"), ([0.1, 0.1, -0.01], "undecided")],
)
def test_a_difference_is_decided_where_all_seeds_agree(make_cell: Any, differences: list[float], outcome: str) -> None:
    scores = [{"ward-features": 0.5, "trigger": 0.5 + own} for own in differences]
    assert judge(ABOVE, seeds(make_cell, *scores)).outcome == outcome


def results(make_cell: Any, trigger: float = 0.6) -> dict[str, Any]:
    scores = {"uniform": {0.5: 0.3, 1.0: 0.4, 2.0: 0.65}, "oracle-exact": 0.6, "trigger": trigger, "oracle-live": 0.55}
    scores |= {"trigger-settled": trigger, "uniform-pooled": scores["uniform"], "oracle": 0.6}
    cells = [
        make_cell(scores, seed, name) | {"streams": vars(config)}
        for name, config in PROTOCOL.conditions().items()
        for seed in range(3)
    ]
    return json.loads(
        json.dumps(summarise("selective", replace(PROTOCOL, bootstrap_samples=100), cells), allow_nan=False)
    )


def test_the_conclusion_is_that_of_the_predictions(make_cell: Any) -> None:
    assert results(make_cell)["conclusion"] == "supported: all predictions hold"
    assert results(make_cell, trigger=0.45)["conclusion"] == "contradicted: 1 of 2 predictions fail"


def test_results_hold_every_condition_with_its_event_rate(make_cell: Any) -> None:
    found = results(make_cell)["conditions"]
    assert list(found) == [BASE, "interval=6.0", "contrast=high"]
    assert all(one["frames_per_event"] == 10.0 for one in found.values())


def test_a_page_names_the_event_rate_beside_every_number_of_decodes_saved(make_cell: Any, tmp_path: Path) -> None:
    page = write_selective_report(results(make_cell), tmp_path)
    text = (tmp_path / "report.md").read_text()
    for line in text.splitlines():
        if "needs" in line and "decodes per event" in line:
            assert "one event in 10.0 frames" in line or "frames per event" in line
    assert "uniform, middle frame needs 1.80 decodes per event and, as it need not encode" in text
    assert "uniform, pooled needs 1.80 decodes per event and about" in text
    html = page.read_text()
    assert "&lt;h&gt;" in html
    assert html.count("<svg") == 5  # two readings of two metrics, and the swept interval; contrast is no number


def test_of_no_gain_the_page_shows_no_share(make_cell: Any) -> None:
    found = results(make_cell)
    for one in found["conditions"].values():
        one["policies"]["trigger"]["gain"]["paired"]["low"] = -0.01
    tables = {table.caption: table for section in make_report(found).sections for table in section.tables}
    rows = {row[0]: row for row in tables["Paired, one decode per event"].rows}
    assert rows["online trigger"][5] == "no gain to share"


def test_what_uniform_never_reaches_has_no_ratio(make_cell: Any) -> None:
    found = results(make_cell, trigger=0.9)
    tables = {table.caption: table for section in make_report(found).sections for table in section.tables}
    rows = {row[0]: row for row in tables["Paired, one decode per event"].rows}
    assert rows["online trigger"][6] == "not reached"


def test_factors_are_swept_one_at_a_time_around_the_base() -> None:
    found = PROTOCOL.conditions()
    assert found["interval=6.0"] == StreamConfig(interval=6.0)
    assert found["contrast=high"] == StreamConfig(contrast="high")

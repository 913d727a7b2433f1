"""Collapse monitors as reports show them."""

from __future__ import annotations

import math
from typing import Any

from archlab.compare import monitoring

ALARM = "collapsed targets: all texts get one embedding; likely a test"


def monitor(alarm: str | None, spreads: list[float]) -> dict[str, Any]:
    points = [
        {"step": 10 * number, "spread_target": spread, "rank_target": 5.0, "loss": 1.0, "log_batch": math.log(64),
         "alignment": 0.5, "verdict": alarm or "healthy", "alarm": bool(alarm)}
        for number, spread in enumerate(spreads)
    ]  # fmt: skip
    return {"alarm": alarm, "points": points}


RUNS = {"ill": [monitor(ALARM, [0.9, 0.2, 0.01]), monitor(None, [0.9, 0.5, 0.03])], "well": [monitor(None, [0.9, 0.8])]}


def test_the_table_says_where_each_run_ended_and_how_often_it_rang() -> None:
    table = monitoring.table(RUNS)
    assert table.columns == [
        "run", "spread of targets", "rank of targets", "alignment", "loss over ln B", "alarm",
    ]  # fmt: skip
    share = "0.240"
    assert table.rows == [
        ["ill", "0.0200", "5.00", "0.500", share, "collapsed targets in 1 of 2"],
        ["well", "0.800", "5.00", "0.500", share, "none"],
    ]


def test_alarms_are_told_in_full_once() -> None:
    assert monitoring.alarms(RUNS) == [f"ill: {ALARM}."]
    twice = {"ill": [monitor(ALARM, [0.1]), monitor(ALARM, [0.1])]}
    assert monitoring.alarms(twice) == [f"ill: {ALARM}."]


def test_every_quantity_is_drawn_over_training_with_each_run() -> None:
    panels = monitoring.panels("monitors", RUNS)
    assert [panel.title for panel in panels] == ["spread of targets", "rank of targets", "loss over ln B"]
    assert "ill: 0.35 [" in panels[0].description  # the mean of both seeds at the first step but 0
    assert "at 10" in panels[0].description
    assert "at 0" not in panels[0].description  # the axis is logarithmic
    assert "well: 0.80 at 10" in panels[0].description


def test_runs_without_monitors_leave_nothing() -> None:
    assert monitoring.panels("monitors", {}) == []
    assert monitoring.table({}).rows == []
    assert monitoring.table({"old": [{"alarm": None, "points": []}]}).rows == [["old", "not measured", "none"]]

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from PIL import Image
from tests.bench.serve.synthetic import results, step

from archlab.bench.serve.goals import goals
from archlab.bench.serve.peers.variants import LITSERVE, SESSION, TORCH
from archlab.bench.serve.plot import plot
from archlab.bench.serve.report import markdown, print_results


def kept(**figures: float) -> list[bool]:
    return [one.kept for one in goals(results(**figures))]


def test_all_goals_are_kept_where_all_figures_reach_them() -> None:
    assert kept() == [True, True, True, True]


@pytest.mark.parametrize(
    ("figures", "missed"),
    [({"capacity": 999.0}, 0), ({"litserve": 900.0}, 1), ({"torch": 900.0}, 2), ({"session": 1500.0}, 3)],
)
def test_a_goal_that_is_missed_is_told(figures: dict[str, float], missed: int) -> None:
    assert kept(**figures) == [place != missed for place in range(4)]
    assert markdown(results(**figures)).count("not kept") == 1


def test_twice_the_throughput_at_a_worse_p95_is_no_victory() -> None:
    found = results()
    found["side_by_side"]["LitServe"]["times_p95"]["high"] = 1.1
    assert [one.kept for one in goals(found)] == [True, False, True, True]


@pytest.mark.parametrize(("peer", "place", "low"), [(LITSERVE, 1, 1.49), (TORCH, 2, 1.49), (SESSION, 3, 0.99)])
def test_an_interval_that_reaches_below_the_bound_supports_no_claim(peer: str, place: int, low: float) -> None:
    found = results()
    found["side_by_side"][peer]["times_throughput"] |= {"low": low, "value": 2.0, "high": 3.0}
    assert [one.kept for one in goals(found)] == [other != place for other in range(4)]


def test_an_error_beside_a_peer_is_no_victory_either() -> None:
    found = results()
    found["side_by_side"]["LitServe"]["errors"] = 1
    assert not goals(found)[1].kept


def test_no_capacity_is_said_and_not_hidden() -> None:
    found = results()
    found["capacity"]["best"] = None
    assert goals(found)[0].found == "no step kept the limit"


def test_the_tables_hold_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    text = markdown(results())
    assert "| 64 | 1,200 | 40.0 ms | 80.0 ms | 120.0 ms | 0 | 5% |" in text
    assert "| all different | 64 | 1,200 | 40.0 ms | 80.0 ms | 120.0 ms | 0 | 5% | 0% |" in text
    assert "| few, again and again | 64 | 1,600 | 40.0 ms | 80.0 ms | 120.0 ms | 0 | 5% | 98% |" in text
    assert "| LitServe | 401 |" in text
    assert "| 2.40 [2.39, 2.40] times |" in text
    assert "| classify | VL-JEPA | 180 |" in text
    assert "| 2.00 ms | 3.00 ms | 90% |" in text
    assert "2 cores, load generator included" in text
    assert "0 texts came from its cache and 9 were embedded" in text
    print_results(results())
    assert "LitServe" in capsys.readouterr().out


def test_the_plot_is_a_picture_and_leaves_out_steps_without_requests(tmp_path: Path) -> None:
    found = copy.deepcopy(results())
    found["capacity"]["steps"].append({"users": 512, "requests": 0, "errors": 9})
    plot(found, tmp_path / "capacity.png")
    assert Image.open(tmp_path / "capacity.png").size[0] > 800
    assert step()["requests"]  # the others were drawn

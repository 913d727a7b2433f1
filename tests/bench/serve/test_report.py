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
    assert kept() == [True] * 6


@pytest.mark.parametrize(
    ("figures", "missed"),
    [({"capacity": 999.0}, 0), ({"litserve": 900.0}, 3), ({"torch": 900.0}, 4), ({"session": 1500.0}, 5)],
)
def test_a_goal_that_is_missed_is_told(figures: dict[str, float], missed: int) -> None:
    assert kept(**figures) == [place != missed for place in range(6)]
    assert markdown(results(**figures)).count("not kept") == 1


def test_twice_the_throughput_at_a_worse_p95_is_no_victory() -> None:
    found = results()
    found["side_by_side"]["LitServe"]["times_p95"]["high"] = 1.1
    assert [one.kept for one in goals(found)] == [True, True, True, False, True, True]


@pytest.mark.parametrize(("peer", "place", "low"), [(LITSERVE, 3, 1.49), (TORCH, 4, 1.49), (SESSION, 5, 0.99)])
def test_an_interval_that_reaches_below_the_bound_supports_no_claim(peer: str, place: int, low: float) -> None:
    found = results()
    found["side_by_side"][peer]["times_throughput"] |= {"low": low, "value": 2.0, "high": 3.0}
    assert [one.kept for one in goals(found)] == [other != place for other in range(6)]


def test_an_error_beside_a_peer_is_no_victory_either() -> None:
    found = results()
    found["side_by_side"]["LitServe"]["errors"] = 1
    assert not goals(found)[3].kept


def test_searches_that_the_cache_answered_reach_no_goal() -> None:
    for where, missed in (("without", {0, 3, 4, 5}), ("side_by_side", {0, 3, 4, 5})):
        found = results()
        found["cache"][where]["share"] = 0.3
        assert {place for place, one in enumerate(goals(found)) if not one.kept} == missed


def test_pictures_are_held_against_decoding_and_computing_alone() -> None:
    found = results()
    found["scenarios"]["classify"]["vljepa"]["share_of_floor"] = 0.89
    found["scenarios"]["classify"]["token"]["errors"] = 1
    assert [one.kept for one in goals(found)] == [True, False, False, True, True, True]


def test_a_peer_that_was_not_measured_is_told() -> None:
    found = results()
    del found["side_by_side"][TORCH]
    told = goals(found)[4]
    assert (told.found, told.kept) == ("not measured", False)


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
    spike = "| spike | 256 | 40 | search | 500 | 40.0 ms | 80.0 ms | 120.0 ms | 0 | 5% | – 10 20 30 40 50 60 70 80 90 |"
    assert f"{spike} 900 → 1,005 |" in text
    assert "| mixed | 64 | 40 | all | 300 |" in text
    assert "| mixed |  |  | classify | 100 | 40.0 ms | 80.0 ms | 120.0 ms |  |  |  |  |" in text
    assert "2 cores, load generator included" in text
    assert "The load generator is wrk in one thread, whose percentiles count a late answer" in text
    assert "The load generator is Locust." in markdown(results() | {"generator": "locust"})
    assert "0 texts came from its cache, which keeps 128, and 9 were embedded; side by side 0% came from it" in text
    print_results(results())
    assert "LitServe" in capsys.readouterr().out


def test_the_plot_is_a_picture_and_leaves_out_steps_without_requests(tmp_path: Path) -> None:
    found = copy.deepcopy(results())
    found["capacity"]["steps"].append({"users": 512, "requests": 0, "errors": 9})
    plot(found, tmp_path / "capacity.png")
    assert Image.open(tmp_path / "capacity.png").size[0] > 800
    assert step()["requests"]  # the others were drawn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.evaluate.efficiency import converged_step, efficiency, reach, thresholds

SCORES = st.lists(st.integers(0, 10_000).map(lambda score: score / 10_000), min_size=1, max_size=8)


def curve(*means):
    return [
        {"step": 10 * 2**i, "samples": 640 * 2**i, "flops": 1e9 * 2**i, "seconds": 5.0 * 2**i, "mean": mean}
        for i, mean in enumerate(means)
    ]


def test_cost_is_that_of_the_first_checkpoint_that_reaches_the_score():
    points = curve(0.2, 0.5, 0.4, 0.8)
    assert reach(points, 0.45) == {"samples": 1280, "flops": 2e9, "seconds": 10.0, "samples_before": 640}
    assert reach(points, 0.5) == reach(points, 0.45)  # reached means at least
    assert reach(points, 0.1)["samples_before"] == 0
    assert reach(points, 0.81) is None


def test_thresholds_are_round_shares_of_the_lower_final_score():
    assert thresholds([curve(0.1, 0.8), curve(0.95, 0.612)]) == [0.3, 0.45, 0.55]
    assert thresholds([curve(58.0), curve(90.0)]) == [29, 43, 52]
    assert thresholds([curve(0.58)])[0] == 0.29  # 28.999... hundredths in binary


def test_thresholds_start_from_chance():
    assert thresholds([curve(0.75), curve(0.9)], chance=0.25) == [0.5, 0.62, 0.7]
    assert thresholds([curve(0.9), curve(0.25)], chance=0.25) == []
    assert thresholds([]) == []


@given(SCORES, SCORES)
def test_every_threshold_is_reached_by_every_arm_and_is_the_share_but_for_rounding(first, second):
    curves = [curve(*first), curve(*second)]
    lower = min(first[-1], second[-1])
    values = thresholds(curves)
    assert bool(values) == (lower > 0)
    assert all(reach(points, value) is not None for points in curves for value in values)
    for share in (0.5, 0.75, 0.9) if values else ():
        below = max(value for value in values if value <= share * lower * (1 + 1e-9))
        assert below > 0.9 * share * lower  # two significant digits lose at most a tenth


@given(SCORES, st.floats(0, 1))
def test_nothing_before_the_reported_checkpoint_had_reached_the_score(means, threshold):
    found = reach(curve(*means), threshold)
    samples = found["samples"] if found else float("inf")
    assert all(point["mean"] < threshold for point in curve(*means) if point["samples"] < samples)


def test_efficiency_lists_both_arms_at_each_threshold():
    token, vljepa = curve(0.2, 0.4, 0.4), curve(0.6, 0.7, 0.8)
    rows = efficiency("vqa/accuracy", {"token": token, "vljepa": vljepa})
    assert [(row["metric"], row["threshold"]) for row in rows] == [("vqa/accuracy", t) for t in (0.2, 0.3, 0.36)]
    assert [row["token"]["samples"] for row in rows] == [640, 1280, 1280]
    assert [row["vljepa"]["samples"] for row in rows] == [640] * 3


@pytest.mark.parametrize(
    ("means", "step"),
    [
        ((0.5, 0.9, 0.99, 1.0), 40),  # exactly 1 % below
        ((0.5, 0.9, 0.9899, 1.0), 80),
        ((0.985 * 0.5, 0.4951, 0.5), 20),  # relative to the final score, not absolute
        ((0.9, 0.6, 0.8), 10),  # overshoot had reached it
        ((0.3,), 10),
        ((0.2, 0.0), None),
        ((), None),
    ],
)
def test_converged_is_the_first_checkpoint_within_one_percent_of_the_final_score(means, step):
    assert converged_step(curve(*means)) == step

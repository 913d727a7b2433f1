import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archlab.evaluate.collapse import alignment, diagnose, effective_rank, rankme, spread, uniformity

RNG = np.random.default_rng(0)
CLOUD = RNG.normal(size=(500, 16))
CONSTANT = np.tile(RNG.normal(size=16), (500, 1))
LN_B = math.log(64)


def test_spread_is_one_on_the_sphere_and_zero_when_constant():
    assert spread(CLOUD) == pytest.approx(1, abs=0.02)
    assert spread(CONSTANT) == pytest.approx(0, abs=1e-7)
    assert spread(CLOUD * RNG.random((500, 1))) == pytest.approx(spread(CLOUD))  # length plays no part


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_effective_rank_of_equal_singular_values_is_their_number(rank):
    left, right = np.linalg.qr(RNG.normal(size=(40, rank)))[0], np.linalg.qr(RNG.normal(size=(16, rank)))[0]
    assert effective_rank(3 * left @ right.T) == pytest.approx(rank)
    assert rankme(3 * left @ right.T) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_is_exp_entropy_of_singular_values_not_of_their_squares():
    share = np.array([0.8, 0.2])
    assert effective_rank(np.diag([4.0, 1.0])) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert effective_rank(np.zeros((3, 2))) == 0


def test_rankme_adds_epsilon_to_every_share():
    share = np.array([0.75, 0.25, 0.0]) + 1e-7
    assert rankme(np.diag([3.0, 1.0, 0.0])) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)


def test_alignment_of_equal_opposite_and_orthogonal_pairs():
    assert alignment(CLOUD, 7 * CLOUD) == pytest.approx(0)
    assert alignment(CLOUD, -CLOUD) == pytest.approx(4)
    assert alignment(np.eye(4), np.roll(np.eye(4), 1, 0)) == pytest.approx(2)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_uniformity_is_the_log_mean_over_different_pairs(items, draw):
    points = np.random.default_rng(draw).normal(size=(items, 3))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(items) for j in range(i)]
    assert uniformity(points) == pytest.approx(np.log(np.mean(pairs)))


def test_uniformity_is_zero_when_collapsed_and_undefined_for_one():
    assert uniformity(CONSTANT) == pytest.approx(0)
    with pytest.raises(ValueError, match="pairs"):
        uniformity(CLOUD[:1])


CONE = 20 + 0.1 * CLOUD
LINE = np.outer(RNG.choice([-1, 1], 500), np.eye(16)[0]) + 0.002 * CLOUD  # many texts, one dimension
FEW = np.repeat(np.eye(64)[:3], 200, axis=0)[:500]  # three answers span two of 64 dimensions


@pytest.mark.parametrize(
    ("predicted", "target", "loss", "verdict"),
    [
        (CONSTANT, CONSTANT, LN_B, "collapsed: predictions and targets"),
        (CLOUD, CONSTANT, LN_B, "collapsed targets"),
        (CONSTANT, CLOUD, LN_B, "collapsed predictions"),
        (CLOUD, CLOUD[::-1], 0.99 * LN_B, "not aligned"),
        (CONE, CONE, 0.2 * LN_B, "cone"),
        (LINE, LINE, 0.5 * LN_B, "dimensional collapse"),
        (2 * FEW, FEW, 0.1 * LN_B, "healthy"),
        (CLOUD, CLOUD, 0.1 * LN_B, "healthy"),
    ],
)
def test_verdict_names_the_failure(predicted, target, loss, verdict):
    for kept in (None, "unguarded", "guarded", "frozen"):
        found = diagnose(predicted, target, loss, 64, kept)  # type: ignore[arg-type]
        assert found.verdict.startswith(verdict), found
        assert ("loss is at ln B" in found.verdict) == (loss > 0.95 * LN_B)
        # What is not known of the training names no cause, and what is healthy has none.
        assert ("; likely " in found.verdict) == ("; cure: " in found.verdict)
        assert ("; likely " in found.verdict) == (kept is not None and verdict != "healthy")


FREE, OWN = "a target that is trained with neither negatives nor a regulariser", "a frozen target encoder"


@pytest.mark.parametrize(
    ("predicted", "target", "loss", "causes"),
    [
        (CONSTANT, CONSTANT, LN_B, (FREE, "a learning rate that is too high", OWN)),
        (CLOUD, CONSTANT, LN_B, (FREE, "a learning rate that is too high for the target encoder", OWN)),
        (CONSTANT, CLOUD, LN_B, ("features that do not show",) * 3),
        (CLOUD, CLOUD[::-1], 0.99 * LN_B, (FREE, *("a learning rate that is too high, too little training",) * 2)),
        (CONE, CONE, 0.2 * LN_B, (FREE, "a large shared mean", "a large shared mean")),
        (CONE, CLOUD, 0.2 * LN_B, (FREE, "a large shared mean", "a large shared mean")),
        (LINE, LINE, 0.5 * LN_B, (FREE, "a head that is too narrow", "a head that is too narrow")),
    ],
)
def test_one_look_has_another_cause_where_the_target_is_free_guarded_or_frozen(predicted, target, loss, causes):
    for kept, cause in zip(("unguarded", "guarded", "frozen"), causes, strict=True):
        assert f"; likely {cause}" in diagnose(predicted, target, loss, 64, kept).verdict


def test_diagnosis_reports_predictions_and_targets_apart_as_plain_values():
    found = diagnose(CLOUD, CONSTANT, 1.0, batch_size=64).to_dict()
    assert json.loads(json.dumps(found))["log_batch"] == pytest.approx(LN_B)
    assert found["spread"] == pytest.approx((1, 0), abs=0.02)
    assert found["rank"][0] > 15
    assert found["rank"][1] == 0
    assert found["rankme"] == pytest.approx((rankme(CLOUD), 1), rel=1e-3)
    assert found["uniformity"] == pytest.approx((uniformity(CLOUD), 0), abs=1e-9)
    assert found["alignment"] == pytest.approx(alignment(CLOUD, CONSTANT))

"""Every objective on N processes is the objective on one: losses and gradients, however unevenly the samples fall."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from tests.objectives import spread_cases
from tests.objectives.spread_cases import CASES, INFO_NCE, SHARDED, Found, find
from tests.train.many import run_many
from torch import Tensor

from archlab.objectives.global_batch import counts, gather, mean, own_rows_of, place, same, share

Spread = dict[str, Found]


@pytest.fixture(scope="module", params=[2, 4])
def spread(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Spread:
    """What so many processes found together, case by case."""
    folder = tmp_path_factory.mktemp("spread")
    run_many(request.param, Path(spread_cases.__file__), folder)
    return {name: Found(**one) for name, one in torch.load(folder / "found.pt", weights_only=True).items()}


@cache
def alone(name: str) -> Found:
    return find(CASES[name])


def assert_equal(ours: Found, theirs: Found) -> None:
    assert ours.loss == pytest.approx(theirs.loss, rel=2e-5)
    assert ours.parts == pytest.approx(theirs.parts, rel=1e-4, abs=1e-6)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        torch.testing.assert_close(
            ours.gradients[name], gradient, rtol=2e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_one_process(spread: Spread, name: str) -> None:
    assert_equal(spread[name], alone(name))


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_parameters_get_the_same_gradients(spread: Spread, name: str) -> None:
    assert_equal(spread[f"{name}, sharded"], alone(name))


@pytest.mark.parametrize("name", SHARDED)
def test_a_process_holds_its_share_of_a_sharded_model_and_all_of_a_replicated_one(spread: Spread, name: str) -> None:
    whole, held = alone(name).held[0], spread[f"{name}, sharded"].held
    assert sum(held) == whole
    assert max(held) < 1.2 * whole / len(held)
    assert spread[name].held == [whole] * len(held)


@pytest.mark.parametrize("name", INFO_NCE)
def test_in_blocks_the_loss_and_the_gradients_are_the_same(spread: Spread, name: str) -> None:
    assert_equal(spread[f"{name}, in blocks"], alone(name))


@pytest.mark.parametrize("name", INFO_NCE)
def test_gradients_that_do_not_flow_through_the_gather_would_be_noticed(spread: Spread, name: str) -> None:
    """The planted fault leaves the loss as it is."""
    cut, whole = spread[f"{name}, cut"], alone(name)
    assert cut.loss == pytest.approx(whole.loss, rel=2e-5)
    with pytest.raises(AssertionError):
        assert_equal(cut, whole)


def test_batch_norms_count_the_batch_of_all(spread: Spread) -> None:
    running = {name: tensor for name, tensor in spread["LeJEPA"].buffers.items() if "running" in name}
    assert running
    assert all(len(tensor.unique()) > 1 for tensor in running.values())


def test_the_mean_of_the_processes_own_losses_is_another_loss(spread: Spread) -> None:
    """What one would get without the global batch: negatives of the own samples alone."""
    model, objective, batch = CASES["InfoNCE, meaning"]()
    for parts in ([slice(0, 4), slice(4, 7)], [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]):
        own = [objective(model, type(batch)(**{k: v[part] for k, v in vars(batch).items()})).loss for part in parts]
        assert abs(torch.stack(own).mean().item() - spread["InfoNCE, meaning"].loss) > 0.1


@pytest.mark.parametrize("name", ["language model", "translation"])
def test_the_weight_is_the_number_of_targets_of_all(spread: Spread, name: str) -> None:
    assert spread[name].weight == alone(name).weight > 1


def test_a_single_process_gets_back_what_it_gave_bit_for_bit() -> None:
    rows = torch.randn(5, 3)
    assert counts(5) == [5]
    assert place(5) == (0, 5)
    assert gather(rows) is same(rows) is share(rows, 2) is rows
    assert torch.equal(mean(rows), rows.mean(0))

    def draw(count: int) -> Tensor:
        return rows[:count]

    assert torch.equal(own_rows_of(draw, 4), rows[:4])

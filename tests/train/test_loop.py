from __future__ import annotations

import importlib.util
import math
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.train.checkpoint import load_state
from archlab.train.loop import Resume, fit

TOY = Path(__file__).with_name("toy.py")
spec = importlib.util.spec_from_file_location("toy", TOY)
assert spec is not None
assert spec.loader is not None
toy = importlib.util.module_from_spec(spec)
sys.modules["toy"] = toy
spec.loader.exec_module(toy)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[dict[str, Tensor], list]:
    tensors, history = toy.train()
    return tensors, toy.curve(history)


def assert_same_run(tensors: dict[str, Tensor], curve: list, expected: tuple[dict[str, Tensor], list]) -> None:
    assert tensors.keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(tensors[name], tensor), name
    assert curve == expected[1]


class Killed(Exception):
    """The process dies at once; nothing is saved."""


def kill_at(at: int):
    def on_batch(step: int) -> None:
        if step == at:
            raise Killed

    return on_batch


def interrupt_at(at: int, number: signal.Signals = signal.SIGINT):
    def on_batch(step: int) -> None:
        if step == at:
            signal.raise_signal(number)

    return on_batch


@settings(max_examples=12)
@given(at=st.integers(0, toy.STEPS - 1), number=st.sampled_from([signal.SIGINT, signal.SIGTERM]))
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory,
    uninterrupted: tuple[dict[str, Tensor], list],
    at: int,
    number: signal.Signals,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(KeyboardInterrupt):
        toy.train(folder, on_batch=interrupt_at(at, number))
    state = load_state(folder / "state.pt", "toy")
    assert state is not None
    assert state["step"] == at + 1  # the step was finished, and none after it begun
    tensors, history = toy.train(folder, seed=99)  # another start: all must come from the state
    assert_same_run(tensors, toy.curve(history), uninterrupted)


@settings(max_examples=8)
@given(at=st.integers(0, toy.STEPS - 1), every=st.integers(1, 9))
def test_a_killed_run_resumes_from_the_last_save_to_the_same_result(
    tmp_path_factory: pytest.TempPathFactory, uninterrupted: tuple[dict[str, Tensor], list], at: int, every: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(Killed):
        toy.train(folder, every=every, on_batch=kill_at(at))
    assert (folder / "state.pt").exists() == (at >= every)
    steps: list[int] = []
    tensors, history = toy.train(folder, every=every, on_batch=steps.append)
    assert steps == list(range(at // every * every, toy.STEPS))
    assert_same_run(tensors, toy.curve(history), uninterrupted)


def test_a_real_control_c_leaves_a_run_that_resumes_to_the_same_result(
    tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list]
) -> None:
    command = [sys.executable, str(TOY), str(tmp_path), str(tmp_path / "result.pt")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "11":
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    state = load_state(tmp_path / "state.pt", "toy")
    assert state is not None
    assert 12 <= state["step"] < toy.STEPS
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    assert_same_run(result["tensors"], [tuple(point) for point in result["curve"]], uninterrupted)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list]) -> None:
    toy.train(tmp_path)
    steps: list[int] = []
    tensors, history = toy.train(tmp_path, seed=99, on_batch=steps.append)
    assert steps == []
    assert_same_run(tensors, toy.curve(history), uninterrupted)


def test_time_is_counted_over_all_sessions(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path, on_batch=interrupt_at(9))
    state = load_state(tmp_path / "state.pt", "toy")
    assert state is not None
    _, history = toy.train(tmp_path)
    times = [point.seconds for point in history.curve]
    assert 0 < state["history"]["seconds"] < history.seconds
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] == history.seconds


def test_a_second_signal_stops_at_once_and_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice(step: int) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path, on_batch=twice)
    assert not (tmp_path / "state.pt").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_trains_outside_the_main_thread(uninterrupted: tuple[dict[str, Tensor], list]) -> None:
    results: list = []
    thread = threading.Thread(target=lambda: results.append(toy.train()))
    thread.start()
    thread.join()
    assert [point.step for point in results[0][1].curve] == list(toy.EVALUATE_AT)


def test_another_runs_state_is_refused(tmp_path: Path) -> None:
    toy.train(tmp_path)
    model, objective, optimizer = toy.make()
    with pytest.raises(UserError, match="another configuration"):
        fit(
            model,
            objective,
            toy.batches,
            optimizer,
            steps=30,
            schedule=lambda step: 0.1,
            resume=Resume(tmp_path / "state.pt", "other", 5),
        )


def test_the_same_seed_gives_the_same_run_and_another_a_different_one(
    uninterrupted: tuple[dict[str, Tensor], list],
) -> None:
    tensors, history = toy.train(seed=0)
    assert_same_run(tensors, toy.curve(history), uninterrupted)
    other, _ = toy.train(seed=1)
    assert not torch.equal(other["model.0.weight"], tensors["model.0.weight"])


def test_training_lowers_the_error(uninterrupted: tuple[dict[str, Tensor], list]) -> None:
    points = {step: (loss, scores) for step, loss, scores in uninterrupted[1]}
    assert points[24][0] < points[5][0]
    assert points[24][1]["error"] < points[0][1]["error"]


def test_the_curve_holds_the_mean_loss_since_the_point_before() -> None:
    model, objective, optimizer = toy.make()
    losses: list[float] = []

    class Recorded(nn.Module):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> toy.Output:
            output = objective(model, batch)
            losses.append(output.loss.item())
            return output

    history = fit(
        model,
        Recorded(),
        toy.batches,
        optimizer,
        steps=6,
        schedule=lambda step: 0.01,
        evaluate=lambda step: {},
        evaluate_at=[0, 2, 6],
    )
    means = [None, sum(losses[:2]) / 2, sum(losses[2:]) / 4]
    assert [point.loss for point in history.curve] == [means[0], *map(pytest.approx, means[1:])]


@pytest.mark.parametrize("clip", [0.5, math.inf])
def test_clipping_bounds_the_norm_of_all_gradients_together(clip: float) -> None:
    """Plain gradient descent at rate 1 moves the weights by exactly the clipped gradient."""
    model = nn.Linear(4, 3)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def objective(model: nn.Module, batch: Tensor) -> toy.Output:
        return toy.Output(100 * model(batch).square().mean())

    class Plain:
        __call__ = staticmethod(objective)
        state_dict = staticmethod(dict)
        load_state_dict = staticmethod(lambda state: None)

    inputs = torch.ones(2, 4)
    raw = torch.autograd.grad(objective(model, inputs).loss, list(model.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in raw]).norm().item()
    assert norm > 1
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(model, Plain(), lambda step: inputs, optimizer, steps=1, schedule=lambda step: 1.0, gradient_clip=clip)
    moved = torch.cat([(old - new).flatten() for old, new in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(min(norm, clip), rel=1e-4)


def test_parts_that_are_clipped_apart_do_not_share_a_norm() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    model = nn.ParameterList(parameters)

    class Slopes(nn.Module):
        def forward(self, model: nn.ParameterList, batch: None) -> toy.Output:
            return toy.Output(0.3 * model[0].sum() + 0.4 * model[1].sum() + 100 * model[2].sum())

    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]]}, {"params": [parameters[2]], "clip": "apart"}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    fit(model, Slopes(), lambda step: None, optimizer, steps=1, schedule=lambda step: 1.0, gradient_clip=0.25)
    # The first two share a norm of 0.5 and are halved, however steep the third is.
    assert [parameter.item() for parameter in parameters] == pytest.approx([-0.15, -0.2, -0.25], rel=1e-4)


def test_each_group_learns_at_the_schedules_rate_times_its_scale() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    model = nn.ParameterList(parameters)

    class Sum(nn.Module):
        def forward(self, model: nn.ParameterList, batch: None) -> toy.Output:
            return toy.Output(model[0].sum() + model[1].sum())

    optimizer = torch.optim.SGD([{"params": [parameters[0]]}, {"params": [parameters[1]], "scale": 0.25}], lr=9.0)
    fit(model, Sum(), lambda step: None, optimizer, steps=3, schedule=lambda step: [1.0, 2.0, 4.0][step])
    assert [parameter.item() for parameter in parameters] == [-7.0, -1.75]


def test_frozen_parts_get_no_update_and_all_others_do() -> None:
    model, objective, _ = toy.make()
    model[0].requires_grad_(False)
    optimizer = toy.adamw(model, objective, config=toy.CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, objective, toy.batches, optimizer, steps=3, schedule=lambda step: 0.1)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"3.weight", "3.bias"}


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(
    tmp_path: Path, broken: str
) -> None:
    model, objective, optimizer = toy.make()
    weights: list[Tensor] = []

    def batches(step: int) -> tuple[Tensor, Tensor]:
        weights.append(model[0].weight.detach().clone())
        inputs, targets = toy.batches(step)
        if step == 4 and broken == "loss":
            inputs = inputs * math.nan
        # The root's slope at zero is infinite while its value is zero.
        return (inputs, targets, step == 4 and broken == "gradient")

    class Breaking(nn.Module):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor, bool]) -> toy.Output:
            inputs, targets, at_zero = batch
            output = objective(model, (inputs, targets))
            return toy.Output((output.loss * 0).sqrt()) if at_zero else output

    with pytest.raises(UserError, match=rf"^step 4: the .*{broken}.*optimizer\.learning_rate \(now 0\.02\)") as caught:
        fit(
            model,
            Breaking(),
            batches,
            optimizer,
            steps=9,
            schedule=lambda step: 0.02,
            resume=Resume(tmp_path / "state.pt", "toy", 2),
        )
    assert "\n" not in str(caught.value)
    assert torch.equal(model[0].weight, weights[-1])
    state = load_state(tmp_path / "state.pt", "toy")
    assert state is not None
    assert state["step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_bfloat16_computes_in_bfloat16_and_keeps_the_weights_in_float32() -> None:
    model, objective, optimizer = toy.make()
    kinds: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    fit(model, objective, toy.batches, optimizer, steps=2, schedule=lambda step: 0.01, precision="bfloat16")
    fit(model, objective, toy.batches, optimizer, steps=1, schedule=lambda step: 0.01)
    assert kinds == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_dropout_is_on_in_training_after_an_evaluation_too() -> None:
    modes: list[bool] = []
    model, objective, optimizer = toy.make()
    model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))

    def evaluate(step: int) -> dict[str, float]:
        model(torch.zeros(1, 6))
        return {}

    model.eval()
    fit(
        model,
        objective,
        toy.batches,
        optimizer,
        steps=2,
        schedule=lambda step: 0.01,
        evaluate=evaluate,
        evaluate_at=[1, 2],
    )
    assert modes == [True, False, True, False]

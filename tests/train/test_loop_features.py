"""What the loop can do beyond a plain step: accumulation, averages, float16; each resumes bit for bit."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.layers.dropout import set_dropout
from archlab.models.gpt2 import GPT2, GPT2Config
from archlab.train.averaging import CheckpointAverage, ExponentialAverage, WeightAverage
from archlab.train.checkpoint import load_state
from archlab.train.loop import History, Resume, fit
from archlab.train.optim import MuonWithAdamW
from archlab.train.recompute import recompute_blocks
from archlab.train.schedule import share_of_peak

spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
assert spec is not None
assert spec.loader is not None
toy = importlib.util.module_from_spec(spec)
sys.modules.setdefault("toy", toy)
spec.loader.exec_module(toy)

STEPS = 12


class Slope(nn.Module):
    """Mean over the real rows of (model(x) - sin x)^2; the weight is their number."""

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        inputs, mask = batch
        error = ((model(inputs) - inputs.sin()) ** 2).mean(1)
        return toy.Output((error * mask).sum() / mask.sum(), float(mask.sum()))


def uneven(index: int) -> tuple[Tensor, Tensor]:
    """A batch of 8 rows of which 2 to 8 are real."""
    generator = torch.Generator().manual_seed(index)
    real = int(torch.randint(2, 9, (), generator=generator))
    return torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.arange(8) < real


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 6).double()


def test_accumulated_batches_make_the_update_of_one_large_batch_however_uneven_they_are() -> None:
    def large(step: int) -> tuple[Tensor, Tensor]:
        parts = [uneven(3 * step + part) for part in range(3)]
        return torch.cat([inputs for inputs, _ in parts]), torch.cat([mask for _, mask in parts])

    results = []
    for batches, accumulate in ((large, 1), (uneven, 3)):
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        history = fit(
            model,
            Slope(),
            batches,
            optimizer,
            steps=4,
            schedule=lambda step: 0.1,
            accumulate=accumulate,
            gradient_clip=0.3,
            evaluate=lambda step: {},
            evaluate_at=[4],
        )
        results.append((model, history.curve[-1].loss))
    torch.testing.assert_close(results[1][0].state_dict(), results[0][0].state_dict(), atol=1e-12, rtol=0)
    assert results[1][1] == pytest.approx(results[0][1])


def test_the_mean_of_batch_means_would_be_another_update() -> None:
    """The fault that the weights are there against: every batch counting alike."""

    class Alike(Slope):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
            return toy.Output(super().forward(model, batch).loss)

    models = []
    for objective in (Slope(), Alike()):
        model = linear()
        fit(
            model,
            objective,
            uneven,
            torch.optim.SGD(model.parameters(), lr=0.1),
            steps=1,
            schedule=lambda step: 0.1,
            accumulate=3,
        )
        models.append(model)
    assert (models[0].weight - models[1].weight).abs().max() > 1e-4


def test_an_exponential_average_is_the_sum_it_is_defined_as() -> None:
    model, average = nn.Linear(2, 2), ExponentialAverage(0.5)
    seen = []
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(model, step)
        seen.append(float(step))
    expected = seen[0]
    for step, value in enumerate(seen[1:], start=2):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.weights()["weight"].mean().item() == pytest.approx(expected)
    assert float(seen[-1]) - expected == pytest.approx(1.0, abs=0.1)  # it lags by decay / (1 - decay) steps


def test_a_checkpoint_average_is_the_mean_of_the_last_ones() -> None:
    model, average = nn.Linear(2, 2), CheckpointAverage(every=10, last=3)
    for step in range(1, 58):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(model, step)
        if step == 9:
            assert average.weights() == {}
    assert average.weights()["weight"].mean().item() == pytest.approx((30 + 40 + 50) / 3)


def test_an_evaluation_sees_the_average_and_training_goes_on_from_the_weights() -> None:
    model, seen = linear(), []
    average = ExponentialAverage(0.9)
    plain = linear()
    options: dict[str, Any] = {"steps": 6, "schedule": lambda step: 0.1}
    fit(plain, Slope(), uneven, torch.optim.SGD(plain.parameters(), lr=0.1), **options)

    def evaluate(step: int) -> dict[str, float]:
        seen.append(model.weight.detach().clone())
        return {}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, Slope(), uneven, optimizer, evaluate=evaluate, evaluate_at=[3, 6], average=average, **options)
    assert torch.equal(model.weight, plain.weight)
    assert torch.equal(seen[-1], average.weights()["weight"])
    assert not torch.equal(seen[-1], model.weight)


def tiny() -> GPT2:
    """A GPT-2 with dropout: random numbers matter."""
    torch.manual_seed(3)
    model = GPT2(GPT2Config(vocab_size=11, context=8, width=16, depth=2, heads=2, feed_forward=24))
    set_dropout(model, 0.2, 0.2)
    return model


class NextOf(nn.Module):
    def forward(self, model: GPT2, tokens: Tensor) -> Any:
        logits = model(tokens[:, :-1])
        return toy.Output(nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def tokens_of(step: int) -> Tensor:
    return torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(step))


FEATURES: dict[str, Callable[[], dict[str, Any]]] = {
    "accumulation": lambda: {"accumulate": 3},
    "exponential average": lambda: {"average": ExponentialAverage(0.9)},
    "checkpoint average": lambda: {"average": CheckpointAverage(2, 3)},
    "float16": lambda: {"precision": "float16"},
    "bfloat16": lambda: {"precision": "bfloat16"},
    "muon": lambda: {"muon": True},
    "recompute": lambda: {"recompute": True},
    "wsd": lambda: {"schedule": partial(_wsd)},
}


def _wsd(step: int) -> float:
    return 0.01 * share_of_peak(step, STEPS, 2, "wsd")


def run(
    options: dict[str, Any], folder: Path | None = None, on_batch: Callable[[int], None] = lambda step: None
) -> tuple[dict[str, Tensor], History]:
    model = tiny()
    if options.pop("recompute", False):
        recompute_blocks(model)
    if options.pop("muon", False):
        optimizer: Any = MuonWithAdamW(model, 0.1, 0.01)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def batches(index: int) -> Tensor:
        on_batch(index)
        return tokens_of(index)

    average: WeightAverage | None = options.get("average")
    history = fit(
        model,
        NextOf(),
        batches,
        optimizer,
        steps=STEPS,
        resume=Resume(folder / "state.pt", "toy", 4) if folder else None,
        evaluate=lambda step: {"norm": sum(p.norm().item() for p in model.parameters())},
        evaluate_at=[0, 5, STEPS],
        **({"schedule": lambda step: 0.01} | options),
    )
    tensors = dict(model.state_dict())
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.weights().items()}
    return tensors, history


@pytest.mark.parametrize("feature", FEATURES)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(feature: str, tmp_path: Path) -> None:
    expected, whole = run(FEATURES[feature]())

    def interrupt(index: int) -> None:
        if index == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(FEATURES[feature](), tmp_path, interrupt)
    state = load_state(tmp_path / "state.pt", "toy")
    assert state is not None
    assert 0 < state["step"] < STEPS
    tensors, resumed = run(FEATURES[feature](), tmp_path)
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
    assert toy.curve(resumed) == toy.curve(whole)


@pytest.mark.parametrize("forgotten", ["average", "optimizer", "random"])
def test_a_state_without_one_part_would_resume_to_another_result(
    forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise above rests on every part of the state: leave one as it is at the start, and the result differs."""
    options: Callable[[], dict[str, Any]] = lambda: {"average": ExponentialAverage(0.9)}  # noqa: E731
    expected, _ = run(options())

    def interrupt(index: int) -> None:
        if index == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(options(), tmp_path, interrupt)
    if forgotten == "average":
        monkeypatch.setattr(ExponentialAverage, "load_state_dict", lambda self, state: None)
    elif forgotten == "optimizer":
        monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    else:
        monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    tensors, _ = run(options(), tmp_path)
    assert any(not torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_float16_leaves_out_a_step_that_overflows_and_halves_the_scale(tmp_path: Path) -> None:
    model = linear().float()
    before = model.weight.detach().clone()

    class Steep(nn.Module):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
            return toy.Output((model(batch[0].float()).float() * 10.0).sum())  # times 2^16 this overflows float16

    weights = []

    def batches(step: int) -> tuple[Tensor, Tensor]:
        weights.append(model.weight.detach().clone())
        return uneven(step)

    fit(
        model,
        Steep(),
        batches,
        torch.optim.SGD(model.parameters(), lr=1e-3),
        steps=12,
        schedule=lambda step: 1e-3,
        precision="float16",
        resume=Resume(tmp_path / "state.pt", "toy", 100),
    )
    state = load_state(tmp_path / "state.pt", "toy")
    assert state is not None
    assert torch.equal(weights[1], before)  # the first step was left out
    assert not torch.equal(model.weight, before)  # and once the scale fitted, it learned
    assert state["scaler"]["scale"] < 2.0**16
    assert model.weight.isfinite().all()


def test_float16_stops_at_gradients_that_no_scale_makes_finite() -> None:
    model = linear().float()

    class Root(nn.Module):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
            return toy.Output((model(batch[0].float()).float() * 0).sum().sqrt())  # an infinite slope at zero

    with pytest.raises(UserError, match="norm of its gradient"):
        fit(
            model,
            Root(),
            uneven,
            torch.optim.SGD(model.parameters(), lr=1e-3),
            steps=100,
            schedule=lambda step: 1e-3,
            precision="float16",
        )


def test_gradients_too_small_for_float16_survive_by_the_scale() -> None:
    """Without it they are zero: the negative control."""

    class Faint(nn.Module):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
            return toy.Output(model(batch[0].float()).float().sum() * 1e-8)

    model = linear().float()
    with torch.autocast("cpu", torch.float16):
        loss = Faint()(model, uneven(0)).loss
    assert torch.autograd.grad(loss, model.weight)[0].abs().max() == 0
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(model, Faint(), uneven, optimizer, steps=1, schedule=lambda step: 1e5, precision="float16")
    assert (model.weight - before).abs().max() > 0


def test_recomputed_blocks_give_the_same_gradients_and_keep_less_in_memory() -> None:
    results = []
    for recompute in (False, True):
        model = tiny()
        model.train()
        if recompute:
            recompute_blocks(model)
        assert model.state_dict().keys() == tiny().state_dict().keys()
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = NextOf()(model, tokens_of(0)).loss
        loss.backward()
        results.append(([parameter.grad for parameter in model.parameters()], loss, kept))
    (plain, loss, much), (again, same_loss, little) = results
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(*pair) for pair in zip(plain, again, strict=True))
    assert little < 0.5 * much


def test_recomputing_needs_blocks() -> None:
    with pytest.raises(UserError, match="recompute=True: Linear has no blocks"):
        recompute_blocks(nn.Linear(2, 2))


def test_muon_makes_the_update_of_a_hidden_matrix_nearly_orthogonal_and_leaves_the_rest_to_adamw() -> None:
    model = tiny()
    optimizer = MuonWithAdamW(model, 0.0, 0.01)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    NextOf()(model, tokens_of(0)).loss.backward()
    optimizer.step()
    moved = {name: before[name] - value.detach() for name, value in model.named_parameters()}
    hidden = moved["blocks.0.feed_forward.up_proj.weight"]
    values = torch.linalg.svdvals(hidden / (0.01 * 0.2 * 24**0.5))
    assert values.max() / values.min() < 6  # the published polynomial leads most of them to 0.5 to 1.5, in bfloat16
    gradient = torch.linalg.svdvals(model.get_parameter("blocks.0.feed_forward.up_proj.weight").grad)  # type: ignore[arg-type]
    assert gradient.max() / gradient.min() > 12
    table = torch.linalg.svdvals(moved["token_embedding.weight"])
    assert table.max() / table.min() > 12  # AdamW's step keeps no such shape
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())


def test_muon_takes_a_convolution_filter_as_the_matrix_from_its_input_patches_to_its_channels() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(3, 8, 3)), "head": nn.Linear(8, 8)})
    optimizer = MuonWithAdamW(model, 0.0, 0.01, hidden=("stem.",))
    images = torch.randn(4, 3, 9, 9).contiguous(memory_format=torch.channels_last)  # gradients have these strides too
    features = model["stem"](images).mean((2, 3))
    model["head"](features).square().sum().backward()
    filters = model.get_parameter("stem.0.weight")
    assert filters.grad is not None
    matrix = nn.Parameter(filters.detach().clone().flatten(1))
    matrix.grad = filters.grad.clone().flatten(1)
    optimizer.step()
    torch.optim.Muon([matrix], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    torch.testing.assert_close(filters.detach().flatten(1), matrix.detach())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_muon_needs_hidden_matrices() -> None:
    with pytest.raises(UserError, match="optimizer='muon': Linear has no blocks"):
        MuonWithAdamW(nn.Linear(2, 2), 0.0, 0.1)


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_plain_one_does() -> None:
    results = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = GPT2(GPT2Config(vocab_size=11, context=8, width=16, depth=1, heads=2, feed_forward=24))
        if compiled:
            model.compile()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, NextOf(), tokens_of, optimizer, steps=3, schedule=lambda step: 0.1)
        results.append(model.state_dict())
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)
    assert results[0].keys() == results[1].keys()

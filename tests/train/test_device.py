"""Arms on a GPU, without one: tensors are marked as being elsewhere, and what meets them must be elsewhere too.

What has a marked input is marked, and so is what is made for a named device or moved to one; what is made without a
word is on the CPU. On a GPU an operation on both would raise, as it does here; so would NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from archlab.config import PretrainConfig, RunConfig, load
from archlab.data import device as device_module
from archlab.data.batch import Batch
from archlab.data.device import device_of, find_device, to_device
from archlab.errors import UserError
from archlab.evaluate import encoder_probes, readout
from archlab.evaluate.trunk_probes import pooled
from archlab.train.recipes import load_recipe
from archlab.train.run import build_objective, readout_of
from archlab.train.setup import Setup
from archlab.vl.arms import build_arm
from archlab.vl.encoder import FrozenEncoder, whitened

RECIPES = Path(__file__).parents[2] / "03-vljepa-impl" / "configs"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml") if load_recipe(path)[0].config is RunConfig)
CROSSING = {Tensor.copy_}  # which copies from one device to another


def mark(tensor: Tensor) -> Tensor:
    tensor.elsewhere = True  # type: ignore[attr-defined]
    return tensor


def is_marked(tensor: Tensor) -> bool:
    return hasattr(tensor, "elsewhere")


def mark_module(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        mark(tensor)


class Elsewhere(TorchFunctionMode):
    """Follows the marks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        marked = [is_marked(one) for one in tensors]
        if func in (Tensor.numpy, Tensor.__array__):
            assert not any(marked), "NumPy cannot read what is elsewhere"
        if func is Tensor.cpu:
            return args[0].detach().view_as(args[0])  # another object, without the mark
        result = func(*args, **kwargs)
        moved = func is Tensor.to and any(isinstance(one, torch.device) for one in (*args, *kwargs.values()))
        if any(marked) and not moved and func not in CROSSING:
            here = [one for one, elsewhere in zip(tensors, marked, strict=True) if not elsewhere and one.dim()]
            assert not here, f"{func.__name__}: tensors on two devices"
        if any(marked) or moved or kwargs.get("device") is not None:
            tree_map_only(Tensor, mark, result)
        return result


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """The mode; batches that go to a device are marked, although it is the one where they are."""

    def move(batch: Any, device: torch.device) -> Any:
        return replace(batch, **{k: v.view_as(v).to(device) for k, v in vars(batch).items() if isinstance(v, Tensor)})

    monkeypatch.setattr(device_module, "to_device", move)
    monkeypatch.setattr(readout, "to_device", move)
    return Elsewhere()


@dataclass
class Parts:
    arm: Any
    objective: nn.Module
    batch: Batch


@pytest.fixture
def parts_of(tiny_config: RunConfig, tiny_setup: Setup) -> Callable[[str], Parts]:
    """`parts_of(recipe)`: that arm and its objective, elsewhere, and a batch that is still on the CPU."""

    def make(name: str) -> Parts:
        config = replace(tiny_config, arm="supervised")
        if name != "supervised":
            recipe = load_recipe(RECIPES / f"{name}.yaml")[1]
            predictor = replace(recipe.vljepa.predictor, depth=1)
            own = replace(tiny_config.vljepa, objective=recipe.vljepa.objective, predictor=predictor)
            config = replace(tiny_config, arm=recipe.arm, token=recipe.token, vljepa=own, start=recipe.start)
        width, vocabulary = tiny_setup.encoder.width, tiny_setup.tokenizer.vocab_size
        arm, objective = build_arm(config, width, vocabulary, len(tiny_setup.answers)), build_objective(config)
        mark_module(arm)
        mark_module(objective)
        return Parts(arm, objective, tiny_setup.collator("train")(np.arange(4)))

    return make


@pytest.mark.parametrize("name", [*NAMES, "supervised"])
def test_every_recipe_trains_on_its_device_alone(
    elsewhere: Elsewhere, parts_of: Callable[[str], Parts], name: str
) -> None:
    parts = parts_of(name)
    with elsewhere:
        output = parts.objective(parts.arm, device_module.to_device(parts.batch, torch.device("cpu")))
    assert all(is_marked(part) for part in (output.loss, *output.parts.values()))
    with elsewhere, pytest.raises(AssertionError, match="tensors on two devices"):
        parts.objective(parts.arm, parts.batch)  # a batch that was left on the CPU


@pytest.mark.parametrize("name", [*NAMES, "supervised"])
def test_every_recipe_is_asked_with_a_batch_on_the_cpu_and_answers_there(
    elsewhere: Elsewhere, parts_of: Callable[[str], Parts], tiny_setup: Setup, name: str
) -> None:
    parts = parts_of(name)
    ask: Any = readout_of(parts.arm, tiny_setup)
    with elsewhere:
        assert {scores.shape for scores in ask.choose(parts.batch, ["red", "blue"]).values()} == {(4, 2)}
        if name != "supervised":
            assert len(ask.speak(parts.batch)) == 4
            assert len(ask.image_vectors(parts.batch)) == 4
            assert len(ask.text_vectors(["red", "blue", "a big green circle"])) == 3
        assert len(pooled(parts.arm)(parts.batch).detach().cpu().numpy()) == 4


def test_an_encoder_reads_images_from_the_cpu_and_is_probed_and_whitened(
    elsewhere: Elsewhere, tiny_encoder: Path, few_probes: None
) -> None:
    encoder = FrozenEncoder.random(load(tiny_encoder / "config.yaml", PretrainConfig))
    side = encoder.image_size
    mark_module(encoder.vit)
    with elsewhere:
        assert is_marked(encoder.encode(torch.zeros(3, side, side, 3, dtype=torch.uint8)))
        images = torch.from_numpy(np.zeros((1, side, side, 3), np.uint8))
        assert is_marked(encoder_probes._pixels(images.numpy(), torch.device("cpu")))
        whitened(encoder.vit, torch.randn(2, 3, side, side))


def test_a_tensor_made_on_the_wrong_device_is_noticed(elsewhere: Elsewhere) -> None:
    class Careless(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.arange(3)

    class Careful(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.arange(3, device=x.device)

    careless, careful, x = Careless(2, 3), Careful(2, 3), mark(torch.zeros(4, 2))
    mark_module(careless)
    mark_module(careful)
    with elsewhere:
        assert is_marked(careful(x))
        with pytest.raises(AssertionError, match="tensors on two devices"):
            careless(x)
        with pytest.raises(AssertionError, match="NumPy cannot read"):
            careful(x).detach().numpy()


def test_a_batch_moves_with_all_its_tensors_and_stays_where_it_is() -> None:
    batch = Batch.without_target(torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5).bool())
    assert to_device(batch, torch.device("cpu")) is batch
    moved = to_device(batch, torch.device("meta"))
    assert {value.device.type for value in vars(moved).values() if isinstance(value, Tensor)} == {"meta"}
    assert moved.ids == batch.ids
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"


def test_a_gpu_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto", "device").type == "cpu"
    with pytest.raises(UserError, match=r"^device='cuda': PyTorch sees no GPU; use 'auto' or 'cpu'$"):
        find_device("cuda", "device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto", "device").type == "cuda"
    assert find_device("cpu", "device").type == "cpu"


@pytest.mark.gpu
def test_a_run_on_a_gpu_ends_near_that_on_the_processor(
    tiny_config: RunConfig, tiny_run: Callable[[str], Any], tmp_path: Path
) -> None:
    from archlab.train.run import train_run

    setup = Setup.prepare(replace(tiny_config, device="cuda"))
    run = train_run(replace(tiny_config, device="cuda"), setup, tmp_path / "run", "")
    assert device_of(run.arm).type == "cuda"
    losses = [[point["loss"] for point in one.metrics["curve"]] for one in (run, tiny_run("vljepa"))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)

"""What differs on a GPU: narrow numbers, collectives, fused attention, compiled code; `pytest -m gpu` tries it there.

Each test takes a device, and runs on the processor as well: without a GPU, what it says is tried at least there.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.objectives import spread_cases
from tests.objectives.spread_cases import CASES, ON_DEVICE, find
from tests.train.many import run_many
from torch import Tensor, nn

from archlab.config import RunConfig
from archlab.data.device import to_device
from archlab.layers import masks
from archlab.layers.attention import Attention, set_implementation
from archlab.train.run import build_objective
from archlab.train.setup import Setup
from archlab.vl.arms import build_arm

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
ARMS: Any = pytest.mark.parametrize("arm", ["token", "vljepa"])


def parts_of(config: RunConfig, setup: Setup, device: str) -> tuple[nn.Module, nn.Module, Any]:
    """An arm, its objective and a batch, on the device."""
    arm = build_arm(config, setup.encoder.width, setup.tokenizer.vocab_size, 1).to(device)
    batch = to_device(setup.collator("train")(np.arange(16)), torch.device(device))
    return arm, build_objective(config).to(device), batch


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad.cpu() for name, one in model.named_parameters() if one.grad is not None}


@DEVICES
@ARMS
def test_a_step_in_bfloat16_is_near_that_in_float32(
    device: str, arm: Any, tiny_config: RunConfig, tiny_setup: Setup
) -> None:
    found = []
    for narrow in (False, True):
        model, objective, batch = parts_of(replace(tiny_config, arm=arm), tiny_setup, device)
        with torch.autocast(device, torch.bfloat16, enabled=narrow):
            loss = objective(model, batch).loss
        loss.backward()
        found.append((loss.item(), gradients_of(model)))
    (loss, plain), (narrow_loss, narrowed) = found
    assert loss == pytest.approx(narrow_loss, rel=0.02)
    assert loss != narrow_loss  # something was rounded
    assert plain.keys() == narrowed.keys()
    assert {one.dtype for one in narrowed.values()} == {torch.float32}
    flat, narrow_flat = (torch.cat([one.flatten() for one in gradients.values()]) for gradients in (plain, narrowed))
    assert torch.cosine_similarity(flat, narrow_flat, dim=0) > 0.99


@DEVICES
def test_replicated_and_sharded_a_device_trains_what_one_process_does(device: str, tmp_path: Path) -> None:
    """A job of one process, which has all the machinery of several: NCCL on a GPU, gloo on the processor."""
    run_many(1, Path(spread_cases.__file__), tmp_path, device)
    alone = find(CASES[ON_DEVICE])
    for parallel, found in torch.load(tmp_path / "found.pt", weights_only=True).items():
        assert found["loss"] == pytest.approx(alone.loss, rel=1e-4)
        assert found["gradients"]
        for name, gradient in found["gradients"].items():
            torch.testing.assert_close(gradient, alone.gradients[name], rtol=1e-3, atol=1e-5)
        assert found["trained on"] == found["scored on"] == device
        # A whole copy beside the shares would cost more than sharding saves.
        assert found["waits on"] == found["waits again on"] == ("cpu" if parallel == "fsdp" else device)


@DEVICES
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-2)], ids=str)
@pytest.mark.parametrize("kind", ["all", "causal", "padded"])
def test_fused_attention_is_the_readable_one(device: str, dtype: torch.dtype, tolerance: float, kind: str) -> None:
    torch.manual_seed(0)
    fused = Attention(64, 4, key_value_heads=2, implementation="fused").to(device)
    readable = copy.deepcopy(fused)
    set_implementation(readable, "readable")
    x = torch.randn(3, 40, 64)
    real = torch.arange(40) < torch.tensor([40, 17, 5])[:, None]
    mask = {"all": None, "causal": masks.causal(*[torch.arange(40)[None]] * 2), "padded": masks.padding(real)}[kind]
    results = []
    for attention in (fused, readable):
        own = x.to(device).requires_grad_()
        narrow = dtype == torch.bfloat16 and attention is fused
        with torch.autocast(device, dtype if narrow else torch.bfloat16, enabled=narrow):
            out = attention(own, mask=None if mask is None else mask.to(device)).float()
        (out * real.to(device)[..., None]).square().sum().backward()
        results.append([out.detach() * real.to(device)[..., None], own.grad, attention.q_proj.weight.grad])
    for ours, theirs in zip(*results, strict=True):
        scale = theirs.abs().max()
        assert (ours - theirs).abs().max() < tolerance * scale


@DEVICES
@ARMS
def test_a_compiled_step_of_an_arm_is_the_plain_one(
    device: str, arm: Any, tiny_config: RunConfig, tiny_setup: Setup
) -> None:
    """On the processor what is traced is run as it is: kernels for it take minutes to compile."""
    backend = "inductor" if device == "cuda" else "aot_eager"
    found = []
    for compiled in (False, True):
        model, objective, batch = parts_of(replace(tiny_config, arm=arm), tiny_setup, device)

        def step(batch: Any, model: Any = model, objective: Any = objective) -> Tensor:
            return objective(model, batch).loss

        loss = (torch.compile(step, backend=backend) if compiled else step)(batch)
        loss.backward()
        found.append((loss.item(), gradients_of(model)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert found[1][1].keys() == found[0][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-2, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")

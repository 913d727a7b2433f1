"""Losses and gradients of every objective on one batch, in one process or spread over several.

`main`, called in every process of a job (`tests.train.many`), writes what the first finds to FOLDER/found.pt. With a
device, which is for a job of one process, it tries a single case there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from archlab.config import EmbeddingArmConfig, PredictorConfig, RunConfig, StartConfig, TransformerConfig
from archlab.data.batch import Batch
from archlab.data.device import device_of, to_device
from archlab.data.text.batch import Pairs, Tokens
from archlab.data.views import draw_views
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from archlab.models.gpt2 import GPT2, GPT2Config
from archlab.models.lejepa import LeJEPA
from archlab.models.mae import MaskedAutoencoder
from archlab.models.vit import ViTConfig
from archlab.objectives import contrastive, global_batch
from archlab.objectives.lejepa import LocalInvariance
from archlab.objectives.masked_autoencoder import MaskedReconstruction
from archlab.objectives.sequence import LanguageModelling, Translation
from archlab.train.distributed import spread_over_processes
from archlab.train.processes import everyone, joined, own_rows, rank
from archlab.train.run import build_objective
from archlab.train.streams import ImageBatch
from archlab.train.together import train_together
from archlab.vl.arms import build_arm

SAMPLES, FEATURES, VOCABULARY = 7, 10, 40  # two processes have 4 and 3 samples, four have 2, 2, 2 and 1
SIZE = TransformerConfig(width=16, depth=2, heads=2, feed_forward=32)
PLAIN = RunConfig(trunk=SIZE, vljepa=EmbeddingArmConfig(embedding=12, target=SIZE, decoder=SIZE, decoder_prefix=3))
Case = tuple[nn.Module, nn.Module, Any]


@dataclass(frozen=True)
class Found:
    """Of one batch: the loss, what explains it, the weight, the gradient of every parameter, the buffers afterwards.

    `held`: after the step, bytes of the parameters and of their gradients that each process holds.
    """

    loss: float
    parts: dict[str, float]
    weight: float
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    held: list[int]


def tokens(lengths: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(3, VOCABULARY, mask.shape, generator=generator).masked_fill(~mask, 7), mask


def batch_of_arms() -> Batch:
    """Lengths differ, so that a mean over tokens is no mean over samples; meanings and strings are shared across."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(SAMPLES, 4, FEATURES, generator=generator),
        *tokens([4, 2, 5, 3, 2, 2, 4], generator),
        *tokens([3, 6, 4, 7, 5, 3, 4], generator),
        meaning=torch.tensor([0, 1, -1, 2, 0, 0, -1]),
        text=torch.tensor([5, 6, 7, 8, 5, 9, 7]),
        ids=list("abcdefg"),
    )


def arm(config: RunConfig) -> Case:
    return build_arm(config, FEATURES, VOCABULARY, 3), build_objective(config), batch_of_arms()


def vljepa(objective: str, positives: str = "meaning", **predictor: Any) -> Callable[[], Case]:
    own = PLAIN.vljepa
    loss = replace(own.loss, positives=positives)
    own = replace(own, objective=objective, loss=loss, predictor=PredictorConfig(**predictor))  # type: ignore[arg-type]
    return lambda: arm(replace(PLAIN, vljepa=own))


def vit(stem: Any = "linear") -> ViTConfig:
    return ViTConfig(
        image_size=32, patch_size=8, transformer=SIZE, stem=stem, class_token=False, positions="sinusoidal"
    )


def masked_autoencoder() -> Case:
    images = torch.randn(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    return MaskedAutoencoder(vit(), SIZE), MaskedReconstruction(0.5), ImageBatch(images, images.sin())


def lejepa() -> Case:
    generator = torch.Generator().manual_seed(1)
    views = draw_views(torch.randn(SAMPLES, 3, 32, 32, generator=generator), 6, 0.5, generator)
    torch.manual_seed(3)
    return LeJEPA(vit("convolutional"), 24, 8), LocalInvariance(0.1, 0.5), views


def language_model() -> Case:
    """Three samples: of four processes one has none."""
    torch.manual_seed(3)
    model = GPT2(GPT2Config(vocab_size=VOCABULARY, context=8, width=16, depth=2, heads=2, feed_forward=24))
    return model, LanguageModelling(), Tokens(torch.randint(VOCABULARY, (3, 9)))


def translation() -> Case:
    torch.manual_seed(3)
    size = {"width": 16, "depth": 1, "decoder_depth": 1, "heads": 2, "feed_forward": 24}
    model = EncoderDecoderTransformer(EncoderDecoderConfig(vocab_size=VOCABULARY, context=8, **size))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    return model, Translation(0.1), Pairs(*tokens([4, 2, 5], generator), *tokens([3, 6, 4], generator))


CASES: dict[str, Callable[[], Case]] = {
    "InfoNCE, none": vljepa("info-nce", "none"),
    "InfoNCE, text": vljepa("info-nce", "text"),
    "InfoNCE, meaning": vljepa("info-nce", "meaning"),
    "cosine": vljepa("cosine"),
    "L1": vljepa("l1"),
    "L2": vljepa("l2"),
    "SIGReg": vljepa("sigreg"),
    "VICReg": vljepa("vicreg"),
    "CLIP": vljepa("info-nce", kind="none"),
    "hidden vision": vljepa("info-nce", kind="cross-attention", reconstruction=1.0),
    "token": lambda: arm(replace(PLAIN, arm="token")),
    "supervised": lambda: arm(replace(PLAIN, arm="supervised")),
    "hybrid": lambda: arm(replace(PLAIN, arm="hybrid", start=StartConfig(run="elsewhere"))),
    "masked autoencoder": masked_autoencoder,
    "LeJEPA": lejepa,
    "language model": language_model,
    "translation": translation,
}
INFO_NCE = [name for name in CASES if name.startswith("InfoNCE")]
ON_DEVICE = "InfoNCE, meaning"
SHARDED = ["InfoNCE, meaning", "SIGReg", "token", "hybrid"]


def find(make: Callable[[], Case], parallel: Any = "ddp") -> Found:
    """Loss and gradients of a case on all its samples, of whichever process they are."""
    model, objective, batch = make()
    torch.manual_seed(4)  # of what objectives draw
    team = train_together(model, objective, parallel)
    output = team.objective(team.model, own_rows(batch))
    output.loss.backward()
    named = [*team.model.named_parameters(), *objective.named_parameters()]
    gradients = {name: one.grad for name, one in named if one.grad is not None}
    whole = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in gradients.items()}
    parts = {name: part.item() for name, part in output.parts.items()}
    tensors = [one for parameter in team.model.parameters() for one in (parameter, parameter.grad) if one is not None]
    held = sum((one.to_local() if isinstance(one, DTensor) else one).nbytes for one in tensors)
    return Found(output.loss.item(), parts, output.weight, whole, dict(team.model.named_buffers()), everyone(held))


def cut() -> Any:
    """Planted: the gather passes no gradient to other processes, as `torch.distributed.all_gather` passes none."""

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.first : ctx.first + ctx.own], None

    return patch.object(global_batch._Gather, "backward", staticmethod(backward))


def step_on(device: torch.device, parallel: Any) -> dict[str, Any]:
    """Loss and gradients of the case `ON_DEVICE`, and where the model is before, while and after it is evaluated."""
    model, objective, batch = CASES[ON_DEVICE]()
    team = spread_over_processes(model.to(device), objective.to(device), parallel)
    output = team.objective(team.model, to_device(own_rows(batch), device))
    output.loss.backward()
    gradients = {name: one.grad for name, one in team.model.named_parameters() if one.grad is not None}
    whole = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in gradients.items()}
    return {
        "loss": output.loss.item(),
        "gradients": {name: gradient.cpu() for name, gradient in whole.items()},
        "trained on": device_of(team.model).type,
        "waits on": device_of(model).type,
        "scored on": team.score(lambda: device_of(model).type),
        "waits again on": device_of(model).type,
    }


def main(folder: Path, device: str = "") -> None:
    torch.set_num_threads(1)
    with joined():
        if device:
            torch.save({way: step_on(torch.device(device), way) for way in ("ddp", "fsdp")}, folder / "found.pt")
            return
        found = {name: find(make) for name, make in CASES.items()}
        found |= {f"{name}, sharded": find(CASES[name], "fsdp") for name in SHARDED}
        with patch.object(contrastive, "MAX_SIMILARITIES", 10):
            found |= {f"{name}, in blocks": find(CASES[name]) for name in INFO_NCE}
        with cut():
            found |= {f"{name}, cut": find(CASES[name]) for name in INFO_NCE}
        if rank() == 0:
            torch.save({name: asdict(one) for name, one in found.items()}, folder / "found.pt")

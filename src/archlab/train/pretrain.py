"""Self-supervised pretraining of the X-encoder on scenes and real images: LeJEPA, or a denoising masked autoencoder.

No label is read. Train splits only; the scenes are drawn from a stream of their own, which never holds the attribute
combinations that are held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archlab.config import PretrainConfig
from archlab.data.device import find_device, to_device
from archlab.data.scenes.render import render
from archlab.data.scenes.world import SceneConfig, sample_scenes
from archlab.data.sources import image_source
from archlab.data.views import ViewBatch, draw_views
from archlab.evaluate.encoder_probes import probe_encoder
from archlab.models.lejepa import LeJEPA
from archlab.models.mae import MaskedAutoencoder
from archlab.models.vit import ViT
from archlab.objectives.lejepa import LocalInvariance
from archlab.objectives.masked_autoencoder import MaskedReconstruction
from archlab.train.checkpoint import fingerprint, save_checkpoint
from archlab.train.folder import check_folder, claim
from archlab.train.loop import Optimizer, Resume, fit
from archlab.train.optim import MuonWithAdamW, adamw
from archlab.train.processes import once, own_rows
from archlab.train.schedule import learning_rate
from archlab.train.together import train_together
from archlab.vl.encoder import PIXEL_SCALE, FrozenEncoder, normalise, vit_config, whitened

_WHITENING_BATCHES = 8
_NOISE = 40.0 / PIXEL_SCALE  # largest amplitude of the input noise; the loudest scenes have as much


@dataclass(frozen=True)
class ImageBatch:
    """Images (B, 3, H, W) as the encoder sees them, and clean, as it must reconstruct them."""

    images: Tensor
    clean: Tensor


class ImageStream:
    """Batches of images, each a pure function of the step."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        # Decoded once: 64-pixel images of a few data sets fit in memory, and each is drawn many times.
        self.sources = [
            image_source(name, config.image_size, config.seed)[:] for name in config.sources if name != "scenes"
        ]
        self.digests = [hashlib.sha256(source.tobytes()).hexdigest() for source in self.sources]
        self.scenes = round(config.optimizer.batch_size * (config.scenes_share if self.sources else 1.0))
        if "scenes" not in config.sources:
            self.scenes = 0
        # Clean pictures: the noise is added to the input alone, so that the target is what can be predicted.
        self.world = SceneConfig(image_size=config.image_size, max_noise=0.0)

    def __call__(self, step: int) -> ImageBatch:
        """The batch of a step."""
        clean, generator = self._draw(step)
        amplitude = generator.uniform(0, _NOISE, (len(clean), 1, 1, 1))
        noise = (amplitude * generator.uniform(-1, 1, clean.shape)).astype(np.float32)
        return ImageBatch(clean + torch.from_numpy(noise), clean)

    def clean(self, step: int) -> Tensor:
        """The images of that batch alone, (B, 3, H, W)."""
        return self._draw(step)[0]

    def _draw(self, step: int) -> tuple[Tensor, np.random.Generator]:
        """Clean images, and the generator that the step's noise comes from."""
        generator = np.random.default_rng([self.config.seed, step])
        parts = []
        if self.scenes:
            scenes = sample_scenes(self.scenes, self.world, split="pretrain", start=step * self.scenes)
            parts.append(render(scenes, self.config.image_size))
        shares = np.array_split(np.arange(self.config.optimizer.batch_size - self.scenes), max(len(self.sources), 1))
        for source, share in zip(self.sources, shares, strict=False):
            rows = generator.integers(0, len(source), len(share))
            parts.append(source[rows])
        return normalise(torch.from_numpy(np.concatenate(parts))), generator


def pretrain(config: PretrainConfig, folder: Path) -> FrozenEncoder:
    """Pretrain an encoder into `folder`, or resume, or open what is finished.

    Raises:
        UserError: a source cannot be read, or `folder` belongs to another configuration.
        KeyboardInterrupt: interrupted; the same call resumes.
    """
    once(partial(check_folder, folder, config))
    if (folder / "metrics.json").exists():
        return FrozenEncoder.load(str(folder))
    stream = ImageStream(config)
    once(partial(claim, folder, config))
    device = find_device(config.device, "device")
    # Later ones than training draws, and as many as the covariance of all features needs.
    images = torch.cat([stream.clean(config.optimizer.steps + number) for number in range(_WHITENING_BATCHES)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        method = _METHODS[config.method](config, stream)
        team = train_together(method.model.to(device), method.objective.to(device))
        history = fit(
            team.model,
            team.objective,
            lambda step: to_device(own_rows(method.batches(step)), device),
            _optimizer(team.model, config),
            steps=config.optimizer.steps,
            schedule=lambda step: learning_rate(step, config.optimizer),
            gradient_clip=config.optimizer.gradient_clip,
            precision=config.optimizer.precision,
            evaluate=lambda step: probe_encoder(FrozenEncoder(whitened(method.encoder, images), config.merge, "", {})),
            evaluate_at=[
                0,
                *range(config.probe_every, config.optimizer.steps, config.probe_every),
                config.optimizer.steps,
            ],
            resume=Resume(folder / "state.pt", fingerprint(config, *stream.digests), config.resume_every),
            together=team,
            description=f"pretraining ({config.method})",
        )
    metrics = {
        "steps": config.optimizer.steps,
        "images": config.optimizer.steps * config.optimizer.batch_size,
        "seconds": history.seconds,
        "probes": {
            "random initialisation": history.curve[0].scores,
            "pretrained": history.curve[-1].scores,
        },
        "curve": [asdict(point) for point in history.curve],
    }
    encoder, card = whitened(method.encoder, images), _card(config, metrics)
    once(lambda: save_checkpoint(folder, encoder, config, None, metrics, card))
    once(lambda: (folder / "state.pt").unlink(missing_ok=True))
    return FrozenEncoder.load(str(folder))


@dataclass(frozen=True)
class _Method:
    """What a method trains, with what, on what; `encoder` is the part that is kept."""

    model: nn.Module
    encoder: ViT
    objective: nn.Module
    batches: Callable[[int], Any]


def _masked_autoencoder(config: PretrainConfig, stream: ImageStream) -> _Method:
    model = MaskedAutoencoder(vit_config(config), config.mae.decoder)
    return _Method(model, model.encoder, MaskedReconstruction(config.mae.mask_ratio), stream)


def _lejepa(config: PretrainConfig, stream: ImageStream) -> _Method:
    settings = config.lejepa
    model = LeJEPA(vit_config(config), settings.projector, settings.embedding)

    def batches(step: int) -> ViewBatch:
        seed = int(np.random.default_rng([config.seed, step, 1]).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        return draw_views(stream.clean(step), settings.points, settings.recoloured, generator)

    objective = LocalInvariance(settings.regularization, settings.reconstruction)
    return _Method(model, model.encoder, objective, batches)


# All but a linear patch embedding and the maps that pixels are read off by.
_HIDDEN = ("blocks.", "patch_embedding.layers.", "projector.")


def _optimizer(model: nn.Module, config: PretrainConfig) -> Optimizer:
    if config.update == "muon":
        return MuonWithAdamW(model, config.optimizer.weight_decay, config.optimizer.learning_rate, hidden=_HIDDEN)
    return adamw(model, config=config.optimizer)


_METHODS = {"mae": _masked_autoencoder, "lejepa": _lejepa}


_DESCRIPTIONS = {
    "mae": "Denoising masked autoencoder (arXiv 2111.06377)",
    "lejepa": "LeJEPA (arXiv 2511.08544) on local features",
}

_UPDATES = {"adamw": "AdamW", "muon": "Muon (AdamW for gains, biases and linear read-outs)"}


def _card(config: PretrainConfig, metrics: dict[str, object]) -> str:
    probes = metrics["probes"]
    assert isinstance(probes, dict)
    before, after = probes["random initialisation"], probes["pretrained"]
    side = config.image_size // config.patch_size // config.merge
    width = config.encoder.width * config.merge**2
    rows = [f"| {name} | {before[name]:.3f} | {after[name]:.3f} |" for name in after]
    return "\n".join(
        [
            "# Frozen vision encoder",
            "",
            f"A Vision Transformer ({config.encoder.depth} blocks, width {config.encoder.width}) that reads "
            f"{config.image_size} x {config.image_size} RGB images and gives {side * side} visual tokens of {width} "
            "features: the whitened states of each square of "
            f"{config.merge} x {config.merge} patches side by side.",
            "",
            "## Recipe",
            "",
            f"{_DESCRIPTIONS[config.method]}, {config.stem} stem, {metrics['steps']} steps of "
            f"{config.optimizer.batch_size} images, {_UPDATES[config.update]}, seed {config.seed}. "
            f"Images: {', '.join(config.sources)}; train splits only, no labels; attribute combinations that the "
            "scenes hold out were never drawn. `config.yaml` is the whole recipe: `archlab train config.yaml` "
            "repeats it.",
            "",
            "## Probes",
            "",
            "Linear probes on held-out scenes (validation split), accuracy; the same encoder at random initialisation "
            "beside it. `pooled` reads the mean of the visual tokens, `tokens` all of them side by side, `dense` "
            "single patches that an object covers.",
            "",
            "| probe | random initialisation | pretrained |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )

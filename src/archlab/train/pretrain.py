"""Self-supervised pretraining of the X-encoder on scenes and real images, by one of the methods in `train.methods`.

No label is read. Probes beside random initialisation and collapse monitors are taken all along.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archlab.config import PretrainConfig
from archlab.data.device import find_device, to_device
from archlab.evaluate.collapse import encoder_verdict
from archlab.evaluate.encoder_probes import probe_encoder
from archlab.evaluate.monitor import Monitor, split_curve, watch_encoder
from archlab.train.card import alarm_line, variant_line
from archlab.train.checkpoint import fingerprint, save_checkpoint
from archlab.train.folder import check_folder, claim
from archlab.train.loop import Optimizer, Resume, fit
from archlab.train.methods import DESCRIPTIONS, build_method
from archlab.train.optim import MuonWithAdamW, adamw
from archlab.train.processes import once, own_rows
from archlab.train.schedule import learning_rate
from archlab.train.streams import ImageStream
from archlab.train.together import train_together
from archlab.vl.encoder import FrozenEncoder, whitened

_WHITENING_BATCHES = 8


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
        method = build_method(config, stream)
        steps = 0 if config.method == "none" else config.optimizer.steps
        trained = config.method in ("ijepa", "vjepa") and config.jepa.target == "trained"
        verdict = partial(encoder_verdict, unguarded=trained)
        monitor = Monitor(verdict, steps)

        def evaluate(step: int) -> dict[str, float]:
            encoder = whitened(method.encoder, images)
            watched = monitor(step, watch_encoder(encoder, images, device))
            return probe_encoder(FrozenEncoder(encoder, config.merge, "", {})) | watched

        team = train_together(method.model.to(device), method.objective.to(device))
        history = fit(
            team.model,
            team.objective,
            lambda step: to_device(own_rows(method.batches(step)), device),
            _optimizer(team.model, config),
            steps=steps,
            schedule=lambda step: learning_rate(step, config.optimizer),
            gradient_clip=config.optimizer.gradient_clip,
            precision=config.optimizer.precision,
            average=method.average,
            evaluate=evaluate,
            evaluate_at=[0, *range(config.probe_every, steps, config.probe_every), steps],
            resume=Resume(folder / "state.pt", fingerprint(config, *stream.digests), config.resume_every),
            together=team,
            description=f"pretraining ({config.method})",
        )
    curve, watched = split_curve([asdict(point) for point in history.curve], verdict, steps)
    metrics = {
        "steps": steps,
        "images": steps * config.optimizer.batch_size,
        "seconds": history.seconds,
        "probes": {"random initialisation": curve[0]["scores"], "pretrained": curve[-1]["scores"]},
        "curve": curve,
        "monitor": watched,
    }
    encoder, card = whitened(method.encoder, images), _card(config, metrics)
    once(lambda: save_checkpoint(folder, encoder, config, None, metrics, card))
    once(lambda: (folder / "state.pt").unlink(missing_ok=True))
    return FrozenEncoder.load(str(folder))


# All but a linear patch embedding and the maps that pixels are read off by.
_HIDDEN = ("blocks.", "patch_embedding.layers.", "projector.")


def _optimizer(model: nn.Module, config: PretrainConfig) -> Optimizer:
    if config.update == "muon":
        return MuonWithAdamW(model, config.optimizer.weight_decay, config.optimizer.learning_rate, hidden=_HIDDEN)
    return adamw(model, config=config.optimizer)


_UPDATES = {"adamw": "AdamW", "muon": "Muon (AdamW for gains, biases and linear read-outs)"}


def _card(config: PretrainConfig, metrics: dict[str, Any]) -> str:
    probes, alarm = metrics["probes"], alarm_line(metrics)
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
            variant_line(config),
            "",
            "## Recipe",
            "",
            f"{DESCRIPTIONS[config.method]}, {config.stem} stem, {metrics['steps']} steps of "
            f"{config.optimizer.batch_size} images, {_UPDATES[config.update]}, seed {config.seed}. "
            f"Images: {', '.join(config.sources)}; train splits only, no labels; attribute combinations that the "
            "scenes hold out were never drawn. `config.yaml` is the whole recipe: `archlab train config.yaml` "
            "repeats it.",
            "",
            *([alarm, ""] if alarm else []),
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

"""Cells that pretrain a vision encoder: what they read, what their budgets hold equal, and what is measured of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from archlab.compare.flops import counted_flops
from archlab.compare.grid.cells import Cell
from archlab.compare.grid.conditions import TEST
from archlab.compare.grid.results import Results, curve_of, head
from archlab.config import PretrainConfig, build, to_dict
from archlab.errors import UserError
from archlab.evaluate.encoder_probes import probe_items
from archlab.evaluate.measure import Measurement
from archlab.evaluate.set_probes import PROBED, probe_set, set_digests
from archlab.train.methods import Method, build_method
from archlab.train.pretrain import pretrain
from archlab.train.streams import ImageStream

BUDGETS = ("equal-images", "equal-flops")
_COUNTED_STEPS = 2  # the masks of I-JEPA and V-JEPA make one step a little dearer than another
_LOOKED_AT = 16  # images


def digests(config: PretrainConfig) -> tuple[str, ...]:
    """Hashes of the images that a run reads: real ones all, scenes the first, since code makes the others; and of those
    that it is asked about, where it learned from sets of known classes."""
    read = (config.sources, config.image_size, config.seed, config.scenes_share)
    asked = [set_digests(name, config.image_size, config.seed) for name in _probed(config)]
    return ("pretrain", *_digests(json.dumps(read)), *(digest for of_set in asked for digest in of_set))


def apply_budget(name: str, config: PretrainConfig) -> PretrainConfig:
    """The run under a budget.

    "equal-images" leaves every method its steps: a batch is as many images, for V-JEPA frames. "equal-flops" gives each
    as many steps as a LeJEPA run of the protocol's steps pays for, the dearest method and that of the built-in encoder,
    here with a linear stem; steps then differ, and images with them. Cheap steps may be more than the protocol's
    `most_steps`: that bounds the length of a cell, which equal operations keep as long as the dearest.

    Raises:
        UserError: there is no such budget.
    """
    if name not in BUDGETS:
        raise UserError(f"budget {name!r}: must be one of {', '.join(BUDGETS)} where encoders are pretrained")
    if name == "equal-images" or config.method == "none":
        return config
    spent = config.optimizer.steps * step_flops(replace(config, method="lejepa", stem="linear"))
    return replace(config, optimizer=replace(config.optimizer, steps=max(1, round(spent / step_flops(config)))))


def step_flops(config: PretrainConfig) -> int:
    """Operations of one training step, forward and backward, counted over the first ones."""
    if config.method == "none":
        return 0
    shape = replace(config, seed=0, sources=["scenes"], optimizer=replace(config.optimizer, precision="float32"))
    return _step_flops(json.dumps(to_dict(shape)))


def measure_cell(cell: Cell, folder: Path) -> Results:
    """Pretrain into `folder`, or open what is finished there.

    The encoder is probed on scenes, and on the sets of known classes that it learned from.
    """
    config = cell.config
    assert isinstance(config, PretrainConfig)
    encoder = pretrain(config, folder)
    metrics = encoder.metrics
    probes = Measurement()
    if cell.test_items:
        asked = probe_items(encoder, TEST)
        for name in _probed(config):
            asked |= probe_set(encoder, name, config.seed)
        for name, (right, images) in asked.items():
            probes.add(name, right, images)
    content = head(cell) | {
        "encoder_digest": encoder.digest,
        "parameters": {"trainable": 0 if config.method == "none" else _parameters(config)},
        "training": {
            "steps": metrics["steps"],
            "samples": metrics["images"],
            "seconds": round(metrics["seconds"], 2),
            "flops": metrics["steps"] * step_flops(config),
        },
        **curve_of(metrics, config.optimizer.batch_size),
    }
    return content, {TEST: (f"test images of {config.image_size} pixels", probes)} if cell.test_items else {}


def _probed(config: PretrainConfig) -> list[str]:
    return [name for name in PROBED if name in config.sources]


def _parameters(config: PretrainConfig) -> int:
    return sum(one.numel() for one in _method(config).model.parameters() if one.requires_grad)


def _method(config: PretrainConfig) -> Method:
    """Untrained; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return build_method(config, ImageStream(replace(config, sources=["scenes"])))


@lru_cache
def _digests(read: str) -> tuple[str, ...]:
    sources, image_size, seed, share = json.loads(read)
    config = PretrainConfig(sources=sources, image_size=image_size, seed=seed, scenes_share=share)
    few = replace(config, optimizer=replace(config.optimizer, batch_size=_LOOKED_AT))
    stream = ImageStream(few)
    return *stream.digests, hashlib.sha256(stream.clean(0).contiguous().numpy().tobytes()).hexdigest()


@lru_cache
def _step_flops(shape: str) -> int:
    config = build(PretrainConfig, json.loads(shape))
    method = _method(config)
    with torch.random.fork_rng(devices=[]):  # masks and sketches are drawn
        counted = [counted_flops(_step(method, number)) for number in range(_COUNTED_STEPS)]
    return round(sum(counted) / len(counted))


def _step(method: Method, number: int) -> Callable[[], None]:
    batch = method.batches(number)  # drawn outside: making images is no part of training
    return lambda: method.objective(method.model, batch).loss.backward()

"""What runs read, found out before they are run: the digests that name cells, and the sizes that budgets need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tokenizers

from archlab import data
from archlab.compare.budgets import apply_budget
from archlab.compare.experiment import batch_shapes, cached
from archlab.compare.flops import Sizes
from archlab.compare.grid import encoders
from archlab.compare.grid.cells import Inputs
from archlab.compare.grid.protocol import Config
from archlab.config import LanguageConfig, PretrainConfig, RunConfig, to_dict
from archlab.data.features import cache_folder
from archlab.data.sources import load_dataset
from archlab.interop.checkpoint import locate
from archlab.interop.reference import digest_of
from archlab.train.setup import Setup, open_tokenizer
from archlab.vl.x_encoder import open_encoder


def make_inputs() -> Inputs:
    """Inputs that are found out once for all runs that share them."""
    setups = remembered(Setup.prepare)
    encoder = remembered(lambda config: open_encoder(config.encoder, config.data.frames))

    @remembered
    def of_arm(config: RunConfig) -> tuple[str, ...]:
        frozen = encoder(config)
        return (*_data_digest(config, frozen.image_size), frozen.digest)

    of_checkpoint = cache(lambda source: digest_of(locate(source)))

    def digests(config: Config) -> tuple[str, ...]:
        if isinstance(config, PretrainConfig):
            return encoders.digests(config)
        begun_with = (config.vljepa.target_weights, config.language.weights)
        return *of_arm(config), *(of_checkpoint(source) for source in begun_with if source)

    budgets: dict[tuple[str, str], Config] = {}

    def budgeted(name: str, config: Config) -> Config:
        asked = (name, json.dumps(to_dict(replace(config, seed=0))))
        if asked not in budgets and isinstance(config, PretrainConfig):
            budgets[asked] = encoders.apply_budget(name, config)
        if asked not in budgets:
            assert isinstance(config, RunConfig)
            setup = setups(config)
            sizes = Sizes(setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers))
            shapes = batch_shapes(config, setup) if name == "equal-flops" else []
            # The seed changes the order of batches, not their number: one rule for all seeds, from the first.
            budgets[asked] = getattr(apply_budget(name, config, sizes, shapes), config.arm)  # type: ignore[arg-type]
        return replace(budgets[asked], seed=config.seed)

    return Inputs(digests, budgeted)


def remembered(function: Callable[[RunConfig], Any]) -> Callable[[RunConfig], Any]:
    """The function, called once for all runs with the same data, tokenizer (or checkpoint that has one) and encoder."""
    known: dict[str, Any] = {}

    def call(config: RunConfig) -> Any:
        parts = [to_dict(part) for part in (config.data, config.tokenizer, config.encoder)]
        asked = json.dumps([*parts, config.language.weights])
        if asked not in known:
            known[asked] = function(config)
        return known[asked]

    return call


def _data_digest(config: RunConfig, image_size: int) -> list[str]:
    """Digests of all splits, and of the tokenizer, but for that of a checkpoint that a run begins with.

    Scenes are made by code alone: theirs are kept as long as that code stays the same.
    """

    def compute() -> list[str]:
        dataset = load_dataset(config.data, image_size)
        own = replace(config, language=LanguageConfig())
        tokenizer = open_tokenizer(own, dataset).tokenizer.to_str()
        return [*dataset.digest().values(), hashlib.sha256(tokenizer.encode()).hexdigest()]

    if config.data.source != "scenes":
        return compute()
    code = [path.read_bytes() for path in sorted(Path(data.__path__[0]).rglob("*.py"))]
    settings = [to_dict(config.data), to_dict(config.tokenizer)]
    versions = [np.__version__, PIL.__version__, tokenizers.__version__]
    made_of = json.dumps([*settings, image_size, *versions]).encode()
    name = hashlib.sha256(b"\0".join([made_of, *code])).hexdigest()[:32]
    return list(cached(cache_folder() / f"digests-{name}.json", compute))

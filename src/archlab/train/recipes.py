"""`archlab train CONFIG`: one model from one YAML recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from archlab.config import CompareConfig, PretrainConfig, RunConfig, build, read_yaml
from archlab.errors import UserError
from archlab.train.text.config import CharactersConfig, SentimentConfig, TranslationConfig


@dataclass(frozen=True)
class Recipe:
    """What the key `recipe` of a training file may name.

    Attributes:
        config: what the rest of the file is.
        module, function: which trains it, called with the configuration and the run's folder.
    """

    config: type[Any]
    module: str
    function: str

    @property
    def train(self) -> Callable[[Any, Path], object]:
        """The function, imported when it is asked for."""
        return getattr(import_module(self.module), self.function)


RECIPES = {
    "arm": Recipe(RunConfig, "archlab.train.recipes", "_train_arm"),
    "pretrain": Recipe(PretrainConfig, "archlab.train.pretrain", "pretrain"),
    "characters": Recipe(CharactersConfig, "archlab.train.text.characters", "train_characters"),
    "translation": Recipe(TranslationConfig, "archlab.train.text.translation", "train_translation"),
    "sentiment": Recipe(SentimentConfig, "archlab.train.text.sentiment", "train_sentiment"),
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Any]:
    """Read a training file: its key `recipe` chooses what it configures, an arm's run by default.

    Returns:
        the recipe, and its configuration.

    Raises:
        UserError: there is no such recipe, or see `config.load`.
    """
    raw = read_yaml(path)
    name = raw.pop("recipe", "arm")
    if name not in RECIPES:
        raise UserError(f"configuration {path}: recipe {name!r} must be one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    return recipe, build(recipe.config, raw, overrides)


def recipe_of(folder: Path) -> str | None:
    """Which recipe a run is of: the one that knows most keys of its `config.yaml`.

    Returns:
        a name in `RECIPES`, or "comparison"; None: the folder holds no run.

    Raises:
        UserError: `config.yaml` is damaged.
    """
    path = folder / "config.yaml"
    keys = read_yaml(path).keys() if path.is_file() else set()
    kinds = {name: recipe.config for name, recipe in RECIPES.items()} | {"comparison": CompareConfig}
    shared = {name: len(keys & {field.name for field in fields(kind)}) for name, kind in kinds.items()}
    best = max(shared, key=shared.__getitem__)
    return best if shared[best] else None


def train_recipe(path: Path, overrides: Sequence[str], out: Path) -> None:
    """Train what the recipe's key `recipe` names, into `out`; resumes what was interrupted.

    Raises:
        UserError: the recipe is wrong, its data cannot be read, or `out` holds another run.
    """
    with _processes():
        recipe, config = load_recipe(path, overrides)
        recipe.train(config, out)


def _processes() -> AbstractContextManager[None]:
    """With the other processes of the job, where torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from archlab.train.processes import joined

    return joined()


def _train_arm(config: RunConfig, out: Path) -> None:
    from archlab.train.processes import own_machine
    from archlab.train.run import train_run
    from archlab.train.setup import Setup

    setup = Setup.prepare(config)
    setup.read_images(own_machine())
    train_run(config, setup, out, f"{config.arm}, seed {config.seed}")

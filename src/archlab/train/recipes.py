"""`archlab train CONFIG`: one model from one YAML recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archlab.config import PretrainConfig, load_recipe


def train_recipe(path: Path, overrides: Sequence[str], out: Path) -> None:
    """Train what the recipe's key `recipe` names, into `out`; resumes what was interrupted.

    Raises:
        UserError: the recipe is wrong, its data cannot be read, or `out` holds another run.
    """
    config = load_recipe(path, overrides)
    if isinstance(config, PretrainConfig):
        from archlab.train.pretrain import pretrain

        pretrain(config, out)
        return
    from archlab.train.run import train_run
    from archlab.train.setup import Setup

    setup = Setup.prepare(config)
    setup.read_images()
    train_run(config, setup, out, f"{config.arm}, seed {config.seed}")

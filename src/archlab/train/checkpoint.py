"""What a run leaves behind: the checkpoint that evaluation and serving read, and the state from which training resumes.

    config.yaml  model.safetensors  tokenizer.json  metrics.json  card.md     the checkpoint, written together
    state.pt                                                                  the training state, apart

The weights file carries the hashes of the configuration and of the tokenizer it was saved with: a tokenizer of the same
size but with other ids would otherwise load without complaint and turn every answer into noise.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from archlab.config import Config, load, to_yaml
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.train.folder import atomic_write

_CONFIG, _WEIGHTS, _TOKENIZER, _METRICS, _CARD = _FILES = (
    "config.yaml",
    "model.safetensors",
    "tokenizer.json",
    "metrics.json",
    "card.md",
)


@dataclass(frozen=True)
class Checkpoint(Generic[Config]):
    """A checkpoint that was read and found whole; its weights are read by `load_into`.

    Attributes:
        folder: where it lies.
        config: the resolved configuration that it was trained with.
        tokenizer: None where the model reads no text.
        metrics: what was measured when it was saved.
    """

    folder: Path
    config: Config
    tokenizer: TextTokenizer | None
    metrics: dict[str, Any]

    def digest(self) -> str:
        """Hash of the weights."""
        return hashlib.sha256((self.folder / _WEIGHTS).read_bytes()).hexdigest()

    def card(self) -> str:
        """What the run wrote about itself, Markdown."""
        return (self.folder / _CARD).read_text(encoding="utf-8")

    def copy(self, folder: Path, card: str) -> None:
        """Write the same checkpoint to another folder, whole or not at all, with another card."""
        names = [name for name in _FILES if (self.folder / name).exists()]
        with atomic_write(*(folder / name for name in names)) as partial:
            for name, path in zip(names, partial, strict=True):
                if name == _CARD:
                    path.write_text(card, encoding="utf-8")
                else:
                    shutil.copyfile(self.folder / name, path)

    def load_into(self, model: nn.Module) -> None:
        """Copy the weights into `model`; every tensor must be there, be asked for, and have the right shape.

        Raises:
            UserError: the weights do not fit the model.
        """
        try:
            load_model(model, self.folder / _WEIGHTS, strict=True)
        except (RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"checkpoint {self.folder}: its weights do not fit its configuration ({reason})") from None


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    config: Any,
    tokenizer: TextTokenizer | None,
    metrics: dict[str, Any],
    card: str,
) -> None:
    """Write a checkpoint; an older one in `folder` stays whole until all of the new one is on the disk.

    Args:
        model: tensors that share memory are written once and shared again by `Checkpoint.load_into`.
        tokenizer: None where the model reads no text.
        card: what the model is, what it was trained on and what it is good for, in Markdown.
    """
    names = [name for name in _FILES if tokenizer is not None or name != _TOKENIZER]
    with atomic_write(*(folder / name for name in names)) as partial:
        paths = dict(zip(names, partial, strict=True))
        paths[_CONFIG].write_text(to_yaml(config), encoding="utf-8")
        paths[_METRICS].write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        paths[_CARD].write_text(card, encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(paths[_TOKENIZER])
        save_model(model, str(paths[_WEIGHTS]), _digests(paths))


def load_checkpoint(folder: Path, kind: type[Config]) -> Checkpoint[Config]:
    """Read and check a checkpoint.

    Args:
        kind: type of its configuration.

    Raises:
        UserError: a file is missing, damaged, or does not belong to the others.
    """
    for name in (_CONFIG, _WEIGHTS, _METRICS, _CARD):
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder}: {name} is missing; give the folder of a finished run")
    try:
        with safe_open(folder / _WEIGHTS, "pt") as weights:
            saved = weights.metadata() or {}
        metrics = json.loads((folder / _METRICS).read_text(encoding="utf-8"))
    except SafetensorError as error:
        raise UserError(f"checkpoint {folder}: {_WEIGHTS} is damaged ({error}); train the run again") from None
    except ValueError as error:
        raise UserError(f"checkpoint {folder}: {_METRICS} is damaged ({error}); train the run again") from None
    digests = _digests({name: folder / name for name in (_CONFIG, _TOKENIZER) if (folder / name).exists()})
    for name in (_CONFIG, _TOKENIZER):
        if saved.get(name) != digests.get(name):
            raise UserError(
                f"checkpoint {folder}: {name} is not the one that {_WEIGHTS} was saved with; restore it, or train again"
            )
    tokenizer = TextTokenizer.load(folder / _TOKENIZER) if _TOKENIZER in digests else None
    return Checkpoint(folder, load(folder / _CONFIG, kind), tokenizer, metrics)


def fingerprint(config: Any, *inputs: str) -> str:
    """Hash of a resolved configuration and of the digests of what the run reads: equal hashes mean equal runs."""
    return hashlib.sha256("\n".join([to_yaml(config), *inputs]).encode()).hexdigest()


def save_state(path: Path, state: dict[str, Any], owner: str) -> None:
    """Write a training state (tensors and plain values) atomically, marked with the fingerprint of its run."""
    with atomic_write(path) as (partial,):
        torch.save(state | {"owner": owner}, partial)


def load_state(path: Path, owner: str) -> dict[str, Any] | None:
    """The training state at `path`, on the CPU, or None where there is none yet.

    Raises:
        UserError: it is damaged, or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        # weights_only: a state may come from elsewhere, and unrestricted unpickling would run what it likes.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        state = None
    if not isinstance(state, dict) or "owner" not in state:
        raise UserError(f"training state {path}: is damaged; remove it to train from the start")
    if state.pop("owner") != owner:
        raise UserError(
            f"training state {path}: belongs to a run with another configuration or other data; "
            f"name another folder with --out, or remove it to train from the start"
        )
    return state


def _digests(paths: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of the files that the weights belong to, by name."""
    return {
        name: hashlib.sha256(paths[name].read_bytes()).hexdigest() for name in (_CONFIG, _TOKENIZER) if name in paths
    }

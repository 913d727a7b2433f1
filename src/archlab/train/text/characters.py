"""The recipe `characters`: a GPT-2 learns to continue a text character by character.

Differs from nanoGPT, whose two configurations it repeats: the linear layers and norms have biases, as GPT-2's do, and
validation is measured on all of the held-out text instead of on random stretches of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archlab.data.device import to_device
from archlab.data.text.batch import Tokens
from archlab.data.text.sets import Characters, load_characters
from archlab.errors import UserError
from archlab.evaluate.ngram import ngram_loss
from archlab.generate.codec import Encoded, Vocabulary
from archlab.models.gpt2 import GPT2, GPT2Config
from archlab.objectives.sequence import LanguageModelling
from archlab.train.checkpoint import load_checkpoint
from archlab.train.loop import History
from archlab.train.text.config import CharactersConfig
from archlab.train.text.run import Report, Row, Task, device_of, parameters_of, train_task

_WINDOWS_AT_ONCE = 64


class Text:
    """A text as ids of its characters: the part to train on, and the rest.

    Attributes:
        symbols: its characters in the order of their ids.
        train, validation: ids.

    Raises:
        UserError: a part is too short for one stretch of the model's context.
    """

    def __init__(self, characters: Characters, context: int) -> None:
        self.symbols = "".join(sorted(set(characters.train + characters.validation)))
        index = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.train, self.validation = (
            np.array([index[symbol] for symbol in part], np.int64) for part in (characters.train, characters.validation)
        )
        self.context = context
        shortest = min(len(self.train), len(self.validation))
        if shortest <= context:
            raise UserError(
                f"source: its training or validation part has {shortest} characters; must be more than "
                f"model.context={context}; give a longer text"
            )

    def batch(self, seed: int, number: int, size: int) -> Tokens:
        """Random stretches of the training part, a pure function of the arguments."""
        starts = np.random.default_rng([seed, number]).integers(0, len(self.train) - self.context, size)
        return Tokens(torch.from_numpy(self.train[starts[:, None] + np.arange(self.context + 1)]))

    def windows(self) -> Tensor:
        """The validation part as stretches (N, T + 1) that overlap in one character, which is not predicted twice."""
        count = (len(self.validation) - 1) // self.context
        starts = self.context * np.arange(count)
        return torch.from_numpy(self.validation[starts[:, None] + np.arange(self.context + 1)])


def train_characters(config: CharactersConfig, folder: Path) -> dict[str, Any]:
    """Train into `folder`; see `train_task`."""
    return train_task(config, folder, lambda: _prepare(config))


def open_characters(folder: Path) -> tuple[GPT2, Symbols]:
    """The model of a finished run, in evaluation mode, and what it reads and writes with.

    Raises:
        UserError: the run cannot be read.
    """
    checkpoint = load_checkpoint(folder, CharactersConfig)
    symbols = checkpoint.metrics.get("symbols")
    if not isinstance(symbols, str):
        raise UserError(f"run {folder}: its metrics.json names no symbols; train the run again")
    model = _build_model(checkpoint.config, symbols)
    checkpoint.load_into(model)
    return model.eval(), Symbols(symbols)


class Symbols(Vocabulary):
    """A text's characters as tokens; see `generate.codec.Codec`.

    Args:
        symbols: in the order of their ids.
    """

    def __init__(self, symbols: str) -> None:
        super().__init__({symbol: i for i, symbol in enumerate(symbols)})

    def encode(self, text: str) -> Encoded:
        """See `Codec`.

        Raises:
            UserError: the text that was learned from has no such character.
        """
        unknown = next((symbol for symbol in text if symbol not in self._ids), None)
        if unknown is not None:
            raise UserError(f"prompt: holds {unknown!r}, which the text that this run learned has not; leave it out")
        return Encoded([self._ids[symbol] for symbol in text])

    def decode(self, ids: Sequence[int]) -> str:
        """See `Codec`."""
        return "".join(self._tokens[i] for i in ids)


def _build_model(config: CharactersConfig, symbols: str) -> GPT2:
    size = config.model
    return GPT2(
        GPT2Config(
            vocab_size=len(symbols),
            context=size.context,
            width=size.width,
            depth=size.depth,
            heads=size.heads,
            feed_forward=size.feed_forward,
        )
    )


def _prepare(config: CharactersConfig) -> Task:
    characters = load_characters(config.source, config.validation_fraction, config.seed)
    text = Text(characters, config.model.context)
    device = device_of(config.training)
    model = _build_model(config, text.symbols).to(device)
    objective = LanguageModelling()
    windows = text.windows()

    def evaluate() -> Mapping[str, float]:
        total = 0.0
        for some in windows.split(_WINDOWS_AT_ONCE):
            total += objective(model, to_device(Tokens(some), device)).loss.item() * len(some)
        return {"loss": total / len(windows)}

    return Task(
        name="characters",
        model=model,
        objective=objective,
        batches=lambda number: text.batch(config.seed, number, config.batch_size),
        evaluate=evaluate,
        report=lambda history: _report(config, text, characters.note, parameters_of(model), history),
        digests={"text": characters.digest()},
    )


def _report(config: CharactersConfig, text: Text, about: str, parameters: int, history: History) -> Report:
    """The model beside n-gram models of the same text."""
    floors = {
        f"{order}-gram": ngram_loss(text.train, text.validation, len(text.symbols), order)
        for order in range(1, config.ngram + 1)
    }
    curve = [(point.step, point.scores["loss"]) for point in history.curve]
    passed = {name: next((step for step, loss in curve if loss < floor), None) for name, floor in floors.items()}
    best, largest = min(loss for _, loss in curve), f"{config.ngram}-gram"

    def row(model: str, count: int | None, loss: float, lowest: float | None, step: int | None) -> Row:
        return {
            "model": model,
            "parameters": count,
            "validation loss": loss,
            "lowest of the curve": lowest,
            f"passes the {largest} at step": step,
        }

    rows = [row(f"{name}, Kneser-Ney", None, floor, None, None) for name, floor in floors.items()]
    rows.append(row("GPT-2", parameters, curve[-1][1], best, passed[largest]))
    metrics = {
        "characters": len(text.train) + len(text.validation),
        "symbols": text.symbols,
        "characters_trained_on": config.training.steps * config.training.accumulate * config.batch_size * text.context,
        "validation_loss": curve[-1][1],
        "best_validation_loss": best,
        "floors": floors,
        "passed_at_step": passed,
    }
    note = (
        "Losses in nats per character of the held-out text. N-gram models may look back across the start of a stretch, "
        f"the model may not. {about}"
    ).rstrip()
    return Report(rows, metrics, {name: floors[name] for name in list(floors)[-2:]}, note)

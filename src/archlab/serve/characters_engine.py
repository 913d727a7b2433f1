"""A language model of characters as an engine: it continues texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.generate.settings import Settings
from archlab.generate.text import TextGenerator
from archlab.serve.engine import About, Operation, advance
from archlab.train.checkpoint import load_checkpoint
from archlab.train.text.characters import open_characters
from archlab.train.text.config import CharactersConfig


class CharactersEngine:
    """A run of the recipe `characters`; see `serve.engine.Engine`.

    Args:
        folder: of the run.
        device: where it computes, as PyTorch names it.

    Raises:
        UserError: the run cannot be read.
    """

    def __init__(self, folder: Path, device: str) -> None:
        checkpoint, (model, self._symbols) = load_checkpoint(folder, CharactersConfig), open_characters(folder)
        self._model = model.to(device)
        self.about = About(
            arm="characters",
            card=checkpoint.card(),
            digest=checkpoint.digest(),
            backend="torch",
            labels=tuple(self._symbols.get_vocab()),
            context=checkpoint.config.model.context,
        )
        self.operations: Mapping[Operation, Callable[..., Iterable[Any]]] = {
            "complete": self.complete,
            "advance": advance,
        }

    def probe(self) -> None:
        """See `Engine`."""
        next(*self.complete(self.about.labels[:1], [Settings(max_new_tokens=1)], [()]))

    def complete(
        self, prompts: Sequence[str], settings: Sequence[Settings], stops: Sequence[Sequence[str]]
    ) -> list[Iterator[str]]:
        """One stream per item; nothing is decoded before it is asked for."""
        return [
            TextGenerator(self._model, self._symbols, how, stop=stop).stream(prompt)
            for prompt, how, stop in zip(prompts, settings, stops, strict=True)
        ]

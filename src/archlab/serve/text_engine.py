"""Runs about text as engines: translation and sentiment, in torch.

Shape legend: B items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archlab.data.text.batch import Classified, pad
from archlab.evaluate.translation import search, translate
from archlab.serve.engine import About, Operation
from archlab.train.checkpoint import load_checkpoint
from archlab.train.text.config import SentimentConfig
from archlab.train.text.sentiment import CLASSES, build_classifier, tokenized, without_markup
from archlab.train.text.translation import open_translator

_PROBE = "a"


class TranslationEngine:
    """A run of the recipe `translation`; see `serve.engine.Engine`.

    Args:
        folder: of the run.
        device: where it computes, as PyTorch names it.

    Raises:
        UserError: the run cannot be read.
    """

    def __init__(self, folder: Path, device: str) -> None:
        checkpoint, model, tokenizer = open_translator(folder)
        config, self._model = checkpoint.config, model.to(device)
        self._tokenizer, self._device, self._longest = tokenizer, torch.device(device), config.max_target
        self._decode = search(tokenizer, config.max_target, config.beams, config.length_penalty)
        self.about = About(
            arm="translation",
            card=checkpoint.card(),
            digest=checkpoint.digest(),
            backend="torch",
            labels=tuple(config.languages),
        )
        self.operations: Mapping[Operation, Callable[..., Iterable[Any]]] = {"translate": self.translate}

    def probe(self) -> None:
        """See `Engine`."""
        self.translate([_PROBE])

    @torch.inference_mode()
    def translate(self, texts: Sequence[str]) -> list[str]:
        """Translations, by the search that the run was tested with."""
        ids, mask = self._tokenizer.encode(texts, self._longest)
        sources = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        return translate(self._model, sources, self._tokenizer, self._decode, self._device)


class SentimentEngine:
    """A run of the recipe `sentiment`; see `serve.engine.Engine`.

    Args:
        folder: of the run.
        device: where it computes, as PyTorch names it.

    Raises:
        UserError: the run, or the pretrained model that it began with, cannot be read.
    """

    def __init__(self, folder: Path, device: str) -> None:
        checkpoint = load_checkpoint(folder, SentimentConfig)
        config, tokenizer = checkpoint.config, checkpoint.tokenizer
        assert tokenizer is not None, "the recipe saves one"
        self._model = build_classifier(config, tokenizer.vocab_size)
        checkpoint.load_into(self._model)
        self._model.eval().to(device)
        self._tokenizer, self._device, self._longest = tokenizer, device, config.max_tokens
        self.about = About(
            arm="sentiment", card=checkpoint.card(), digest=checkpoint.digest(), backend="torch", labels=CLASSES
        )
        self.operations: Mapping[Operation, Callable[..., Iterable[Any]]] = {"sentiment": self.sentiment}

    def probe(self) -> None:
        """See `Engine`."""
        self.sentiment([_PROBE])

    @torch.inference_mode()
    def sentiment(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities (B, classes), float32."""
        rows = tokenized(list(map(without_markup, texts)), self._tokenizer, self._longest)
        tokens, mask = (part.to(self._device) for part in pad(rows, self._tokenizer.pad_id))
        batch = Classified(tokens, mask, tokens.new_zeros(len(rows)))
        return self._model.class_logits(batch).softmax(-1).float().cpu().numpy()

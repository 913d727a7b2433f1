"""Translations of a test set, and their BLEU.

Shape legend: B samples, S source tokens, T target tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from archlab.data.text.batch import pad
from archlab.data.tokenizer import TextTokenizer

Decode = Callable[["Translator", Tensor, Tensor], list[list[int]]]
"""Model, source ids (B, S) and their mask (B, S) -> ids of the translations, without special tokens at the start."""

_SENTENCES_AT_ONCE = 64


class Translator(Protocol):
    """What decoding uses of an encoder-decoder."""

    def new_cache(self) -> Any: ...

    def encode(self, source: Tensor, *, mask: Tensor | None = None) -> Tensor: ...

    def decode(
        self, target: Tensor, memory: Tensor, *, memory_mask: Tensor | None = None, cache: Any = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Bleu:
    """A corpus BLEU.

    Attributes:
        score: 0 to 100.
        signature: what sacreBLEU did to get there; scores of different signatures cannot be compared.
    """

    score: float
    signature: str


def greedy(tokenizer: TextTokenizer, max_target: int) -> Decode:
    """Decoding that takes the likeliest token at every step, up to [EOS] or `max_target` tokens."""

    @torch.inference_mode()
    def decode(model: Translator, source: Tensor, source_mask: Tensor) -> list[list[int]]:
        memory, cache = model.encode(source, mask=source_mask), model.new_cache()
        tokens = source.new_full((len(source), 1), tokenizer.bos_id)  # (B, 1)
        written: list[Tensor] = []
        ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        while len(written) < max_target and not ended.all():
            logits = model.decode(tokens, memory, memory_mask=source_mask, cache=cache)  # (B, 1, V)
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            written.append(tokens)
            ended |= tokens[:, 0] == tokenizer.eos_id
        return torch.cat(written, 1).tolist()  # (B, T)

    return decode


def translate(
    model: Translator, sources: Sequence[Sequence[int]], tokenizer: TextTokenizer, decode: Decode, device: torch.device
) -> list[str]:
    """Texts in the order of `sources`, which are ids; sentences of similar length are decoded together."""
    texts = [""] * len(sources)
    order = np.argsort([len(source) for source in sources], kind="stable")
    for start in range(0, len(order), _SENTENCES_AT_ONCE):
        rows = order[start : start + _SENTENCES_AT_ONCE]
        ids, mask = pad([sources[row] for row in rows], tokenizer.pad_id)
        for row, written in zip(rows, decode(model, ids.to(device), mask.to(device)), strict=True):
            texts[row] = tokenizer.decode(written)
    return texts


def bleu(translations: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> Bleu:
    """Corpus BLEU of sacreBLEU against one reference each."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(list(translations), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))


def bleu_by_length(
    translations: Sequence[str], references: Sequence[str], lengths: Sequence[int], parts: int = 3
) -> list[tuple[int, int, Bleu]]:
    """BLEU of equally large parts of a test set from its shortest to its longest sources.

    Returns:
        shortest and longest source of each part, and its BLEU.
    """
    order = np.argsort(lengths, kind="stable")
    return [
        (
            lengths[rows[0]],
            lengths[rows[-1]],
            bleu([translations[row] for row in rows], [references[row] for row in rows]),
        )
        for rows in np.array_split(order, parts)
    ]

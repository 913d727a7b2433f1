"""Translations of a test set, and their BLEU.

Shape legend: B samples, S source tokens, T target tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from archlab.data.text.batch import pad
from archlab.data.tokenizer import TextTokenizer
from archlab.generate.engine import generate
from archlab.generate.settings import BeamSearch, Settings
from archlab.layers.cache import Cache, KVCache

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


def search(tokenizer: TextTokenizer, max_target: int, beams: int = 1, length_penalty: float = 1.0) -> Decode:
    """Decoding up to [EOS] or `max_target` tokens: beam search, or with one beam the likeliest token at every step."""
    strategy = BeamSearch(beams=beams, length_penalty=length_penalty) if beams > 1 else None
    settings = Settings(max_new_tokens=max_target, eos=(tokenizer.eos_id,), strategy=strategy)

    @torch.inference_mode()
    def decode(model: Translator, source: Tensor, source_mask: Tensor) -> list[list[int]]:
        written = _Written(model.encode(source, mask=source_mask), source_mask, model.new_cache())
        return generate(_Continues(model), [[tokenizer.bos_id]] * len(source), settings, cache=[written])

    return decode


class _Written(KVCache):
    """What has been read and written of a batch of sentences: memory, its mask, and the decoder's caches as one."""

    def __init__(self, memory: Tensor, memory_mask: Tensor, caches: Sequence[Any]) -> None:
        super().__init__()
        self.memory, self.memory_mask, self.caches = memory, memory_mask, caches

    @property
    def length(self) -> int:
        """Tokens written."""
        return int(self.caches[0].length)

    def select(self, samples: Tensor) -> None:
        """Keep the samples with these indices (N), in this order; one may be named several times."""
        self.memory, self.memory_mask = self.memory[samples], self.memory_mask[samples]
        for cache in self.caches:
            cache.select(samples)


class _Continues:
    """A translator as a decoder that continues what it has written; see `models.protocols.Decoder`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.blocks = nn.ModuleList([model])

    def new_cache(self) -> list[Cache]:
        raise AssertionError("a translation goes on from the memory of its source")

    def __call__(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[Cache] | None = None, keep: int = 0
    ) -> Tensor:
        assert cache is not None
        written = cache[0]
        assert isinstance(written, _Written)
        return self.model.decode(tokens, written.memory, memory_mask=written.memory_mask, cache=written.caches)[:, -keep:]


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

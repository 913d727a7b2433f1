"""Translations of a test set, and their BLEU.

Shape legend: B samples, S source tokens, T target tokens, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archlab.data.text.batch import pad
from archlab.data.tokenizer import TextTokenizer
from archlab.generate.conditioned import Conditioned, Translator
from archlab.generate.engine import generate
from archlab.generate.settings import BeamSearch, Settings

Decode = Callable[[Translator, Tensor, Tensor], list[list[int]]]
"""Model, source ids (B, S) and their mask (B, S) -> ids of the translations, without special tokens at the start."""

_SENTENCES_AT_ONCE = 64


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

    def decode(model: Translator, source: Tensor, source_mask: Tensor) -> list[list[int]]:
        return generate(Conditioned(model, source, source_mask), [[tokenizer.bos_id]] * len(source), settings)

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


def tokenised_bleu(translations: Sequence[str], references: Sequence[str], language: str) -> Bleu:
    """Corpus BLEU over the tokens of Moses in lower case: how published systems on Multi30k are scored.

    Their texts were made lower case, normalised and tokenised before training (arXiv 1605.00459, section 4). Moses
    splits French words at apostrophes, which sacreBLEU's own tokenizer does not: scores are several points higher.

    Args:
        language: of the texts, "en", "fr" or "de".
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)

    def tokenised(texts: Sequence[str]) -> list[str]:
        return [tokenizer.tokenize(normalizer.normalize(text.lower()), return_str=True) for text in texts]

    metric = BLEU(tokenize="none", force=True)  # `force`: it warns that these texts look tokenised, which they are
    score = metric.corpus_score(tokenised(translations), [tokenised(references)]).score
    return Bleu(score, f"{metric.get_signature()}, tokenised by Moses in lower case")


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

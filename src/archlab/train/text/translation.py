"""The recipe `translation`: an encoder-decoder, the Transformer or an LSTM with or without attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu  # noqa: F401 - a run that cannot be scored should fail before it trains
import sacremoses  # noqa: F401
import torch
from torch import nn

from archlab.data.device import to_device
from archlab.data.text.batch import Pairs, pad
from archlab.data.text.buckets import LengthBuckets
from archlab.data.text.sets import Bitext, load_translation
from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.translation import Decode, bleu, bleu_by_length, search, tokenised_bleu, translate
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from archlab.models.lstm import LSTMConfig, LSTMTranslator
from archlab.objectives.sequence import Translation
from archlab.train.checkpoint import Checkpoint, load_checkpoint
from archlab.train.loop import History
from archlab.train.text.config import TranslationConfig
from archlab.train.text.run import Report, Task, device_of, parameters_of, train_task

_TESTS = ("test_2016_flickr", "test_2017_flickr")
_PARTS = ("short", "medium", "long")
_NAMES = {
    "transformer": "Transformer",
    "lstm": "LSTM without attention",
    "lstm-attention": "LSTM with attention",
}


class Sentences:
    """Tokenised pairs in batches of similar length.

    Args:
        pairs: texts.
        tokenizer: of both languages.
        max_target: longer sentences are cut, in tokens.
        budget: most tokens of a padded batch, on either side.
        seed: of the order.
    """

    def __init__(self, pairs: Bitext, tokenizer: TextTokenizer, max_target: int, budget: int, seed: int) -> None:
        self.pad_id = tokenizer.pad_id
        self.source, self.target = (
            [[tokenizer.bos_id, *ids[: max_target - 2], tokenizer.eos_id] for ids in tokenizer.tokens(texts)]
            for texts in (pairs.source, pairs.target)
        )
        longer = [max(len(source), len(target)) for source, target in zip(self.source, self.target, strict=True)]
        self.buckets = LengthBuckets(np.array(longer), budget, seed)

    def __call__(self, number: int) -> Pairs:
        """The batch of a number, a pure function of it."""
        rows = self.buckets(number)
        source, source_mask = pad([self.source[row] for row in rows], self.pad_id)
        target, target_mask = pad([self.target[row] for row in rows], self.pad_id)
        return Pairs(source, source_mask, target, target_mask)


def train_translation(config: TranslationConfig, folder: Path) -> dict[str, Any]:
    """Train into `folder`; see `train_task`."""
    return train_task(config, folder, lambda: _prepare(config))


def build_translator(config: TranslationConfig, vocab_size: int) -> EncoderDecoderTransformer | LSTMTranslator:
    """The model that is configured."""
    if config.architecture == "transformer":
        size = config.transformer
        return EncoderDecoderTransformer(
            EncoderDecoderConfig(
                vocab_size=vocab_size,
                context=config.max_target,
                width=size.width,
                depth=size.depth,
                decoder_depth=size.depth,
                heads=size.heads,
                feed_forward=size.feed_forward,
                pre_norm=size.pre_norm,
            )
        )
    recurrent, attention = config.lstm, config.architecture == "lstm-attention"
    return LSTMTranslator(
        LSTMConfig(vocab_size=vocab_size, width=recurrent.width, depth=recurrent.depth, attention=attention)
    )


def open_translator(
    folder: Path,
) -> tuple[Checkpoint[TranslationConfig], EncoderDecoderTransformer | LSTMTranslator, TextTokenizer]:
    """A finished run, its model in evaluation mode, and its tokenizer.

    Raises:
        UserError: the run cannot be read.
    """
    checkpoint = load_checkpoint(folder, TranslationConfig)
    assert checkpoint.tokenizer is not None, "the recipe saves one"
    model = build_translator(checkpoint.config, checkpoint.tokenizer.vocab_size)
    checkpoint.load_into(model)
    return checkpoint, model.eval(), checkpoint.tokenizer


def _prepare(config: TranslationConfig) -> Task:
    texts = load_translation(config.source, config.languages)
    train = texts["train"]
    tokenizer = TextTokenizer.train([*train.source, *train.target], config.vocab_size)
    batches, validation = (
        Sentences(texts[split], tokenizer, config.max_target, config.batch_tokens, config.seed)
        for split in ("train", "validation")
    )
    device = device_of(config.training)
    model: nn.Module = build_translator(config, tokenizer.vocab_size).to(device)
    unsmoothed = Translation()

    def evaluate() -> Mapping[str, float]:
        total = tokens = 0.0
        for number in range(validation.buckets.per_epoch):
            output = unsmoothed(model, to_device(validation(number), device))
            total, tokens = total + output.loss.item() * output.weight, tokens + output.weight
        return {"loss": total / tokens}

    def report(history: History) -> Report:
        decode = search(tokenizer, config.max_target, config.beams, config.length_penalty)
        return _report(config, texts, tokenizer, model, decode, batches, history, device)

    return Task(
        name=f"translation, {_NAMES[config.architecture]}",
        model=model,
        objective=Translation(config.label_smoothing),
        batches=batches,
        evaluate=evaluate,
        report=report,
        digests={split: pairs.digest() for split, pairs in texts.items()},
        tokenizer=tokenizer,
    )


def _report(
    config: TranslationConfig,
    texts: Mapping[str, Bitext],
    tokenizer: TextTokenizer,
    model: Any,
    decode: Decode,
    batches: Sentences,
    history: History,
    device: torch.device,
) -> Report:
    """BLEU of both test sets, and by the length of the source: what attention is for."""
    row: dict[str, str | int | float | None] = {
        "model": _NAMES[config.architecture],
        "parameters": parameters_of(model),
    }
    row["validation loss"] = history.curve[-1].scores["loss"]
    scores: dict[str, Any] = {}
    for split in _TESTS:
        pairs = texts[split]
        sources = Sentences(pairs, tokenizer, config.max_target, config.batch_tokens, config.seed).source
        written = translate(model, sources, tokenizer, decode, device)
        cased, lowercased = bleu(written, pairs.target), bleu(written, pairs.target, lowercase=True)
        tokenised = tokenised_bleu(written, pairs.target, config.languages[1])
        words = [len(text.split()) for text in pairs.source]
        parts = dict(zip(_PARTS, bleu_by_length(written, pairs.target, words), strict=True))
        scores[split] = {
            "sentences": len(written),
            "bleu": cased.score,
            "signature": cased.signature,
            "bleu_lowercased": lowercased.score,
            "signature_lowercased": lowercased.signature,
            "bleu_tokenised": tokenised.score,
            "signature_tokenised": tokenised.signature,
            "bleu_by_words_of_the_source": {
                name: {"shortest": shortest, "longest": longest, "bleu": part.score}
                for name, (shortest, longest, part) in parts.items()
            },
        }
        for score in (cased, tokenised):
            print(f"{split}: BLEU {score.score:.2f} ({score.signature})")
        row |= {split: cased.score, f"{split}, tokenised": tokenised.score}
        if split == _TESTS[0]:
            row |= {f"{name} sources": part.score for name, (_, _, part) in parts.items()}
    metrics = {
        "architecture": config.architecture,
        "languages": config.languages,
        "batches_per_epoch": batches.buckets.per_epoch,
        "epochs": config.training.steps * config.training.accumulate / batches.buckets.per_epoch,
        "padding": batches.buckets.padding,
        "vocabulary": tokenizer.vocab_size,
        "beams": config.beams,
        "bleu": scores,
    }
    signature, other = (scores[_TESTS[0]][name] for name in ("signature", "signature_tokenised"))
    note = (
        f"sacreBLEU, `{signature}`, {config.beams} beams; tokenised, as the literature on Multi30k scores: `{other}`. "
        f"Short, medium and long sources are thirds of {_TESTS[0]}."
    )
    return Report([row], metrics, note=note)

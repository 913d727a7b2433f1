"""The recipe `sentiment`: an encoder from scratch or a pretrained BERT tells good reviews from bad ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from archlab.data.device import to_device
from archlab.data.text.batch import Classified, pad
from archlab.data.text.buckets import LengthBuckets
from archlab.data.text.reviews import Reviews, load_reviews
from archlab.data.text.sets import held_out
from archlab.data.tokenizer import TextTokenizer
from archlab.errors import UserError
from archlab.evaluate.statistics import Score, score
from archlab.evaluate.text_floors import majority, tfidf
from archlab.models.text_classifier import TextClassifier, TextEncoder
from archlab.objectives.classification import Classification
from archlab.train.text.config import SentimentConfig
from archlab.train.text.run import Report, Row, Task, device_of, parameters_of, train_task

CLASSES = ("negative", "positive")
"""What the classes 0 and 1 mean."""

_BOOTSTRAP = 2000


class Documents:
    """Tokenised texts and their classes in batches of similar length.

    Args:
        reviews: texts and classes.
        tokenizer: of the model.
        max_tokens: of longer texts the head and the tail are kept.
        budget: most tokens of a padded batch.
        seed: of the order.
    """

    def __init__(self, reviews: Reviews, tokenizer: TextTokenizer, max_tokens: int, budget: int, seed: int) -> None:
        self.pad_id, self.labels = tokenizer.pad_id, np.array(reviews.labels)
        self.rows = tokenized(reviews.texts, tokenizer, max_tokens)
        self.buckets = LengthBuckets(np.array([len(row) for row in self.rows]), budget, seed)

    def __call__(self, number: int) -> Classified:
        """The batch of a number, a pure function of it."""
        return self.of(self.buckets(number))

    def of(self, rows: np.ndarray) -> Classified:
        """The batch of these texts."""
        tokens, mask = pad([self.rows[row] for row in rows], self.pad_id)
        return Classified(tokens, mask, torch.from_numpy(self.labels[rows]))


def tokenized(texts: Sequence[str], tokenizer: TextTokenizer, max_tokens: int) -> list[list[int]]:
    """Ids of each text, [BOS] first and [EOS] last; of longer ones than `max_tokens` the head and the tail."""
    return [
        [tokenizer.bos_id, *head_and_tail(ids, max_tokens - 2), tokenizer.eos_id] for ids in tokenizer.tokens(texts)
    ]


def head_and_tail(ids: Sequence[int], most: int) -> list[int]:
    """The first and the last half of `most` ids where there are more (arXiv 1905.05583, section 5.3.1).

    A review says what it thinks where it begins and where it ends.
    """
    if len(ids) <= most:
        return list(ids)
    tail = most // 2
    return [*ids[: most - tail], *ids[len(ids) - tail :]]


def train_sentiment(config: SentimentConfig, folder: Path) -> dict[str, Any]:
    """Train into `folder`; see `train_task`."""
    return train_task(config, folder, lambda: _prepare(config))


def _prepare(config: SentimentConfig) -> Task:
    found = load_reviews(config.source)
    splits = {
        name: Reviews(list(map(without_markup, reviews.texts)), reviews.labels)
        for name, reviews in found.splits.items()
    }
    if "validation" in splits:
        train, validation = splits["train"], splits["validation"]
    else:
        train, validation = _cut(splits["train"], config.validation_fraction, config.seed)
    tokenizer, encoder, width, digests = _encoder(config, train)
    device = device_of(config.training)
    model = TextClassifier(encoder, width, len(CLASSES)).to(device)
    batches, unseen, test = (
        Documents(reviews, tokenizer, config.max_tokens, config.batch_tokens, config.seed)
        for reviews in (train, validation, splits["test"])
    )

    def evaluate() -> Mapping[str, float]:
        logits = predict(model, unseen, device)
        labels = torch.from_numpy(unseen.labels)
        accuracy = (logits.argmax(-1) == labels).double().mean().item()
        return {"loss": F.cross_entropy(logits, labels).item(), "accuracy": accuracy}

    def report(history: object) -> Report:
        right = (predict(model, test, device).argmax(-1) == torch.from_numpy(test.labels)).numpy()
        return _report(config, splits, found.notes, right, parameters_of(model), batches)

    return Task(
        name=f"sentiment, {'pretrained' if config.pretrained else 'from scratch'}",
        model=model,
        objective=Classification(),
        batches=batches,
        evaluate=evaluate,
        report=report,
        digests={name: reviews.digest() for name, reviews in splits.items()} | digests,
        tokenizer=tokenizer,
    )


@torch.no_grad()
def predict(model: TextClassifier, documents: Documents, device: torch.device) -> torch.Tensor:
    """Logits (N, classes) of all texts in their order, in float32 on the CPU."""
    logits = torch.empty(len(documents.rows), len(CLASSES))
    for number in range(documents.buckets.per_epoch):
        rows = documents.buckets(number)
        logits[torch.from_numpy(rows)] = model.class_logits(to_device(documents.of(rows), device)).float().cpu()
    return logits


def build_classifier(config: SentimentConfig, vocab_size: int) -> TextClassifier:
    """The model that is configured, for a checkpoint's weights; the pretrained one gives its shape.

    Args:
        vocab_size: of the checkpoint's tokenizer.

    Raises:
        UserError: the run began with a pretrained model that cannot be found any more.
    """
    if not config.pretrained:
        encoder: Any = TextEncoder(config.encoder, vocab_size)
        return TextClassifier(encoder, config.encoder.width, len(CLASSES))
    from archlab.interop.checkpoint import load_pretrained

    encoder = load_pretrained(config.pretrained)
    return TextClassifier(encoder, encoder.config.width, len(CLASSES))


def _encoder(config: SentimentConfig, train: Reviews) -> tuple[TextTokenizer, nn.Module, int, dict[str, str]]:
    """Tokenizer, encoder, its width, and the hash of what was pretrained."""
    if not config.pretrained:
        tokenizer = TextTokenizer.train(train.texts, config.vocab_size)
        return tokenizer, TextEncoder(config.encoder, tokenizer.vocab_size), config.encoder.width, {}
    from archlab.interop.checkpoint import load_pretrained, locate
    from archlab.interop.text import Text, check_fits

    encoder: Any = load_pretrained(config.pretrained)
    tokenizer = TextTokenizer.load(locate(config.pretrained))
    try:
        check_fits(Text(tokenizer=tokenizer.tokenizer), encoder.config.vocab_size)
    except UserError as error:
        raise UserError(f"pretrained={config.pretrained}: {error}") from None
    weights = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return tokenizer, encoder, encoder.config.width, {"pretrained": weights.hexdigest()}


def without_markup(text: str) -> str:
    """Line breaks are written as HTML in these reviews."""
    return text.replace("<br />", " ")


def _cut(reviews: Reviews, fraction: float, seed: int) -> tuple[Reviews, Reviews]:
    """Training and validation; equal texts go to the same side."""
    chosen = held_out(reviews.texts, fraction, seed)
    rows = [[i for i, text in enumerate(reviews.texts) if (text in chosen) == out] for out in (False, True)]
    train, validation = (Reviews([reviews.texts[i] for i in side], [reviews.labels[i] for i in side]) for side in rows)
    return train, validation


def _report(
    config: SentimentConfig,
    splits: Mapping[str, Reviews],
    notes: Sequence[str],
    right: np.ndarray,
    parameters: int,
    batches: Documents,
) -> Report:
    """The model beside what it has to beat, which may learn from validation texts that are cut from train too."""
    train, test = splits["train"], splits["test"]
    found: list[tuple[str, int | None, np.ndarray]] = [
        ("majority", None, majority(train.labels, test.labels)),
        ("TF-IDF and logistic regression", None, tfidf(train.texts, train.labels, test.texts, test.labels)),
        ("BERT, pretrained" if config.pretrained else "Transformer, from scratch", parameters, right),
    ]
    scores = {name: _accuracy(values) for name, _, values in found}
    rows: list[Row] = [
        {"model": name, "parameters": count, "test accuracy": of.value, "low": of.low, "high": of.high}
        for (name, count, _), of in zip(found, scores.values(), strict=True)
    ]
    metrics = {
        "test_accuracy": {name: of.to_dict() for name, of in scores.items()},
        "batches_per_epoch": batches.buckets.per_epoch,
        "epochs": config.training.steps * config.training.accumulate / batches.buckets.per_epoch,
        "padding": batches.buckets.padding,
    }
    note = "; ".join([f"Accuracy on {len(test.texts)} test texts with 95 % bootstrap intervals", *notes]) + "."
    return Report(rows, metrics, note=note)


def _accuracy(right: np.ndarray) -> Score:
    return score(right.astype(float), np.arange(len(right)), samples=_BOOTSTRAP, seed=0, unit="share")

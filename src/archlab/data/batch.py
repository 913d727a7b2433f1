"""Examples to the one typed `Batch` that models read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archlab.data.example import Example, Split
from archlab.data.features import FeatureStore
from archlab.data.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Batch:
    """What one training step reads. B samples, N visual tokens, D features, Q query tokens, L target tokens.

    Attributes:
        features: frozen X-encoder features, float32 (B, N, D).
        query: token ids (B, Q); query_mask: True at real tokens.
        target: token ids (B, L), [BOS] first, [EOS] last; target_mask: True at real tokens.
        meaning: id of the target's meaning (B,); equal ids are paraphrases. -1: not among the known meanings.
        text: id of the target string (B,); equal ids are equal strings, in all batches.
        ids: ids of the examples.
    """

    features: Tensor
    query: Tensor
    query_mask: Tensor
    target: Tensor
    target_mask: Tensor
    meaning: Tensor
    text: Tensor
    ids: list[str]

    @classmethod
    def without_target(cls, features: Tensor, query: Tensor, query_mask: Tensor) -> Batch:
        """A request: image and query, and no answer to learn from."""
        none = query.new_zeros(len(query), 0)
        unknown = query.new_full((len(query),), -1)
        return cls(features, query, query_mask, none, none.bool(), unknown, unknown, [])


class Collator:
    """Draws batches from one split: a pure function of the rows asked for.

    Args:
        split: source of the examples.
        features: features of the images of the same split.
        tokenizer: for queries and targets.
        meanings: meaning -> class id; must be the training split's, so that ids agree between splits.
        max_query, max_target: longest query and target, in tokens.
    """

    def __init__(
        self,
        split: Split,
        features: FeatureStore,
        tokenizer: TextTokenizer,
        meanings: dict[str, int],
        max_query: int,
        max_target: int,
    ) -> None:
        self.split, self.features, self.tokenizer = split, features, tokenizer
        self.max_query, self.max_target = max_query, max_target
        self.meanings = meanings

    def __call__(
        self,
        rows: np.ndarray,
        *,
        query_forms: np.ndarray | None = None,
        target_forms: np.ndarray | None = None,
        views: np.ndarray | None = None,
        images: np.ndarray | None = None,
        queries: Sequence[str] | None = None,
    ) -> Batch:
        """The batch of the examples in `rows`; without forms and views the canonical text and the plain image.

        Args:
            rows: indices into `split.examples`, (B,).
            query_forms, target_forms: which surface form of each to use, (B,).
            views: which augmented view of each image, (B,); 0 is the plain one.
            images: other images to show instead of the examples' own, (B,): the shuffled-image control.
            queries: other queries to ask, for the no-query control and for captioning prompts.
        """
        examples = [self.split.examples[row] for row in rows]
        zeros = np.zeros(len(rows), dtype=np.int64)
        query_forms, target_forms, views = (
            zeros if given is None else given for given in (query_forms, target_forms, views)
        )
        if images is None:
            images = np.array([example.image for example in examples], dtype=np.int64)
        own_queries, targets = self._texts(rows, query_forms, target_forms)
        queries = own_queries if queries is None else queries
        query, query_mask = self.tokenizer.encode(queries, self.max_query)
        target, target_mask = self.tokenizer.encode(targets, self.max_target)
        return Batch(
            features=torch.from_numpy(self.features.read(images, views)),
            query=torch.from_numpy(query),
            query_mask=torch.from_numpy(query_mask),
            target=torch.from_numpy(target),
            target_mask=torch.from_numpy(target_mask),
            meaning=torch.tensor([self.meaning_id(example) for example in examples]),
            text=torch.tensor([text_id(text) for text in targets]),
            ids=[example.id for example in examples],
        )

    def lengths(self, rows: np.ndarray, query_forms: np.ndarray, target_forms: np.ndarray) -> tuple[int, int]:
        """Q and L of the batch of these examples in these forms, without its features."""
        queries, targets = self._texts(rows, query_forms, target_forms)
        query, _ = self.tokenizer.encode(queries, self.max_query)
        target, _ = self.tokenizer.encode(targets, self.max_target)
        return query.shape[1], target.shape[1]

    def _texts(
        self, rows: np.ndarray, query_forms: np.ndarray, target_forms: np.ndarray
    ) -> tuple[list[str], list[str]]:
        examples = [self.split.examples[row] for row in rows]
        queries = [pick(example.queries, form) for example, form in zip(examples, query_forms, strict=True)]
        targets = [pick(example.targets, form) for example, form in zip(examples, target_forms, strict=True)]
        return queries, targets

    def meaning_id(self, example: Example) -> int:
        """Class id of the example's meaning, -1 where training never saw it."""
        return self.meanings.get(example.meaning, -1)


def text_id(text: str) -> int:
    """A number of 64 bits for a string; that two strings share one is as likely as a fault of the memory."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def pick(forms: Sequence[str], draw: int) -> str:
    """The surface form that a draw selects; draws are larger than any number of forms, so that K may vary."""
    return forms[int(draw) % len(forms)]


def meaning_ids(split: Split) -> dict[str, int]:
    """Meaning -> class id over the split, answers before captions, else in order of first appearance."""
    ids: dict[str, int] = {}
    for example in sorted(split.examples, key=lambda example: example.task != "vqa"):  # a stable sort
        ids.setdefault(example.meaning, len(ids))
    return ids

"""Batches of token ids.

Shape legend: B samples, T tokens, S source tokens, L target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Stretches of a text, (B, T + 1): each token but the first is to be predicted from those before it."""

    tokens: Tensor


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations.

    Attributes:
        source: ids (B, S); source_mask: True at real tokens.
        target: ids (B, L), `[BOS] tokens [EOS]`; target_mask: True at real tokens.
    """

    source: Tensor
    source_mask: Tensor
    target: Tensor
    target_mask: Tensor


@dataclass(frozen=True)
class Classified:
    """Texts and their classes.

    Attributes:
        tokens: ids (B, T); mask: True at real tokens.
        meaning: class of each, (B,).
    """

    tokens: Tensor
    mask: Tensor
    meaning: Tensor


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids (B, L) padded at the end to the longest row, and mask (B, L), True at real ids."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(mask)

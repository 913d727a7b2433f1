"""Batches of similar length under a budget of tokens, in an order that is a pure function of the batch's number."""

from __future__ import annotations

import numpy as np


class LengthBuckets:
    """Every epoch draws every example once; a batch holds as many as fit the budget when padded to its longest.

    The examples are sorted by length, those of one length in a new order every epoch, cut into batches, and the batches
    are shuffled. The cuts depend on the lengths alone, so that every epoch has the same number of batches and the
    batch of a number needs no history.

    Args:
        lengths: tokens of each example, (N,); the longer side where there are two.
        budget: most tokens of a padded batch; no example may be longer.
        seed: of the order.

    Attributes:
        per_epoch: batches of an epoch.
        padding: share of the tokens of an epoch that are padding.
    """

    def __init__(self, lengths: np.ndarray, budget: int, seed: int) -> None:
        if not len(lengths) or lengths.min() < 1 or lengths.max() > budget:
            raise ValueError(f"lengths must lie between 1 and the budget, {budget}, and there must be some")
        self.lengths, self.seed = lengths, seed
        ordered = np.sort(lengths)
        starts = [0]
        for i, length in enumerate(ordered):  # ascending: the newest is the longest
            if (i - starts[-1] + 1) * length > budget:
                starts.append(i)
        self._cuts = [*starts, len(lengths)]
        self.per_epoch = len(starts)
        longest = ordered[np.array(self._cuts[1:]) - 1]
        self.padding = 1 - float(ordered.sum() / (longest * np.diff(self._cuts)).sum())
        self._epoch = -1
        self._rows = self._places = np.empty(0, np.int64)

    def __call__(self, number: int) -> np.ndarray:
        """Indices of the examples of batch `number`, counted through all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._rows = np.lexsort((generator.random(len(self.lengths)), self.lengths))
            self._places = generator.permutation(self.per_epoch)
            self._epoch = epoch
        at = self._places[place]
        return self._rows[self._cuts[at] : self._cuts[at + 1]]

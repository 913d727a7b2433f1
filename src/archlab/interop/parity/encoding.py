"""The comparison that only encoders go through: batches of unequal lengths."""

from __future__ import annotations

from typing import cast

import torch

from archlab.interop.parity.checks import worst
from archlab.interop.parity.decoding import padded_batch
from archlab.interop.parity.probes import PROBES, encode, questions, token_types
from archlab.interop.parity.results import STATES, Outcome
from archlab.interop.parity.twin import Twin
from archlab.models.protocols import Encoder


@torch.no_grad()
def padding_invariance(twin: Twin) -> Outcome:
    """States and the pooled one of padded batches against the reference without padding."""
    tokens, model = questions(twin), cast(Encoder, twin.model)
    expected = PROBES["encoder"].theirs(twin.reference, tokens)  # (B, T + 1, W)
    pairs = {}
    for left in (True, False):
        padding = torch.tensor([4, 1])
        padded, mask = padded_batch(tokens, padding, left=left)
        types, _ = padded_batch(token_types(tokens), padding, left=left)
        found = encode(model, padded, mask, types.clamp(max=1))
        kept = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.bool)], 1)  # the pooled state too
        for sample in range(len(tokens)):
            side = "left" if left else "right"
            pairs[f"{padding[sample]} padding on the {side}"] = found[sample, kept[sample]], expected[sample]
    return worst(pairs, STATES)

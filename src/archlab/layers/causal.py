"""Where the tokens of a decoder stand and what each may attend to, with padding and with a cache.

Shape legend: B samples, T new tokens, P tokens in the cache, Tk = P + T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archlab.errors import UserError
from archlab.layers import masks
from archlab.layers.cache import Cache


@dataclass(frozen=True)
class CausalContext:
    """What every layer of a decoder shares in one call.

    Attributes:
        positions: of the new tokens, (B or 1, T).
        key_positions: of cached and new tokens, (B or 1, Tk).
        mask: True = may attend, (B or 1, 1, T, Tk); None: all may attend to all, as one new token does that has no
            padding before it. Attention is faster without a mask.
    """

    positions: Tensor
    key_positions: Tensor
    mask: Tensor | None

    def within(self, window: int, held: int) -> Tensor | None:
        """The mask of a layer whose tokens see the last `window` ones at most, their own included.

        The window counts places in the row: padding at the start of a row takes none away, but padding between real
        tokens does, as in `transformers`; a cache that forgets by place could not do otherwise.

        Args:
            window: number of tokens.
            held: tokens whose keys the layer's cache holds, the last ones of those before.

        Returns:
            (B or 1, 1, T, held + T); None: all may attend to all.
        """
        if self.mask is None and held < window:
            return None
        new, total = self.positions.shape[1], self.key_positions.shape[1]
        places = torch.arange(total, device=self.positions.device)[None]  # (1, Tk)
        recent = masks.sliding_window(places[:, total - new :], places, window)
        may_attend = recent if self.mask is None else masks.combine(self.mask, recent)
        return may_attend[..., total - new - held :]


def causal_context(
    tokens: Tensor, *, mask: Tensor | None, cache: Sequence[Cache] | None, limit: int | None
) -> CausalContext:
    """Count positions over real tokens only, so that padding on either side changes nothing.

    Args:
        tokens: new tokens (B, T); only the shape and the device are read.
        mask: True at real tokens, of the cache and new, (B, Tk); None: all are real.
        cache: of the layers; None: there is none.
        limit: most tokens that the model reads; None: any number.

    Raises:
        UserError: there are more tokens than `limit`, or the mask has another shape.
    """
    new = tokens.shape[1]
    length = (cache[0].length if cache else 0) + new
    key_positions = real_positions(tokens, mask, length, limit)  # (B or 1, Tk)
    positions = key_positions[:, length - new :]
    if mask is None and new == 1:
        return CausalContext(positions, key_positions, None)
    if mask is not None:
        may_attend = masks.combine(masks.causal(positions, key_positions), masks.padding(mask))
    elif new == length:
        may_attend = masks.lower_triangle(new, tokens.device)
    else:
        may_attend = masks.causal(positions, key_positions)
    return CausalContext(positions, key_positions, may_attend)


def check_mask(mask: Tensor, samples: int, length: int) -> None:
    """Refuse a mask of real tokens that is not (samples, length).

    Raises:
        UserError: it has another shape.
    """
    if mask.shape != (samples, length):
        raise UserError(
            f"mask of shape {tuple(mask.shape)}: must be {(samples, length)}, all tokens of the cache and the new ones"
        )


def real_positions(tokens: Tensor, mask: Tensor | None, length: int, limit: int | None) -> Tensor:
    """Positions counted over real tokens; padding repeats its neighbour's.

    Args:
        tokens: new tokens (B, T); only the batch and the device are read.
        mask: True at real tokens, (B, length); None: all are real.
        length: of the sequence, what the cache holds included.
        limit: most tokens that the model reads; None: any number.

    Returns:
        (B or 1, length).

    Raises:
        UserError: there are more tokens than `limit`, or the mask has another shape.
    """
    if limit is not None and length > limit:
        raise UserError(f"sequence of {length} tokens: this model reads at most {limit}; shorten it")
    if mask is None:
        return torch.arange(length, device=tokens.device)[None]
    check_mask(mask, len(tokens), length)
    return (mask.long().cumsum(1) - 1).clamp(min=0)

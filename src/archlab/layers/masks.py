"""The one place where attention masks are built: boolean, True = may attend, (B, 1, Tq, Tk) or broadcasting to it.

Causality comes from absolute positions and never from indices, so that one rule holds for padded, packed and cached
sequences alike (an index-based `is_causal` is wrong as soon as there are more keys than queries). Where positions and
indices are the same, `LowerTriangle` says so: fused attention then skips what lies above the diagonal.

Shape legend: B samples, T tokens, Tq queries, Tk keys. A batch axis of 1 stands for every sample.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


class LowerTriangle(Tensor):
    """The causal mask (1, 1, T, T) of a sequence without padding or cache, marked as such by its type.

    Whatever is done with it gives a plain tensor: the mark never outlives what it says.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def lower_triangle(tokens: int, device: torch.device | None = None) -> LowerTriangle:
    """`causal` of the positions 0 to `tokens` - 1, marked.

    Returns:
        (1, 1, T, T).
    """
    positions = torch.arange(tokens, device=device)[None]  # (1, T)
    return causal(positions, positions).as_subclass(LowerTriangle)


def padding(mask: Tensor) -> Tensor:
    """Every query may attend to every real key.

    Args:
        mask: True at real keys, (B, Tk).

    Returns:
        (B, 1, 1, Tk).
    """
    return mask[:, None, None, :]


def causal(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """A query may attend to keys at its own position and before.

    Args:
        query_positions: absolute positions (B, Tq).
        key_positions: absolute positions (B, Tk).

    Returns:
        (B, 1, Tq, Tk).
    """
    return (key_positions[:, None, :] <= query_positions[:, :, None])[:, None]


def prefix(is_prefix: Tensor, positions: Tensor) -> Tensor:
    """Prefix-LM: the prefix attends to itself in both directions, what follows is causal (T5, section 3.2.1).

    Args:
        is_prefix: True at tokens of the prefix, (B, T).
        positions: absolute positions (B, T), larger after the prefix than within it.

    Returns:
        (B, 1, T, T).
    """
    return causal(positions, positions) | padding(is_prefix)


def sliding_window(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """A query may attend to the last `window` positions, its own included, and to any later one: combine with `causal`.

    Args:
        query_positions: absolute positions (B, Tq).
        key_positions: absolute positions (B, Tk).
        window: number of positions.

    Returns:
        (B, 1, Tq, Tk).
    """
    return (key_positions[:, None, :] > query_positions[:, :, None] - window)[:, None]


def neighbourhood(query_positions: Tensor, key_positions: Tensor, reach: int) -> Tensor:
    """A query may attend to positions at most `reach` away, before and after.

    Args:
        query_positions: absolute positions (B, Tq).
        key_positions: absolute positions (B, Tk).
        reach: largest distance.

    Returns:
        (B, 1, Tq, Tk).
    """
    return ((key_positions[:, None, :] - query_positions[:, :, None]).abs() <= reach)[:, None]


def combine(*masks: Tensor) -> Tensor:
    """May attend where every mask says so; the masks broadcast against each other."""
    return reduce(torch.logical_and, masks)

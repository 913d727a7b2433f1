"""Multi-head attention, self or cross, with grouped keys and values, in a readable and a fused implementation.

Shape legend: B samples, Tq queries, Tk keys, W width, H heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, overload

import torch
from torch import Tensor, finfo, nn
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.layers.cache import KVCache
from archlab.layers.masks import LowerTriangle
from archlab.layers.positions import Rotation
from archlab.layers.shared_input import SharedInput

Implementation = Literal["fused", "readable"]


class Switchable(nn.Module):
    """A layer in two implementations, equal in outputs and gradients: a fast one, and one that spells the idea out."""

    implementation: Implementation = "fused"


class Attention(Switchable, SharedInput):
    """softmax(Q K^T / sqrt(D)) V in H heads ("Attention is all you need", section 3.2).

    With fewer key-value heads than heads, each serves H / K neighbouring heads (GQA, arXiv 2305.13245, section 2.2).

    Args:
        width: W.
        heads: H.
        key_value_heads: K, by default H.
        head_width: D, by default W / H.
        query_norm, key_norm: normalise every head (..., D) before it is turned (arXiv 2302.05442, section 2).
        scale: what Q K^T is multiplied by, by default 1 / sqrt(D).
        bias: whether the four projections have one.
        implementation: "fused" is `F.scaled_dot_product_attention`; "readable" spells it out and can return weights.
            Both give the same outputs and gradients; `set_implementation` switches a whole model.

    Raises:
        UserError: the heads do not divide the width where D is W / H, or the key-value heads do not divide the heads.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_value_heads: int | None = None,
        head_width: int | None = None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        scale: float | None = None,
        bias: bool = False,
        implementation: Implementation = "fused",
    ) -> None:
        super().__init__()
        key_value_heads = key_value_heads or heads
        if head_width is None and width % heads:
            raise UserError(f"heads={heads}: must divide the width, {width}")
        if heads % key_value_heads:
            raise UserError(f"key_value_heads={key_value_heads}: must divide the number of heads, heads={heads}")
        self.head_width = head_width or width // heads
        self.group = heads // key_value_heads
        self.scale = scale
        self.implementation = implementation
        self.dropout = 0.0  # of the weights, in training; set by `layers.dropout.set_dropout`
        self.q_proj = nn.Linear(width, heads * self.head_width, bias=bias)
        self.k_proj = nn.Linear(width, key_value_heads * self.head_width, bias=bias)
        self.v_proj = nn.Linear(width, key_value_heads * self.head_width, bias=bias)
        self.out_proj = nn.Linear(heads * self.head_width, width, bias=bias)
        self.query_norm = query_norm
        self.key_norm = key_norm

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        memory: Tensor | None = ...,
        mask: Tensor | None = ...,
        bias: Tensor | None = ...,
        rotation: Rotation | None = ...,
        cache: KVCache | None = ...,
        return_weights: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        memory: Tensor | None = ...,
        mask: Tensor | None = ...,
        bias: Tensor | None = ...,
        rotation: Rotation | None = ...,
        cache: KVCache | None = ...,
        return_weights: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        *,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KVCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from `x` to itself and what the cache holds, or to `memory`.

        Args:
            x: (B, Tq, W).
            memory: source of keys and values for cross-attention, (B, Tk, W).
            mask: boolean, True = may attend; (Tq, Tk), (B, Tq, Tk) or (B, H, Tq, Tk), where any axis may be 1 instead.
                Tk counts what the cache holds. A query that may attend nowhere gets zeros before `out_proj`.
            bias: added to the scores, (B, H, Tq, Tk), where any axis may be 1 instead; see `layers.position_bias`.
            rotation: rotary turn of the positions of `x`; for self-attention only.
            cache: keys and values of earlier tokens, extended by this call. With `memory` it holds keys and values of
                the memory, which the first call computes and the later ones reuse.
            return_weights: also return the attention weights; the readable implementation only.

        Returns:
            (B, Tq, W), and with `return_weights` also the weights (B, H, Tq, Tk).

        Raises:
            UserError: weights asked of the fused implementation, or rotary positions in cross-attention.
        """
        if return_weights and self.implementation == "fused":
            raise UserError(
                'return_weights=True: fused attention has no weights; call set_implementation(model, "readable")'
            )
        if rotation is not None and memory is not None:
            raise UserError("rotation: rotary positions are for self-attention; leave them out beside memory")
        remembered = memory is not None and cache is not None and cache.length > 0
        if memory is None:
            queries, keys, values = map(self._split, self.project(x))  # (B, H, Tq, D), twice (B, K, Tq, D)
        else:
            queries = self._split(self.q_proj(x))  # (B, H, Tq, D)
            if not remembered:
                keys, values = self._split(self.k_proj(memory)), self._split(self.v_proj(memory))  # (B, K, Tk, D)
        if self.query_norm is not None:
            queries = self.query_norm(queries)
        if remembered:
            assert cache is not None
            keys, values = cache.read()
        else:
            if self.key_norm is not None:
                keys = self.key_norm(keys)
            if rotation is not None:
                queries, keys = rotation(queries), rotation(keys)
            if cache is not None:
                keys, values = cache.append(keys, values)  # (B, K, Tk, D)
        if mask is not None and mask.dim() == 3:
            mask = mask[:, None]  # (B, 1, Tq, Tk)

        dropout = self.dropout if self.training else 0.0
        if self.implementation == "fused":
            mixed = fused_attention(queries, keys, values, mask, bias=bias, scale=self.scale, dropout=dropout)
            return self.out_proj(mixed.transpose(1, 2).flatten(2))
        mixed, weights = readable_attention(queries, keys, values, mask, bias=bias, scale=self.scale, dropout=dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, Tq, W)
        return (out, weights) if return_weights else out

    @property
    def key_value_heads(self) -> int:
        """K."""
        return self.k_proj.out_features // self.head_width

    def projections(self) -> tuple[nn.Linear, ...]:
        """See `SharedInput`; of self-attention."""
        return self.q_proj, self.k_proj, self.v_proj

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, T, H * D) -> (B, H, T, D)


def fused_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`readable_attention` in one call of PyTorch, without the weights; arguments and mixed values are the same."""
    # Of a marked mask the function needs no entry, and it computes nothing above the diagonal.
    causal = bias is None and isinstance(mask, LowerTriangle)
    added = None if causal else mask
    if bias is not None:
        bias = bias.to(queries.dtype)
        added = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    grouped = queries.shape[1] > keys.shape[1]
    return F.scaled_dot_product_attention(
        queries, keys, values, added, dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def readable_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention step by step.

    Args:
        queries: (B, H, Tq, D).
        keys, values: (B, K, Tk, D); K divides H.
        mask: True = may attend, broadcasting to (B, H, Tq, Tk).
        bias: added to the scores, broadcasting likewise.
        scale: of the scores, by default 1 / sqrt(D).
        dropout: probability with which a weight is set to zero.

    Returns:
        mixed values (B, H, Tq, D) and weights (B, H, Tq, Tk).
    """
    group = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)  # (B, H, Tk, D)
    scores = queries @ keys.transpose(-2, -1)  # (B, H, Tq, Tk)
    scores = scores / queries.shape[-1] ** 0.5 if scale is None else scores * scale
    if bias is not None:
        scores = scores + bias
    if mask is None:
        weights = scores.softmax(-1)
    else:
        # The lowest finite number rather than -inf, and zero afterwards: a query that may attend nowhere gets zero
        # weights and zero gradients where -inf would give NaN.
        weights = scores.masked_fill(~mask, finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0.0)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights.to(values.dtype) @ values, weights


@contextmanager
def attention_weights(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the weights (B, H, Tq, Tk) of every attention of a model that is called inside the block, in that order.

    The readable implementation runs meanwhile. For one thread at a time.
    """
    weights: list[Tensor] = []

    def ask(layer: nn.Module, given: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, options | {"return_weights": True}

    def take(layer: nn.Module, given: Any, result: tuple[Tensor, Tensor]) -> Tensor:
        weights.append(result[1])
        return result[0]

    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    before = [layer.implementation for layer in layers]
    with ExitStack() as hooks:
        for layer in layers:
            layer.implementation = "readable"
            hooks.callback(layer.register_forward_pre_hook(ask, with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(take).remove)
        try:
            yield weights
        finally:
            for layer, implementation in zip(layers, before, strict=True):
                layer.implementation = implementation


def set_implementation(model: nn.Module, implementation: Implementation) -> None:
    """Switch every layer of a model that has both implementations, at run time."""
    for module in model.modules():
        if isinstance(module, Switchable):
            module.implementation = implementation

"""Multi-head latent attention: keys and values are made from a narrow vector per token, and only that is cached.

Shape legend: B samples, Tq queries, Tk keys, W width, H heads, D head width without rotary part, P width of the rotary
part, S width of a head's values, R width of the latent vector.
"""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, cat, nn
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.layers.attention import Switchable, fused_attention, readable_attention
from archlab.layers.cache import KVCache
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import Rotation


class LatentAttention(Switchable):
    """MLA (DeepSeek-V3, arXiv 2412.19437, section 2.1.1, equations 1 to 11).

    Keys and values of all heads are linear maps of one latent vector per token. A turn by position would stand between
    the latent and the keys, so positions have a part of their own: each head has P rotary features of queries, and all
    share P rotary features of keys. The cache holds the latent and the turned shared key, R + P numbers per token.

    The fused implementation makes keys and values from the latent (`expand`) where there is no cache yet, and
    otherwise never does: the matrices that would make them are applied to queries and outputs instead (DeepSeek-V2,
    arXiv 2405.04434, section 2.1.2), so that the tokens of the cache are read as they are. The readable one always
    follows the equations.

    Args:
        width: W.
        heads: H.
        query_latent: queries come from a latent vector of this width too; 0: directly.
        key_value_latent: R.
        head_width: D.
        rotary_width: P, even.
        value_width: S.
        scale: what scores are multiplied by, by default 1 / sqrt(D + P).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        query_latent: int,
        key_value_latent: int,
        head_width: int,
        rotary_width: int,
        value_width: int,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.rotary_width = rotary_width
        self.value_width = value_width
        self.scale = (head_width + rotary_width) ** -0.5 if scale is None else scale
        # The norms have their own epsilon whatever the model's is, as in the released code.
        self.q_down = nn.Linear(width, query_latent, bias=False) if query_latent else nn.Identity()
        self.q_norm = RMSNorm(query_latent) if query_latent else nn.Identity()
        self.q_proj = nn.Linear(query_latent or width, heads * (head_width + rotary_width), bias=False)
        self.kv_down = nn.Linear(width, key_value_latent + rotary_width, bias=False)
        self.kv_norm = RMSNorm(key_value_latent)
        self.kv_proj = nn.Linear(key_value_latent, heads * (head_width + value_width), bias=False)
        self.out_proj = nn.Linear(heads * value_width, width, bias=False)

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        rotation: Rotation,
        mask: Tensor | None = ...,
        cache: KVCache | None = ...,
        return_weights: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        rotation: Rotation,
        mask: Tensor | None = ...,
        cache: KVCache | None = ...,
        return_weights: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        *,
        rotation: Rotation,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from `x` to itself and what the cache holds.

        Args:
            x: (B, Tq, W).
            rotation: turn of the positions of `x`, of width P.
            mask: see `Attention.forward`.
            cache: latents and shared keys of earlier tokens, extended by this call.
            return_weights: also return the attention weights; the readable implementation only.

        Returns:
            (B, Tq, W), and with `return_weights` also the weights (B, H, Tq, Tk).

        Raises:
            UserError: weights asked of the fused implementation.
        """
        if return_weights and self.implementation == "fused":
            raise UserError(
                'return_weights=True: fused attention has no weights; call set_implementation(model, "readable")'
            )
        queries = self.q_proj(self.q_norm(self.q_down(x)))  # (B, Tq, H * (D + P))
        queries = queries.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, Tq, D + P)
        content, turned = queries.split([self.head_width, self.rotary_width], -1)
        turned = rotation(turned)  # (B, H, Tq, P)

        latent, shared_key = self.kv_down(x)[:, None].split([self.kv_proj.in_features, self.rotary_width], -1)
        latent, shared_key = self.kv_norm(latent), rotation(shared_key)  # (B, 1, Tq, R), (B, 1, Tq, P)
        cached = cache is not None and cache.length > 0
        if cache is not None:
            latent, shared_key = cache.append(latent, shared_key)  # (B, 1, Tk, R), (B, 1, Tk, P)
        if mask is not None and mask.dim() == 3:
            mask = mask[:, None]  # (B, 1, Tq, Tk)

        if self.implementation == "fused" and cached:
            return self.out_proj(self._absorbed(content, turned, latent, shared_key, mask).transpose(1, 2).flatten(2))
        queries = cat([content, turned], -1)  # (B, H, Tq, D + P)
        keys, values = self.expand(latent, shared_key)
        if self.implementation == "fused":
            mixed = fused_attention(queries, keys, values, mask, scale=self.scale)
            return self.out_proj(mixed.transpose(1, 2).flatten(2))
        mixed, weights = readable_attention(queries, keys, values, mask, scale=self.scale)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, Tq, W)
        return (out, weights) if return_weights else out

    def expand(self, latent: Tensor, shared_key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, Tk, D + P) and values (B, H, Tk, S) of latents (B, 1, Tk, R) and shared keys (B, 1, Tk, P)."""
        both = self.kv_proj(latent[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, Tk, D + S)
        keys, values = both.split([self.head_width, self.value_width], -1)
        return cat([keys, shared_key.expand(-1, self.heads, -1, -1)], -1), values

    def _absorbed(
        self, content: Tensor, turned: Tensor, latent: Tensor, shared_key: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Mixed values (B, H, Tq, S): q (M c) = (q M) c, and a mixture of V c is V times the mixture of c."""
        matrices = self.kv_proj.weight.unflatten(0, (self.heads, -1))  # (H, D + S, R)
        to_keys, to_values = matrices.split([self.head_width, self.value_width], 1)  # (H, D, R), (H, S, R)
        queries = cat([content @ to_keys, turned], -1)  # (B, H, Tq, R + P)
        if mask is not None:
            mask = mask.expand(*queries.shape[:3], latent.shape[2]).flatten(1, 2)[:, None]  # (B, 1, H * Tq, Tk)
        # All heads read the same keys, and so count as further queries of one head: nothing is repeated per head.
        mixed = F.scaled_dot_product_attention(
            queries.flatten(1, 2)[:, None], cat([latent, shared_key], -1), latent, mask, scale=self.scale
        )  # (B, 1, H * Tq, R)
        return mixed[:, 0].unflatten(1, queries.shape[1:3]) @ to_values.transpose(-2, -1)

"""Mamba (arXiv 2312.00752): a decoder of selective state spaces, without attention and without positions.

Shape legend: B samples, T new tokens, W width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from archlab.config import Section
from archlab.errors import UserError
from archlab.layers.causal import check_mask
from archlab.layers.embeddings import output_logits
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.layers.ssm import MambaMixer, MambaState
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class MambaConfig(Section):
    """Shape of a Mamba (section 4.2 and appendix E.2); the defaults are the published 130M."""

    vocab_size: Count = 50280
    width: Count = 768
    depth: Count = 24
    expand: Count = 2
    """Inner width in widths."""
    state_size: Count = 16
    """Numbers that each inner feature remembers."""
    kernel: Count = 4
    """Tokens that the convolution sees, its own included."""
    step_rank: Count = 48
    """Width of what the step is computed from."""
    norm_eps: Positive = 1e-5


class MambaBlock(nn.Module):
    """x + mixer(norm(x)) (section 3.4); the stream stays in float32 whatever the type of the weights.

    Args:
        config: of the model.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.mixer = MambaMixer(
            config.width,
            config.expand * config.width,
            state_size=config.state_size,
            step_rank=config.step_rank,
            kernel=config.kernel,
        )

    def forward(self, x: Tensor, *, real: Tensor | None = None, cache: MambaState | None = None) -> Tensor:
        """(B, T, W) -> (B, T, W); the other arguments are those of `MambaMixer.forward`."""
        return x + self.mixer(self.norm(x).to(self.norm.weight.dtype), real=real, cache=cache)


class Mamba(nn.Module):
    """Token ids to next-token logits; see `models.protocols.Decoder`. Its caches do not grow, nor has it a limit.

    The output layer is the token table. Padding on the left of a sequence changes nothing, nor does padding on its
    right; between real tokens (a sequence continued after padding on its right) it is refused, for the convolution
    would see it. Differs from `transformers`, which goes on without a word.

    Args:
        config: shape of the model.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(MambaBlock(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head: nn.Module | None = None  # the output layer is the token table
        _initialize(self)

    def new_cache(self) -> list[MambaState]:
        """Empty states, one per block."""
        return [MambaState() for _ in self.blocks]

    def forward(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[MambaState] | None = None, keep: int = 0
    ) -> Tensor:
        """(B, T) -> (B, T, V); see `models.protocols.Decoder`.

        Raises:
            UserError: the mask has another shape, or padding lies between real tokens.
        """
        real = None if mask is None else _real(tokens, mask, cache)
        x = self.token_embedding(tokens)  # (B, T, W)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        for block, kept in zip(self.blocks, cache or repeat(None, self.config.depth), strict=True):
            x = block(x, real=real, cache=kept)
        table = self.token_embedding.weight
        return output_logits(self.norm(x[:, -keep:]).to(table.dtype), self.head, table)


def _real(tokens: Tensor, mask: Tensor, cache: Sequence[MambaState] | None) -> Tensor:
    """Of the new tokens, which are real, (B, T)."""
    samples, new = tokens.shape
    check_mask(mask, samples, (cache[0].length if cache else 0) + new)
    begins = mask[:, 1:] & ~mask[:, :-1]
    if (mask[:, 0].long() + begins.sum(1) > 1).any():
        raise UserError("mask: padding between real tokens changes what a recurrent model reads; pad on the left")
    return mask[:, -new:]


def _initialize(model: Mamba) -> None:
    """Matrices as everywhere; the state space as in section 3.6 and the released code.

    Decay rates are 1 to N (S4D-Real), steps log-uniform from 0.001 to 0.1, the convolution is uniform as PyTorch's.
    """
    config = model.config
    initialize(model, config.depth)
    for module in model.modules():
        if isinstance(module, MambaMixer):
            with torch.no_grad():
                module.log_decay.copy_(torch.arange(1, config.state_size + 1).log())
                nn.init.ones_(module.skip)
                step = torch.empty_like(module.step_proj.bias).uniform_(math.log(0.001), math.log(0.1)).exp()
                module.step_proj.bias.copy_(step + (-(-step).expm1()).log())  # the inverse of softplus
            nn.init.uniform_(module.step_proj.weight, -(config.step_rank**-0.5), config.step_rank**-0.5)
            nn.init.uniform_(module.convolution.weight, -(config.kernel**-0.5), config.kernel**-0.5)

"""The backbone over the last layers of a LLaMA, as the paper's predictor is (VL-JEPA, section 3.1).

Visual tokens and embedded query tokens enter those layers directly. Both arms begin with the same pretrained weights;
the token table is frozen in both, so that what trains are the layers, as in the paper's count.

Shape legend: W width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from archlab.config import LanguageConfig
from archlab.errors import UserError
from archlab.layers.block import TransformerStack
from archlab.layers.embeddings import TokenEmbedding
from archlab.layers.norms import RMSNorm
from archlab.layers.positions import RotaryEmbedding
from archlab.models.llama import Llama, LlamaConfig, llama_block
from archlab.vl.backbone import Backbone


class LanguageTrunk(TransformerStack):
    """A `TransformerStack` of the shape of a LLaMA's layers: grouped keys and values, its positions, its epsilon."""

    def __init__(self, config: LlamaConfig) -> None:
        nn.Module.__init__(self)
        self.rotary = RotaryEmbedding(
            config.width // config.heads, base=config.rotary_base, scaling=config.rotary_scaling
        )
        self.blocks = nn.ModuleList(llama_block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)


class LanguageEmbedding(TokenEmbedding):
    """A token table that is not scaled on the way in, as LLaMA's."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self.scale = 1.0


class LanguageBackbone(Backbone):
    """See `Backbone`; its trunk is that of a LLaMA, whose weights `begin` brings.

    Args:
        config: which LLaMA, and how many of its layers.
        feature_width: features per visual token.
        vocab_size: of the tokenizer.

    Raises:
        UserError: the checkpoint cannot be read, is no LLaMA with a tied output layer, has fewer layers, or the
            tokenizer has more tokens than its table.
    """

    def __init__(self, config: LanguageConfig, feature_width: int, vocab_size: int) -> None:
        nn.Module.__init__(self)
        shape = language_shape(config)
        if vocab_size > shape.vocab_size:
            raise UserError(
                f"language.weights={config.weights!r}: the tokenizer has {vocab_size} tokens, its table "
                f"{shape.vocab_size}; leave tokenizer.pretrained empty, to take its own"
            )
        self.width, self.feature_width = shape.width, feature_width
        self.visual_projection = nn.Linear(feature_width, shape.width)
        self.token_embedding = LanguageEmbedding(shape.vocab_size, shape.width)
        self.token_embedding.requires_grad_(False)
        self.trunk = LanguageTrunk(shape)
        nn.init.normal_(self.visual_projection.weight, std=feature_width**-0.5)
        nn.init.zeros_(self.visual_projection.bias)

    @torch.no_grad()
    def begin(self, language_model: Llama) -> None:
        """Take over the token table, the last layers and the final norm.

        Visual tokens are made as large as embedded words are: their projection was drawn for unit variance.
        """
        self.token_embedding.weight.copy_(language_model.token_embedding.weight)
        self.visual_projection.weight.mul_(self.token_embedding.weight.std())
        depth = self.trunk.depth
        last: Any = language_model.blocks[-depth:]
        for ours, theirs in zip(self.trunk.blocks, last, strict=True):
            ours.load_state_dict(theirs.state_dict())
        self.trunk.norm.load_state_dict(language_model.norm.state_dict())


def language_shape(config: LanguageConfig) -> LlamaConfig:
    """Shape of the trunk: that of the checkpoint, with as many layers as are taken.

    Raises:
        UserError: the checkpoint cannot be read, is no LLaMA with a tied output layer, or has fewer layers.
    """
    from archlab.interop.reference import shape_of  # imports transformers, which takes seconds

    family, shape = shape_of(config.weights)
    problem = f"language.weights={config.weights!r}"
    if not isinstance(shape, LlamaConfig):
        raise UserError(f"{problem}: is a {family.name}; give a LLaMA")
    if not shape.tied:
        raise UserError(f"{problem}: has an output layer of its own; give one whose output layer is the token table")
    if config.layers > shape.depth:
        raise UserError(f"language.layers={config.layers}: {config.weights} has {shape.depth} layers; take fewer")
    return replace(shape, depth=config.layers)

"""The sizes that operations and memory of a Transformer follow from, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from archlab.config import EmbeddingArmConfig, LanguageConfig, RunConfig, TransformerConfig
from archlab.errors import UserError


@dataclass(frozen=True)
class Dimensions:
    """One stack of layers.

    Attributes:
        width: of the residual stream.
        depth: layers.
        query: width of all queries of a token together.
        key_value: of its keys, and of its values.
        feed_forward: hidden width of the feed-forward layer.
        matrices: of the feed-forward layer; 3 where it is gated.
        vocab_size: of its own token table; 0 where that is the tokenizer's.
    """

    width: int
    depth: int
    query: int
    key_value: int
    feed_forward: int
    matrices: int
    vocab_size: int = 0

    @property
    def layer_weights(self) -> int:
        """Entries of the matrices of one layer."""
        attention = 2 * self.width * (self.query + self.key_value)
        return attention + self.matrices * self.width * self.feed_forward


def dimensions_of(config: TransformerConfig) -> Dimensions:
    """Of a `TransformerStack`."""
    return Dimensions(config.width, config.depth, config.width, config.width, config.feed_forward, 3)


def trunk_dimensions(run: RunConfig) -> Dimensions:
    """Of the trunk of both arms.

    Raises:
        UserError: it is that of a language model that cannot be read.
    """
    return _language(run.language) if run.language.weights else dimensions_of(run.trunk)


def target_dimensions(own: EmbeddingArmConfig) -> Dimensions:
    """Of the target encoder; layers behind the pooling of a pretrained one, which see one state a text, are left out.

    Raises:
        UserError: it is pretrained and cannot be read.
    """
    return _text_encoder(own.target_weights) if own.target_weights else dimensions_of(own.target)


@cache
def _language(config: LanguageConfig) -> Dimensions:
    from archlab.vl.language import language_shape

    shape = language_shape(config)
    return _grouped(shape, shape.width // shape.heads)


@cache
def _text_encoder(source: str) -> Dimensions:
    from archlab.interop.checkpoint import locate, model_type_of
    from archlab.interop.reference import published, shape_of

    if published(source) is None and model_type_of(locate(source)) not in ("bert", "gemma3_text"):
        return _adapted(source)
    family, shape = shape_of(source)
    if family.name == "gemma":
        return _grouped(shape, shape.head_width)
    return Dimensions(shape.width, shape.depth, shape.width, shape.width, shape.feed_forward, 2, shape.vocab_size)


def _grouped(shape: Any, head_width: int) -> Dimensions:
    """Of a LLaMA or a Gemma."""
    query, key_value = shape.heads * head_width, shape.key_value_heads * head_width
    return Dimensions(shape.width, shape.depth, query, key_value, shape.feed_forward, 3, shape.vocab_size)


def _adapted(source: str) -> Dimensions:
    """Of a family without counterpart here, by the usual names; a gate in its feed-forward layer is not seen."""
    from transformers import AutoConfig

    from archlab.interop.checkpoint import locate

    theirs = AutoConfig.from_pretrained(locate(source))
    try:
        width, depth, vocabulary = theirs.hidden_size, theirs.num_hidden_layers, theirs.vocab_size
    except AttributeError as error:
        raise UserError(f"checkpoint {source}: its size is not known ({error}); use another one") from None
    heads = getattr(theirs, "num_attention_heads", 1)
    key_value = width // heads * (getattr(theirs, "num_key_value_heads", None) or heads)
    feed_forward = getattr(theirs, "intermediate_size", None) or 4 * width
    return Dimensions(width, depth, width, key_value, feed_forward, 2, vocabulary)

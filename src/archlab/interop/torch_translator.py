"""The first Transformer in `torch.nn`, with norms in either place: weights from ours, and the same logits.

Shape legend: B samples, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.interop.transforms import Fused
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.positions import sinusoidal
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer

# PyTorch numbers the norms of a layer in the order of use.
_ENCODER = {"attention": "self_attn"}, {"attention_norm": "norm1", "feed_forward_norm": "norm2"}
_DECODER = (
    {"attention": "self_attn", "cross_attention": "multihead_attn"},
    {"attention_norm": "norm1", "cross_attention_norm": "norm2", "feed_forward_norm": "norm3"},
)


class TorchTranslator(nn.Module):
    """`nn.Transformer` with a token table and sinusoidal positions.

    Args:
        config: shape of the model.
    """

    positions: Tensor
    output_bias: Tensor

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.register_buffer("positions", sinusoidal(torch.arange(config.context), config.width), persistent=False)
        with warnings.catch_warnings():
            # Of a shortcut in evaluation, which not every shape can take.
            warnings.filterwarnings("ignore", "enable_nested_tensor")
            self.stacks = nn.Transformer(
                config.width,
                config.heads,
                config.depth,
                config.decoder_depth,
                config.feed_forward,
                dropout=0.0,
                activation=getattr(F, config.activation),
                layer_norm_eps=config.norm_eps,
                batch_first=True,
                norm_first=config.pre_norm,
            )
        if not config.pre_norm:  # the paper has no norm after those of its last sums
            self.stacks.encoder.norm = self.stacks.decoder.norm = None
        self.register_buffer("output_bias", torch.zeros(config.vocab_size))

    def forward(self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None) -> Tensor:
        """(B, S) and (B, T) -> (B, T, V); the mask (B, S) is True at real tokens."""
        padding = None if source_mask is None else ~source_mask
        # With the flag, the layers tell the fused attention that it is causal and read no mask: the fastest way.
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        states = self.stacks(
            self._embed(source),
            self._embed(target),
            tgt_mask=mask,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )  # (B, T, W)
        return F.linear(states, self.token_embedding.weight, self.output_bias)

    def _embed(self, tokens: Tensor) -> Tensor:
        width = self.token_embedding.embedding_dim
        return self.token_embedding(tokens) * width**0.5 + self.positions[: tokens.shape[1]]


def weights(config: EncoderDecoderConfig) -> WeightMap:
    """Our names and PyTorch's, which stacks queries, keys and values."""
    rules = [Rule(name, name) for name in ("token_embedding.weight", "output_bias")]
    for stack, layer, (attentions, norms) in (("encoder", "layer", _ENCODER), ("decoder", "decoder_layer", _DECODER)):
        ours, theirs = f"{stack}_blocks.{{{layer}}}", f"stacks.{stack}.layers.{{{layer}}}"
        for part, other in attentions.items():
            stacked = tuple(f"{ours}.{part}.{name}_proj.{{part}}" for name in "qkv")
            rules += [
                Rule(stacked, f"{theirs}.{other}.in_proj_{{part}}", Fused((config.width,) * 3)),
                Rule(f"{ours}.{part}.out_proj.{{part}}", f"{theirs}.{other}.out_proj.{{part}}"),
            ]
        layers = norms | {"feed_forward.up_proj": "linear1", "feed_forward.down_proj": "linear2"}
        rules += [Rule(f"{ours}.{part}.{{part}}", f"{theirs}.{other}.{{part}}") for part, other in layers.items()]
        if config.pre_norm:
            rules.append(Rule(f"{stack}_norm.{{part}}", f"stacks.{stack}.norm.{{part}}"))
    numbers = {"layer": range(config.depth), "decoder_layer": range(config.decoder_depth)}
    return WeightMap(rules=tuple(rules), values=numbers | {"part": ("weight", "bias")})


def torch_copy(ours: EncoderDecoderTransformer) -> TorchTranslator:
    """PyTorch's layers with the weights of `ours`; every parameter of both takes part."""
    model = TorchTranslator(ours.config)
    model.load_state_dict(weights(ours.config).to_hf(ours.state_dict()), strict=True)
    return model

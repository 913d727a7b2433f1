"""The same encoder-decoder three times: ours, Marian of `transformers`, and `nn.Transformer`, all with equal weights.

Shape legend: B samples, T tokens of a source and predicted tokens of its target, W width, V vocabulary; a batch holds
T + 1 tokens of each target.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.bench.pair import pair
from archlab.bench.peer import Contender, Shape
from archlab.data.text.batch import Pairs
from archlab.interop.transforms import Fused
from archlab.interop.weights import Rule, WeightMap
from archlab.layers.positions import sinusoidal
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from archlab.objectives.sequence import Translation

# PyTorch numbers the norms of a layer in the order of use.
_ENCODER = {"attention": "self_attn"}, {"attention_norm": "norm1", "feed_forward_norm": "norm2"}
_DECODER = (
    {"attention": "self_attn", "cross_attention": "multihead_attn"},
    {"attention_norm": "norm1", "cross_attention_norm": "norm2", "feed_forward_norm": "norm3"},
)


class TorchTranslator(nn.Module):
    """`nn.Transformer` with a token table and sinusoidal positions: ids (B, T) and (B, T) -> (B, T, V).

    Args:
        config: shape of the model, post-norm.
    """

    positions: Tensor
    output_bias: Tensor

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.register_buffer("positions", sinusoidal(torch.arange(config.context), config.width), persistent=False)
        self.stacks = nn.Transformer(
            config.width,
            config.heads,
            config.depth,
            config.decoder_depth,
            config.feed_forward,
            dropout=0.0,
            layer_norm_eps=config.norm_eps,
            batch_first=True,
        )
        self.stacks.encoder.norm = self.stacks.decoder.norm = None  # the paper has no norm after those of its last sums
        self.register_buffer("output_bias", torch.zeros(config.vocab_size))

    def forward(self, source: Tensor, target: Tensor, *, source_mask: Tensor | None = None) -> Tensor:
        """See the class."""
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
        return F.linear(states, self.token_embedding.weight) + self.output_bias

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
    numbers = {"layer": range(config.depth), "decoder_layer": range(config.decoder_depth)}
    return WeightMap(rules=tuple(rules), values=numbers | {"part": ("weight", "bias")})


def translator_contenders(shape: Shape, seed: int = 0) -> dict[str, Contender]:
    """All three models with equal weights and the same batch of random tokens, without dropout.

    All get what the recipe `translation` gives: the mask of the sources, which here leaves nothing out.
    """
    stack = shape.stack
    options = {
        "vocab_size": shape.vocabulary,
        "context": shape.tokens,
        "width": stack.width,
        "depth": stack.depth,
        "decoder_depth": stack.depth,
        "heads": stack.heads,
        "feed_forward": stack.feed_forward,
    }
    ours, theirs = pair("encoder_decoder", options, seed)
    torchs = torch_copy(ours)
    source, target = shape.random_tokens(seed + 1)[:, 1:], shape.random_tokens(seed)
    real = [torch.ones_like(tokens, dtype=torch.bool) for tokens in (source, target)]
    batch, objective = Pairs(source, real[0], target, real[1]), Translation()

    def labelled_loss() -> Any:
        labels = target[:, 1:].contiguous()
        return theirs(
            input_ids=source,
            attention_mask=real[0],
            decoder_input_ids=target[:, :-1],
            labels=labels,
            use_cache=False,
        ).loss

    return {
        "archlab": Contender(ours.train(), lambda: objective(ours, batch).loss),
        "transformers": Contender(theirs.train(), labelled_loss),
        "torch.nn": Contender(torchs.train(), lambda: objective(torchs, batch).loss),
    }


def torch_copy(ours: EncoderDecoderTransformer) -> TorchTranslator:
    """PyTorch's layers with the weights of `ours`; every parameter of both takes part."""
    model = TorchTranslator(ours.config)
    model.load_state_dict(weights(ours.config).to_hf(ours.state_dict()), strict=True)
    return model

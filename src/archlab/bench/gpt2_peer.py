"""The same GPT-2 three times: ours, that of `transformers`, and one of PyTorch's own layers, all with equal weights.

`nn.TransformerEncoderLayer` with `norm_first` and a causal mask is exactly a block of GPT-2, so that the three can be
compared as the LLaMAs of `bench.peer` are; no such layer has rotary positions or gates.

Shape legend: B samples, T predicted tokens, W width, V vocabulary; a batch holds T + 1 tokens.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.bench.decoder_peer import decoder_contenders, language_model
from archlab.bench.peer import Contender, Shape
from archlab.interop.transforms import Fused
from archlab.interop.weights import Rule, WeightMap
from archlab.models.gpt2 import GPT2, GPT2Config


class TorchGPT2(nn.Module):
    """GPT-2 of PyTorch's layers: (B, T) -> (B, T, V).

    Args:
        config: shape of the model.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.feed_forward,
            dropout=0.0,
            activation=partial(F.gelu, approximate="tanh"),
            layer_norm_eps=config.norm_eps,
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.encoder = nn.TransformerEncoder(layer, config.depth, norm, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positions[:length]  # (B, T, W)
        # With the flag, the layers tell the fused attention that it is causal and read no mask: the fastest way.
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return F.linear(self.encoder(x, mask=mask, is_causal=True), self.token_embedding.weight)


def weights(config: GPT2Config) -> WeightMap:
    """Our names and PyTorch's, which stacks queries, keys and values."""
    ours, theirs = "blocks.{layer}", "encoder.layers.{layer}"
    stacked = tuple(f"{ours}.attention.{name}_proj.{{part}}" for name in "qkv")
    return WeightMap(
        rules=(
            Rule("token_embedding.weight", "token_embedding.weight"),
            Rule("positions", "positions"),
            Rule(f"{ours}.attention_norm.{{part}}", f"{theirs}.norm1.{{part}}"),
            Rule(stacked, f"{theirs}.self_attn.in_proj_{{part}}", Fused((config.width,) * 3)),
            Rule(f"{ours}.attention.out_proj.{{part}}", f"{theirs}.self_attn.out_proj.{{part}}"),
            Rule(f"{ours}.feed_forward_norm.{{part}}", f"{theirs}.norm2.{{part}}"),
            Rule(f"{ours}.feed_forward.up_proj.{{part}}", f"{theirs}.linear1.{{part}}"),
            Rule(f"{ours}.feed_forward.down_proj.{{part}}", f"{theirs}.linear2.{{part}}"),
            Rule("norm.{part}", "encoder.norm.{part}"),
        ),
        values={"layer": range(config.depth), "part": ("weight", "bias")},
    )


def gpt2_contenders(shape: Shape, seed: int = 0) -> dict[str, Contender]:
    """All three models with equal weights and the same batch of random tokens, without dropout."""
    found = decoder_contenders("gpt2", shape, seed)
    torchs = torch_copy(cast(GPT2, found["archlab"].model))
    return found | {"torch.nn": language_model(torchs, shape.random_tokens(seed))}


def torch_copy(ours: GPT2) -> TorchGPT2:
    """PyTorch's layers with the weights of `ours`; every parameter of both takes part."""
    model = TorchGPT2(ours.config)
    model.load_state_dict(weights(ours.config).to_hf(ours.state_dict()), strict=True)
    return model

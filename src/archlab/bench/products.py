"""A model's products with matrices and nothing else: what generating would take if all the rest took no time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from archlab.generate import engine
from archlab.generate.settings import Settings
from archlab.layers.packed import PackedLinear
from archlab.models.protocols import Decoder

Product = tuple[nn.Module, Tensor]
"""A layer and what it reads."""


def only_products(model: Decoder, tokens: Tensor) -> Callable[[Tensor, int], None]:
    """A contender that repeats the products of a generation, each on the very numbers that it read.

    Those of the prompts once, then those of the second token as often as tokens follow the first. Keys and values are
    not read.

    Args:
        model: laid out as it generates.
        tokens: the prompts (B, P) of every call.
    """
    first, both = (_products(model, tokens, count) for count in (1, 2))
    step = both[len(first) :]

    @torch.inference_mode()
    def run(tokens: Tensor, new: int) -> None:
        for products in (first, *[step] * (new - 1)):
            for layer, x in products:
                layer(x)

    return run


def _products(model: Decoder, tokens: Tensor, new: int) -> list[Product]:
    """All products of one generation, in order."""
    assert isinstance(model, nn.Module)
    products: list[Product] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, arguments: products.append((layer, arguments[0])))
        for layer in model.modules()
        if isinstance(layer, nn.Linear | PackedLinear | torch.ao.nn.quantized.dynamic.Linear)
    ]
    engine.generate(model, tokens.tolist(), Settings(max_new_tokens=new))
    for hook in hooks:
        hook.remove()
    return products

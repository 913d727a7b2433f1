"""The same numbers in another order in memory, so that a processor reads them faster.

A token of one sequence needs a product of every matrix with one vector, which takes as long as reading the matrix. Rows
that lie one after another are read at a fraction of the speed that blocks allow, every product has a cost of its own,
and the general routine for products of several vectors is made for hundreds of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from archlab.layers.block import CrossBlock
from archlab.layers.mla import LatentAttention
from archlab.layers.packed import PackedLinear, can_pack
from archlab.layers.shared_input import SharedInput

# Where blocks pay for the longer call, measured with two threads: of one vector in float32, whose products with rows
# are fast as they are, from this length of rows and columns on; of all others, from this number of entries on.
_PACKED_SIDE = 512
_PACKED_ENTRIES = 2**17


@torch.no_grad()
def lay_out(model: nn.Module, sequences: int = 1) -> None:
    """Replace a model's linear layers by faster ones with the same weights; from then on it can only generate.

    Layers that read the same input become one (`SharedInput.join`), and the output layer gets a matrix of its own where
    it is the token table. What is not on a processor, was quantised, or would gain nothing stays as it is.

    Args:
        model: a decoder or an encoder-decoder, on its device and in its type.
        sequences: that are continued side by side.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    # Their projections are called one by one: queries come from the target, keys and values from the memory.
    apart = {block.cross_attention for block in model.modules() if isinstance(block, CrossBlock)}
    # Its matrix is read by itself too, where a cache holds latents.
    stay = {layer.kv_proj for layer in model.modules() if isinstance(layer, LatentAttention)}
    for layer in model.modules():
        if isinstance(layer, SharedInput) and layer not in apart and all(map(_is_linear, layer.projections())):
            layer.join(lambda weight, bias: _faster(weight, bias, sequences))
            stay.update(layer.projections())
    for name, layer in list(model.named_modules()):
        if _is_linear(layer) and layer not in stay:
            model.set_submodule(name, _faster(layer.weight, layer.bias, sequences))
    holder: Any = model
    if holder.head is None:
        holder.head = _faster(holder.token_embedding.weight, getattr(holder, "output_bias", None), sequences)


def _is_linear(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear


def _faster(weight: Tensor, bias: Tensor | None, sequences: int) -> nn.Module:
    """A layer of the matrix (N, W): packed, or column by column, which helps one vector where rows are short."""
    if _pays(weight, sequences) and can_pack(weight.dtype):
        return PackedLinear(weight, bias, sequences)
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    tall = outputs >= inputs and weight.dtype == torch.float32
    layer.weight = nn.Parameter(weight.T.contiguous().T if tall else weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def _pays(weight: Tensor, sequences: int) -> bool:
    """Whether blocks are faster."""
    if sequences == 1 and weight.dtype == torch.float32:
        return min(weight.shape) >= _PACKED_SIDE
    return weight.numel() >= _PACKED_ENTRIES

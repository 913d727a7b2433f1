"""Matrices in the blocks in which oneDNN multiplies by them: several times as fast as rows for a few vectors at once.

Shape legend: W inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear map that is only to be read: its matrix lies in the blocks in which oneDNN multiplies by it.

    It can neither be trained, nor moved, nor saved. The compiler of `torch.compile` packs what it freezes likewise.

    Args:
        weight: (N, W), float32 or bfloat16.
        bias: (N), or None.
        vectors: that are multiplied at once most of the time; more or fewer may be.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, vectors: int) -> None:
        super().__init__()
        self.outputs = len(weight)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), vectors)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., N)."""
        if torch.compiler.is_compiling():
            return _opaque_product(x, self.packed, self.bias, self.outputs)
        return _product(x, self.packed, self.bias)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


@torch.library.custom_op("archlab::packed_product", mutates_args=())
def _opaque_product(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """For the compiler, which takes this product only with matrices that it has packed itself."""
    return _product(x, packed, bias)


@_opaque_product.register_fake
def _(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies packed matrices of this type."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32

"""A matrix in blocks multiplies as it did in rows."""

import pytest
import torch
from torch import nn

from archlab.layers.packed import PackedLinear, can_pack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_packed_matrix_multiplies_as_it_did(dtype):
    if not can_pack(dtype):
        pytest.skip("the processor has no such products")
    layer = nn.Linear(48, 80).to(dtype)
    packed = PackedLinear(layer.weight, layer.bias, 4)
    for shape in ((48,), (4, 48), (2, 7, 48)):
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(packed(x), layer(x), rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
    other = PackedLinear(layer.weight.flip(0), layer.bias, 4)
    assert not torch.allclose(other(x), layer(x), atol=1e-2)


def test_types_without_such_products_are_not_packed():
    assert not can_pack(torch.float64)
    assert not can_pack(torch.float16)

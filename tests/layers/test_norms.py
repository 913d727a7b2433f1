import pytest
import torch

from archlab.layers.norms import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_equals_torch_in_outputs_and_gradients(dtype, size):
    torch.manual_seed(0)
    ours, theirs = RMSNorm(16).to(dtype), torch.nn.RMSNorm(16, eps=1e-6, dtype=dtype)
    gains = torch.randn(16)
    x = (torch.randn(3, 5, 16) * size).to(dtype)
    x[0, 0] = 0  # padding may be zero: no 0 / 0 in the gradient of the norm
    upstream = torch.randn(3, 5, 16).to(dtype)
    results = []
    for norm in (ours, theirs):
        norm.weight.data.copy_(gains)
        own = x.clone().requires_grad_()
        out = norm(own)
        assert out.dtype == dtype
        out.backward(upstream)
        results.append((out, own.grad, norm.weight.grad))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_squares_that_overflow_bfloat16_inputs_do_not_overflow():
    x = torch.full((1, 4), 3e30, dtype=torch.bfloat16) / 1e12
    torch.testing.assert_close(RMSNorm(4)(x).float(), torch.ones(1, 4), rtol=1e-2, atol=0)


def test_a_unit_offset_is_a_gain_of_one_more():
    plain, offset, x = RMSNorm(4), RMSNorm(4, unit_offset=True), torch.randn(3, 4)
    assert torch.equal(plain(x), offset(x))
    offset.weight.data = torch.randn(4)
    plain.weight.data = 1 + offset.weight.data
    assert torch.equal(plain(x), offset(x))

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from archlab.errors import UserError
from archlab.layers.position_bias import RelativePositionBias, alibi, alibi_slopes


@given(buckets=st.integers(4, 64), farthest=st.integers(33, 300), bidirectional=st.booleans())
def test_every_distance_has_the_bucket_of_the_reference(buckets, farthest, bidirectional):
    bias = RelativePositionBias(1, buckets=buckets, farthest=farthest, bidirectional=bidirectional)
    distance = torch.arange(-400, 401)
    expected = T5Attention._relative_position_bucket(distance, bidirectional, buckets, farthest)
    assert torch.equal(bias.bucket(distance), expected)


@given(shift=st.integers(-50, 50), bidirectional=st.booleans())
def test_the_bias_depends_on_relative_positions_only(shift, bidirectional):
    torch.manual_seed(0)
    bias = RelativePositionBias(3, buckets=8, farthest=20, bidirectional=bidirectional)
    queries, keys = torch.randint(0, 60, (2, 4)), torch.randint(0, 60, (2, 6))
    found = bias(queries, keys)
    assert found.shape == (2, 3, 4, 6)
    assert torch.equal(bias(queries + shift, keys + shift), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": 3, "farthest": 9, "bidirectional": True}, "buckets=3: must be at least 4"),
        ({"buckets": 1, "farthest": 9, "bidirectional": False}, "buckets=1: must be at least 2"),
        ({"buckets": 8, "farthest": 4, "bidirectional": False}, "farthest=4: must be more than 4"),
    ],
)
def test_buckets_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        RelativePositionBias(2, **options)


def test_slopes_are_those_of_the_paper():
    """Section 3: 1/2, 1/4, ..., 1/256 for 8 heads; for 16 heads 0.5^0.5, 0.5^1, 0.5^1.5, ..., 0.5^8."""
    assert alibi_slopes(8).tolist() == [0.5**power for power in range(1, 9)]
    torch.testing.assert_close(alibi_slopes(16), 0.5 ** torch.arange(0.5, 8.5, 0.5))


@given(st.integers(1, 40))
def test_slopes_of_any_number_of_heads_are_those_of_the_reference(heads):
    keys = build_alibi_tensor(torch.ones(1, 3), heads, torch.float32)  # slope times position of the key
    torch.testing.assert_close(alibi_slopes(heads), keys[:, 0, 1])


def test_alibi_falls_with_the_distance():
    queries, keys = torch.tensor([[5, 2]]), torch.tensor([[0, 2, 5]])
    expected = torch.tensor([[-5.0, -3.0, 0.0], [-2.0, 0.0, -3.0]])
    torch.testing.assert_close(
        alibi(queries, keys, torch.tensor([1.0, 0.5])), torch.stack([expected, expected / 2])[None]
    )

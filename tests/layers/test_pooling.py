import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers.pooling import AttentionPooling, masked_mean, merge_patches


def test_masked_mean_averages_real_tokens_only():
    x = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    x[~mask] = torch.nan  # whatever stands at padding must not leak
    pooled = masked_mean(x, mask)
    torch.testing.assert_close(pooled[0], x[0, [0, 1, 3]].mean(0))
    torch.testing.assert_close(pooled[1], x[1, 1])
    assert (pooled[2] == 0).all()


def test_attention_pooling_does_not_see_padding():
    torch.manual_seed(0)
    pooling, x = AttentionPooling(8, 2), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    pooled = pooling(x, mask)
    assert pooled.shape == (2, 8)
    torch.testing.assert_close(pooled[0], pooling(x[:1, :3])[0])
    torch.testing.assert_close(pooled[1], pooling(x[1:])[0])


def test_attention_pooling_learns_what_to_attend_to():
    torch.manual_seed(0)
    pooling = AttentionPooling(8, 2)
    x = torch.randn(64, 5, 8)
    x[:, :, 0] = 0
    x[torch.arange(64), torch.randint(0, 5, (64,)), 0] = 3  # one marked token per sample
    wanted = x[x[:, :, 0] == 3]
    optimizer = torch.optim.Adam(pooling.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        loss = (pooling(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_merging_keeps_neighbours_together(merge, rows, columns):
    height, width = rows * merge, columns * merge
    x = torch.arange(2 * height * width * 2.0).view(2, height * width, 2)
    merged = merge_patches(x, (height, width), merge)
    assert merged.shape == (2, rows * columns, merge * merge * 2)
    image = x.view(2, height, width, 2)
    for row in range(rows):
        for column in range(columns):
            square = image[:, row * merge : (row + 1) * merge, column * merge : (column + 1) * merge]
            assert torch.equal(merged[:, row * columns + column], square.flatten(1))


@pytest.mark.parametrize("grid", [(3, 4), (4, 3)])
def test_merging_needs_a_grid_that_divides(grid):
    with pytest.raises(UserError, match="merge=2"):
        merge_patches(torch.zeros(1, 12, 2), grid, 2)

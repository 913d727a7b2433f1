import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers.embeddings import PatchEmbedding, TubeletEmbedding, patchify, take, unpatchify

sizes = st.integers(1, 4)


@given(sizes, sizes, sizes, sizes, sizes)
def test_patchify_and_back_is_the_identity(samples, channels, patch, rows, columns):
    images = torch.randn(samples, channels, rows * patch, columns * patch)
    patches = patchify(images, patch)
    assert patches.shape == (samples, rows * columns, channels * patch * patch)
    assert torch.equal(unpatchify(patches, patch, (rows, columns)), images)


def test_patches_come_row_by_row_and_hold_channel_row_column():
    images = torch.randn(2, 3, 4, 6)
    patches = patchify(images, 2)
    for row in range(2):
        for column in range(3):
            square = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 3 * row + column], square.flatten(1))


def test_embedding_of_tubelets_is_a_strided_convolution():
    embedding, clips = TubeletEmbedding(3, 2, 4, 10), torch.randn(2, 6, 3, 8, 12)
    linear = embedding.patches.projection
    kernel = linear.weight.view(10, 3, 2, 4, 4)
    expected = torch.nn.functional.conv3d(clips.transpose(1, 2), kernel, linear.bias, stride=(2, 4, 4))
    torch.testing.assert_close(embedding(clips), expected.flatten(2).transpose(1, 2))


def test_embedding_is_a_strided_convolution():
    embedding, images = PatchEmbedding(3, 4, 10), torch.randn(2, 3, 8, 12)
    weight = embedding.projection.weight.unflatten(1, (3, 4, 4))
    expected = torch.nn.functional.conv2d(images, weight, embedding.projection.bias, stride=4)
    torch.testing.assert_close(embedding(images), expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_embedding_of_chosen_patches_is_that_choice_of_all():
    embedding, images = PatchEmbedding(3, 4, 10), torch.randn(2, 3, 8, 12)
    keep = torch.tensor([[4, 0, 1], [2, 3, 5]])
    everything = embedding(images)
    expected = torch.stack([everything[sample, keep[sample]] for sample in range(2)])
    torch.testing.assert_close(embedding(images, keep), expected)
    assert torch.equal(take(everything, keep), expected)


@pytest.mark.parametrize("shape", [(9, 8), (8, 9)])
def test_images_that_do_not_divide_are_refused(shape):
    with pytest.raises(UserError, match=f"{shape[0]} x {shape[1]}"):
        patchify(torch.zeros(1, 3, *shape), 4)

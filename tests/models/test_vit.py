"""What the Vision Transformer does beyond its reference; that it equals `transformers` is shown in `tests/interop`."""

import pytest
import torch

from archlab.config import TransformerConfig
from archlab.errors import UserError
from archlab.models.vit import ViT, ViTConfig

SIZE = TransformerConfig(width=24, depth=3, heads=3, feed_forward=40)
CONFIG = ViTConfig(image_size=16, patch_size=4, transformer=SIZE)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_every_variant_has_states_gradients_and_reloads(class_token, positions):
    config = ViTConfig(image_size=16, patch_size=4, transformer=SIZE, class_token=class_token, positions=positions)
    torch.manual_seed(0)
    vit, images = ViT(config), torch.randn(2, 3, 16, 16)
    out = vit(images)
    assert out.shape == (2, 16 + class_token, 24)
    (out * torch.randn_like(out)).sum().backward()
    assert all((parameter.grad != 0).any() for parameter in vit.parameters())
    assert ("positions" in vit.state_dict()) == (positions == "learned")
    torch.manual_seed(1)
    other = ViT(config)
    assert not torch.equal(other(images), out)
    other.load_state_dict(vit.state_dict(), strict=True)
    assert torch.equal(other(images), out)


@pytest.mark.parametrize("class_token", [True, False])
def test_kept_patches_carry_their_own_positions(class_token):
    config = ViTConfig(image_size=16, patch_size=4, transformer=SIZE, class_token=class_token)
    torch.manual_seed(0)
    vit, images = ViT(config), torch.randn(2, 3, 16, 16)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    # Attention is blind to order, so that all patches in another order give the same states in that order.
    everything, shuffled = vit(images)[:, class_token:], vit(images, order)[:, class_token:]
    for sample in range(2):
        torch.testing.assert_close(shuffled[sample], everything[sample, order[sample]], rtol=1e-4, atol=1e-5)


def test_hidden_patches_have_no_influence():
    vit, images = ViT(CONFIG), torch.randn(1, 3, 16, 16)
    keep = torch.tensor([[0, 5]])
    out = vit(images, keep)
    assert out.shape == (1, 3, 24)
    other = images.clone()
    other[:, :, 8:] = 7  # rows of patches 2 and 3
    assert torch.equal(vit(other, keep), out)


def test_wrong_sizes_are_refused():
    with pytest.raises(UserError, match="image_size=10"):
        ViTConfig(image_size=10, patch_size=4)
    with pytest.raises(UserError, match="resize"):
        ViT(CONFIG)(torch.zeros(1, 3, 20, 16))


def test_a_convolutional_stem_sees_all_patches_and_refuses_to_leave_some_out() -> None:
    config = ViTConfig(image_size=32, transformer=SIZE, stem="convolutional")
    model = ViT(config)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 17, SIZE.width)
    with pytest.raises(TypeError):
        model(torch.randn(2, 3, 32, 32), torch.zeros(2, 4, dtype=torch.long))

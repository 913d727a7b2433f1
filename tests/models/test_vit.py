"""The Vision Transformer against `transformers`."""

import pytest
import torch
from transformers import ViTConfig as TheirConfig
from transformers import ViTModel

from archlab.config import TransformerConfig
from archlab.errors import UserError
from archlab.layers.attention import set_implementation
from archlab.models.vit import ViT, ViTConfig

SIZE = TransformerConfig(width=24, depth=3, heads=3, feed_forward=40)
CONFIG = ViTConfig(image_size=16, patch_size=4, transformer=SIZE)
TO_THEIRS = {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patch_embedding.": "embeddings.patch_embeddings.",
    "blocks.": "layers.",
    "attention_norm": "layernorm_before",
    "feed_forward_norm": "layernorm_after",
    "out_proj": "o_proj",
    "feed_forward.up_proj": "mlp.fc1",
    "feed_forward.down_proj": "mlp.fc2",
}


def their_name(name):
    for ours, theirs in TO_THEIRS.items():
        name = name.replace(ours, theirs)
    return "layernorm" + name[4:] if name.startswith("norm.") else name


def their_twin(vit):
    config = TheirConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=16,
        patch_size=4,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    theirs = ViTModel(config, add_pooling_layer=False)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    weights = {their_name(name): value for name, value in vit.state_dict().items()}
    assert weights.keys() == shapes.keys()
    theirs.load_state_dict({name: value.reshape(shapes[name]) for name, value in weights.items()}, strict=True)
    return theirs


def compare(vit, theirs):
    """Embeddings and hidden states layer by layer, output, gradients; an AssertionError at the first difference."""
    images, ours, wanted = torch.randn(2, 3, 16, 16), [], []
    hooks = [block.register_forward_pre_hook(lambda _, args: ours.append(args[0])) for block in vit.blocks]
    hooks += [layer.register_forward_pre_hook(lambda _, args: wanted.append(args[0])) for layer in theirs.layers]
    mine, yours = images.clone().requires_grad_(), images.clone().requires_grad_()
    out, expected = vit(mine), theirs(yours).last_hidden_state
    for hook in hooks:
        hook.remove()
    assert len(ours) == len(wanted) == 3
    for layer, (one, other) in enumerate(zip(ours, wanted, strict=True)):
        torch.testing.assert_close(
            one, other, rtol=1e-5, atol=1e-5, msg=lambda text, at=layer: f"input of layer {at}: {text}"
        )
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-4, atol=1e-5)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in vit.named_parameters():
        other = gradients[their_name(name)].reshape(parameter.shape)
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    vit = ViT(CONFIG)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit


@pytest.mark.parametrize("implementation", ["fused", "readable"])
def test_equals_transformers_layer_by_layer_and_in_gradients(vit, implementation):
    set_implementation(vit, implementation)
    compare(vit, their_twin(vit))


def swap_queries_and_keys(vit):
    attention = vit.blocks[1].attention
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj


def leave_out_the_root(vit):
    vit.blocks[1].attention.q_proj.weight.data *= 8**0.5


def tanh_gelu(vit):
    feed_forward = vit.blocks[1].feed_forward
    feed_forward.forward = lambda x: feed_forward.down_proj(
        torch.nn.functional.gelu(feed_forward.up_proj(x), approximate="tanh")
    )


@pytest.mark.parametrize("fault", [swap_queries_and_keys, leave_out_the_root, tanh_gelu])
def test_the_comparison_notices_a_fault(vit, fault):
    theirs = their_twin(vit)
    fault(vit)
    with pytest.raises(AssertionError, match="input of layer 2"):
        compare(vit, theirs)


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

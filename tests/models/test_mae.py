"""The masked autoencoder against `transformers`' ViT-MAE: prediction, loss and gradients."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from archlab.config import TransformerConfig
from archlab.layers.embeddings import patchify
from archlab.models.mae import MaskedAutoencoder
from archlab.models.vit import ViTConfig
from archlab.objectives.masked_autoencoder import reconstruction_loss

ENCODER = ViTConfig(
    image_size=16,
    patch_size=4,
    transformer=TransformerConfig(width=24, depth=2, heads=3, feed_forward=40),
    positions="sinusoidal",
)
DECODER = TransformerConfig(width=16, depth=1, heads=2, feed_forward=32)
# (channel, row, column) of our patches to (row, column, channel) of theirs
PIXELS = torch.arange(48).view(3, 4, 4).permute(1, 2, 0).flatten()


def their_twin(mae):
    config = ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=16,
        patch_size=4,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        layer_norm_eps=1e-6,
        norm_pix_loss=True,
        mask_ratio=0.75,
        attn_implementation="eager",
    )
    theirs = ViTMAEForPreTraining(config)
    # The constructor leaves the fixed tables at zero.
    theirs.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    theirs.vit.embeddings.initialize_weights()
    theirs.decoder.initialize_weights(16)
    names = {
        "encoder.class_token": "vit.embeddings.cls_token",
        "encoder.patch_embedding": "vit.embeddings.patch_embeddings",
        "encoder.blocks": next(n for n, _ in theirs.named_modules() if n.startswith("vit.") and n.endswith("layers")),
        "encoder.norm": "vit.layernorm",
        "decoder_embedding": "decoder.decoder_embed",
        "mask_token": "decoder.mask_token",
        "prediction": "decoder.decoder_pred",
        "attention_norm": "layernorm_before",
        "feed_forward_norm": "layernorm_after",
        "out_proj": "o_proj",
        "feed_forward.up_proj": "mlp.fc1",
        "feed_forward.down_proj": "mlp.fc2",
    }
    state, weights = theirs.state_dict(), {}
    for name, value in mae.state_dict().items():
        ours = name
        for one, other in names.items():
            name = name.replace(one, other)
        if name.startswith("blocks."):
            name = "decoder.decoder_layers" + name[6:]
        elif name.startswith("norm."):
            name = "decoder.decoder_norm" + name[4:]
        if ours.startswith("prediction."):
            value = value[PIXELS]
        assert name in state, (ours, name)
        weights[name] = value.reshape(state[name].shape)
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert sorted(missing) == ["decoder.decoder_pos_embed", "vit.embeddings.position_embeddings"]  # fixed tables
    assert not unexpected
    return theirs


@pytest.fixture
def mae():
    torch.manual_seed(0)
    mae = MaskedAutoencoder(ENCODER, DECODER)
    for parameter in mae.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return mae


def test_equals_transformers_in_prediction_loss_and_gradients(mae):
    theirs = their_twin(mae)
    images, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    visible = noise.argsort(1)[:, :4]
    prediction, masked = mae(images, visible)
    loss = reconstruction_loss(prediction, patchify(images, 4), masked)
    expected = theirs(images, noise=noise)
    assert torch.equal(masked, expected.mask.bool())
    torch.testing.assert_close(prediction[:, :, PIXELS], expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    for ours, yours in (
        (mae.encoder.blocks[0].attention.q_proj.weight, theirs.vit.get_parameter("layers.0.attention.q_proj.weight")),
        (mae.mask_token, theirs.decoder.mask_token),
        (mae.encoder.class_token, theirs.vit.embeddings.cls_token),
    ):
        torch.testing.assert_close(ours.grad, yours.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_order_of_the_visible_patches_does_not_matter(class_token):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        transformer=ENCODER.transformer,
        positions="sinusoidal",
        class_token=class_token,
    )
    mae, images = MaskedAutoencoder(config, DECODER), torch.randn(2, 3, 16, 16)
    visible = torch.tensor([[1, 5, 9], [0, 2, 15]])
    prediction, masked = mae(images, visible)
    again, same = mae(images, visible.flip(1))
    assert prediction.shape == (2, 16, 48)
    assert torch.equal(masked, same)
    assert masked.sum(1).tolist() == [13, 13]
    assert not masked.gather(1, visible).any()
    torch.testing.assert_close(again, prediction, rtol=1e-4, atol=1e-6)


def test_predictions_do_not_see_the_hidden_pixels(mae):
    images, visible = torch.randn(1, 3, 16, 16), torch.tensor([[0, 1, 2]])
    other = images.clone()
    other[:, :, 4:] = 5
    assert torch.equal(mae(images, visible)[0], mae(other, visible)[0])

"""The released translation models of Marian, which have SiLU and a bias of the logits."""

import torch
from tests.interop import released
from transformers import MarianConfig

from archlab.interop.checkpoint import load_pretrained
from archlab.interop.parity.twin import build
from archlab.models.registry import find


def test_a_released_configuration_is_read():
    config = find("encoder_decoder").interop.config_from_hf(MarianConfig(**released.OPUS_MT_EN_DE))
    assert (config.vocab_size, config.width, config.depth, config.activation) == (58101, 512, 6, "silu")


@torch.no_grad()
def test_a_checkpoint_of_transformers_translates_alike(tmp_path):
    theirs = build(find("encoder_decoder").variant("SiLU")).reference
    theirs.config.activation_function = "swish"
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    source, target = torch.randint(61, (2, 7)), torch.randint(61, (2, 5))
    assert ours.output_bias.abs().max() > 1
    torch.testing.assert_close(
        ours(source, target), theirs(input_ids=source, decoder_input_ids=target).logits, rtol=1e-4, atol=1e-5
    )

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from archlab.errors import UserError
from archlab.layers.positions import RotaryEmbedding
from archlab.layers.rotary_scaling import Llama3Scaling


def test_llama3_frequencies_are_those_of_transformers():
    scaling = Llama3Scaling(factor=32.0)
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=1,
        max_position_embeddings=131072,
        rope_parameters=rope | {"original_max_position_embeddings": 8192},
    )
    expected = LlamaRotaryEmbedding(config).inv_freq
    torch.testing.assert_close(RotaryEmbedding(128, base=5e5, scaling=scaling).frequencies, expected)


def test_fast_frequencies_stay_slow_ones_are_divided_and_the_order_is_kept():
    scaling = Llama3Scaling(factor=8.0, original_context=1000)
    frequencies = torch.logspace(0, -5, 50)
    scaled = scaling.scale(frequencies)
    turns = 1000 * frequencies / (2 * torch.pi)
    assert torch.equal(scaled[turns > 4], frequencies[turns > 4])
    torch.testing.assert_close(scaled[turns < 1], frequencies[turns < 1] / 8)
    assert (scaled.diff() < 0).all()


def test_bands_in_the_wrong_order_are_refused():
    with pytest.raises(UserError, match=r"high_frequency=1.0: must be more than low_frequency=1.0"):
        Llama3Scaling(high_frequency=1.0)

"""Every scaling against the functions of `transformers`, each option of it told apart from its neighbours."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from archlab.config import build
from archlab.errors import UserError
from archlab.interop.rotary import rope_to_hf
from archlab.layers.positions import RotaryEmbedding
from archlab.layers.rotary_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    YarnScaling,
)
from archlab.models.llama import LlamaConfig as OurLlamaConfig

WIDTH, BASE = 64, 5e5
SCALINGS = [
    Llama3Scaling(factor=32.0),
    LinearScaling(factor=8.0),
    YarnScaling(factor=4.0, original_context=4096),
    YarnScaling(factor=40.0, original_context=512, fast_turns=20.0, slow_turns=2.0, truncate=False),
    YarnScaling(factor=16.0, original_context=32768, attention_factor=1.3),
    YarnScaling(factor=40.0, original_context=4096, magnitude=1.0, magnitude_all=0.8),
]


def theirs(scaling, length=None):
    """Frequencies and attention factor of `transformers`."""
    rope = rope_to_hf(BASE, scaling)
    config = LlamaConfig(hidden_size=WIDTH, num_attention_heads=1, max_position_embeddings=131072, rope_parameters=rope)
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, seq_len=length)


def equal(one, other):
    return torch.allclose(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.kind)
def test_frequencies_and_attention_factor_are_those_of_transformers(scaling):
    frequencies, factor = theirs(scaling)
    rotary = RotaryEmbedding(WIDTH, base=BASE, scaling=scaling)
    torch.testing.assert_close(rotary.frequencies, frequencies, rtol=1e-5, atol=0)
    assert scaling.attention_scale == pytest.approx(factor, rel=1e-6)
    rotation = rotary(torch.arange(5)[None])
    length = (rotation.cos.square() + rotation.sin.square()).sqrt()
    torch.testing.assert_close(length, torch.full_like(length, factor), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.kind)
def test_the_comparison_notices_a_change_of_any_option(scaling):
    frequencies, factor = theirs(scaling)
    for name, value in dataclasses.asdict(scaling).items():
        if name == "kind" or value is None:
            continue
        other = dataclasses.replace(scaling, **{name: not value if name == "truncate" else value * 2})
        same = equal(RotaryEmbedding(WIDTH, base=BASE, scaling=other).frequencies, frequencies)
        assert not same or other.attention_scale != pytest.approx(factor, rel=1e-6), name
    assert not equal(RotaryEmbedding(WIDTH, base=BASE).frequencies, frequencies)


@pytest.mark.parametrize("length", [100, 131072, 131073, 200_000, 524_288])
def test_dynamic_frequencies_follow_the_length_of_each_sequence_as_in_transformers(length):
    scaling = DynamicNTKScaling(factor=4.0, original_context=131072)
    rotary = RotaryEmbedding(WIDTH, base=BASE, scaling=scaling)
    expected, _ = theirs(scaling, length)
    found = scaling.scale_for(rotary.frequencies, torch.tensor([length, 7]))
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=0)
    assert torch.equal(found[1], rotary.frequencies)
    assert equal(found[0], rotary.frequencies) == (length <= 131072)


def test_a_long_sequence_does_not_change_the_rotation_of_a_short_one_beside_it():
    rotary = RotaryEmbedding(8, scaling=DynamicNTKScaling(factor=4.0, original_context=16))
    short = torch.arange(12)[None]
    alone, together = rotary(short), rotary(torch.cat([short, short + 40]))
    assert torch.equal(together.cos[:1], alone.cos)
    assert not torch.equal(together.cos[1:], rotary(short + 10).cos)
    plain = RotaryEmbedding(8)(short + 40)
    assert not equal(together.cos[1:], plain.cos)


def test_static_ntk_is_the_larger_base_of_its_definition():
    """With a factor of 1, the dynamic scaling of `transformers` at three times the context is the static one by 3."""
    expected, _ = theirs(DynamicNTKScaling(factor=1.0), 3 * 131072)
    found = RotaryEmbedding(WIDTH, base=BASE, scaling=NTKScaling(factor=3.0)).frequencies
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    same = RotaryEmbedding(WIDTH, base=BASE * 3 ** (WIDTH / (WIDTH - 2))).frequencies
    torch.testing.assert_close(found, same, rtol=1e-5, atol=0)


def test_fast_frequencies_stay_slow_ones_are_divided_and_the_order_is_kept():
    scaling = Llama3Scaling(factor=8.0, original_context=1000)
    frequencies = torch.logspace(0, -5, 50)
    scaled = scaling.scale(frequencies, 1e5)
    turns = 1000 * frequencies / (2 * torch.pi)
    assert torch.equal(scaled[turns > 4], frequencies[turns > 4])
    torch.testing.assert_close(scaled[turns < 1], frequencies[turns < 1] / 8)
    assert (scaled.diff() < 0).all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Llama3Scaling(high_frequency=1.0), r"high_frequency=1.0: must be more than low_frequency=1.0"),
        (lambda: YarnScaling(fast_turns=1.0), r"fast_turns=1.0: must be more than slow_turns=1.0"),
        (lambda: YarnScaling(magnitude=1.0), r"magnitude=1.0: must be given with magnitude_all"),
        (lambda: YarnScaling(attention_factor=0.0), r"attention_factor=0.0: must be positive"),
        (lambda: LinearScaling(factor=0.0), r"factor=0.0: must be positive"),
    ],
)
def test_nonsensical_options_are_refused(made, message):
    with pytest.raises(UserError, match=message):
        made()


@pytest.mark.parametrize("scaling", [*SCALINGS, NTKScaling(), DynamicNTKScaling()], ids=lambda scaling: scaling.kind)
def test_a_file_names_the_kind_of_its_scaling(scaling):
    options = dataclasses.asdict(scaling)
    assert build(OurLlamaConfig, {"rotary_scaling": options}).rotary_scaling == scaling


def test_without_a_kind_a_file_means_that_of_llama():
    assert build(OurLlamaConfig, {"rotary_scaling": {"factor": 4.0}}).rotary_scaling == Llama3Scaling(factor=4.0)

"""What every registered family promises: gradients everywhere, determinism, reloading, the published sizes."""

import dataclasses
import types
import typing

import pytest
import torch

from archlab.errors import UserError
from archlab.interop.parity.probes import PROBES
from archlab.models.registry import FAMILIES, family_of, find, find_by_model_type

SIZES = [(family, size) for family in FAMILIES.values() for size in family.sizes]
SEEING = [family for family in FAMILIES.values() if "vision" in family.kind or family.kind in ("clip", "image-text")]
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def made(family, seed=0):
    torch.manual_seed(seed)
    return family.model_class(family.config())


def ask(family, model):
    probe = PROBES[family.kind]
    return probe.ours(model, probe.inputs(model.config, torch.Generator().manual_seed(0)))


@every_family
def test_every_parameter_gets_a_gradient(family):
    model = made(family)
    out = ask(family, model)
    assert out.isfinite().all()
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []


@every_family
def test_a_seed_fixes_the_model_and_its_weights_reload(family):
    one, same, other = made(family), made(family), made(family, seed=1)
    expected = ask(family, one)
    assert torch.equal(ask(family, same), expected)
    assert not torch.equal(ask(family, other), expected)
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(ask(family, other), expected)


@pytest.mark.parametrize("family", SEEING, ids=[family.name for family in SEEING])
def test_a_model_that_sees_has_one_state_per_patch(family):
    model = made(family)
    images = PROBES[family.kind].inputs(model.config, torch.Generator().manual_seed(0))
    images = images[0] if isinstance(images, tuple) else images
    shape = getattr(model.config, "image", model.config)
    patches = images.shape[-2] // shape.patch_size * (images.shape[-1] // shape.patch_size)
    if images.dim() == 5:
        assert model.patch_states(images[:, 0]).shape == (len(images), patches, shape.transformer.width)
        patches *= images.shape[1] // shape.tubelet
    assert model.patch_states(images).shape == (len(images), patches, shape.transformer.width)


@every_family
def test_the_weight_map_names_exactly_the_parameters(family):
    assert family.interop.weights(family.config()).names().keys() == made(family).state_dict().keys()


def values_of(kind):
    """Values that tell the cases of an option's type apart, if it has few."""
    if kind is bool:
        return [True, False]
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    if typing.get_origin(kind) is types.UnionType:
        return [None if case is types.NoneType else case() for case in typing.get_args(kind)]
    return []


def case_of(value):
    """Numbers and sections are one case whatever they hold."""
    return value if value is None or isinstance(value, bool | str) else type(value)


@every_family
def test_parity_is_proven_of_every_choice_that_transformers_has_too(family):
    """Those of an option with few are in the tiny configuration or in a variant, or the reference refuses them."""
    proven = [family.config(), *(family.variant(name).config() for name in family.variants)]
    left = []
    for option, kind in typing.get_type_hints(family.config_class).items():
        for value in values_of(kind):
            if case_of(value) not in {case_of(getattr(config, option)) for config in proven}:
                left.append((option, value))
    for option, value in left:
        with pytest.raises(UserError, match=option):
            family.interop.config_to_hf(dataclasses.replace(family.config(), **{option: value}))


@every_family
def test_a_family_has_at_least_two_planted_bugs(family):
    assert len(family.interop.FAULTS) >= 2


@pytest.mark.parametrize(("family", "size"), SIZES, ids=[size for _, size in SIZES])
def test_a_published_size_has_the_published_number_of_parameters(family, size):
    with torch.device("meta"):
        model = family.model_class(family.config(size))
    assert sum(parameter.numel() for parameter in model.parameters()) == family.sizes[size].parameters


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (lambda: find("lama"), "family 'lama' is unknown; did you mean 'llama'"),
        (lambda: find_by_model_type("gpt_neo"), "model_type 'gpt_neo' is unknown; did you mean 'gpt2'"),
        (lambda: find("gpt2").config("gpt2-x"), "size of gpt2 'gpt2-x' is unknown; did you mean 'gpt2-xl'"),
        (lambda: family_of(torch.nn.Linear(1, 1)), "Linear: belongs to no family"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(look_up, message):
    with pytest.raises(UserError, match=message):
        look_up()

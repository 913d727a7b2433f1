"""What every registered family promises: gradients everywhere, determinism, reloading, the published sizes."""

import pytest
import torch

from archlab.errors import UserError
from archlab.interop.parity.probes import PROBES
from archlab.models.registry import FAMILIES, family_of, find, find_by_model_type

SIZES = [(family, size) for family in FAMILIES.values() for size in family.sizes]
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


@every_family
def test_the_weight_map_names_exactly_the_parameters(family):
    assert family.interop.weights(family.config()).names().keys() == made(family).state_dict().keys()


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

"""Every family equals its reference, every planted bug is noticed, and so is every fault of the checks' own subject."""

import copy
import dataclasses
import json
from typing import get_args

import pytest
import torch

from archlab.errors import UserError
from archlab.interop.parity import run
from archlab.interop.parity.checks import gradients, hidden_states, output, round_trip
from archlab.interop.parity.decoding import cached_decoding, generation, padding_invariance
from archlab.interop.parity.explain import explain
from archlab.interop.parity.results import STATES, Check, Control, FamilyResult, within
from archlab.interop.parity.states import blocks
from archlab.interop.parity.twin import build
from archlab.layers import attention as attention_layer
from archlab.layers import causal
from archlab.layers.attention import Implementation, set_implementation
from archlab.models.families.family import Variant
from archlab.models.registry import FAMILIES, find

FAULTS = [(name, index) for name, family in FAMILIES.items() for index in range(len(family.interop.FAULTS))]
CHECKS = [(name, check) for name, family in FAMILIES.items() for check in run.CHECKS[family.kind]]
EXTRAS = [(name, extra) for name, extras in run.EXTRAS.items() for extra in extras]
IMPLEMENTATIONS = get_args(Implementation)
VARIANTS = [(name, variant) for name, family in FAMILIES.items() for variant in family.variants]
TWINS = {}


def twin_of(name):
    """A copy of the family's twin that a test may change."""
    if name not in TWINS:
        TWINS[name] = build(FAMILIES[name])
    return dataclasses.replace(TWINS[name], model=copy.deepcopy(TWINS[name].model))


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_ours_equals_the_reference(name, check, attention):
    twin = twin_of(name)
    set_implementation(twin.model, attention)
    error, passed, where = run.CHECKS[twin.family.kind][check](twin)
    assert passed, f"{where}: off by {error}"


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_variant_equals_the_reference_and_its_options_are_read(name, variant):
    result = run.family_parity(FAMILIES[name], variant)
    assert [check for check in result.checks if not check.passed] == []
    assert [control for control in result.controls if not control.noticed] == []
    without = FAMILIES[name].variants[variant].without
    assert {check.name for check in result.checks} == run.CHECKS[FAMILIES[name].kind].keys() - without.keys()
    assert [control.attention for control in result.controls] == list(IMPLEMENTATIONS)


def test_options_that_make_no_difference_are_not_said_to_be_read():
    """A variant that says what the tiny configuration says already."""
    family = find("llama")
    same = dataclasses.replace(family, variants={"same": Variant({"tied": False})})
    assert not run.family_parity(same, "same").passed


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "extra"), EXTRAS)
def test_ours_equals_a_reference_that_transformers_lacks_and_bugs_are_noticed(name, extra, attention):
    compared, config = run.EXTRAS[name][extra], FAMILIES[name].config()
    error, passed, where = compared.compare(config, attention)
    assert passed, f"{where}: off by {error}"
    assert len(compared.faults) >= 2
    assert [fault for fault in compared.faults if compared.compare(config, attention, fault)[1]] == []


@pytest.mark.parametrize(("name", "extra"), EXTRAS)
def test_a_comparison_with_another_reference_sees_gradients(name, extra):
    pair = run.EXTRAS[name][extra].build(FAMILIES[name].config())
    pair.layers[-1].register_forward_hook(lambda _, __, out: out + (out.detach() - out) * 0.5)
    _, passed, where = pair.compare()
    assert not passed
    assert where.startswith("gradient of ")


@pytest.mark.parametrize(("name", "index"), FAULTS)
def test_a_planted_bug_is_noticed_and_explained(name, index):
    twin = twin_of(name)
    fault, layers = twin.family.interop.FAULTS[index], blocks(twin)
    fault.plant(twin.model, layers[1:2])
    assert not output(twin)[1]
    found = explain(twin)
    assert found.cause == fault.cause
    assert found.first == (fault.shows or f"output of {twin.family.interop.BLOCKS[0][0]}.1")


@pytest.mark.parametrize(("name", "index"), FAULTS)
def test_a_bug_in_every_layer_is_explained_too(name, index):
    twin = twin_of(name)
    fault = twin.family.interop.FAULTS[index]
    fault.plant(twin.model, blocks(twin))
    assert explain(twin).cause == fault.cause


def test_gradients_notice_a_detached_part():
    twin = twin_of("llama")
    norm = twin.model.norm
    norm.register_forward_hook(lambda _, __, out: out + (out.detach() - out) * 0.5)
    assert output(twin)[1]
    error, passed, where = gradients(twin)
    assert not passed
    assert error > 0
    assert explain(twin, "gradients").cause.startswith("every layer agrees; a part is detached")
    assert where


def test_decoding_notices_positions_that_start_again_after_the_cache(monkeypatch):
    twin = twin_of("gpt2")

    def restart(tokens, **options):
        at = causal.causal_context(tokens, **options)
        return dataclasses.replace(at, positions=at.positions - at.positions[:, :1])

    monkeypatch.setattr("archlab.models.gpt2.causal_context", restart)
    assert hidden_states(twin)[1]
    assert not cached_decoding(twin)[1]
    assert not padding_invariance(twin)[1] or not generation(twin)[1]


def test_padding_that_is_seen_is_noticed(monkeypatch):
    twin = twin_of("llama")

    def blind(tokens, *, mask, cache, limit):
        return causal.causal_context(tokens, mask=None, cache=cache, limit=limit)

    monkeypatch.setattr("archlab.models.llama.causal_context", blind)
    assert hidden_states(twin)[1]
    assert not padding_invariance(twin)[1]


def test_a_map_that_does_not_return_what_it_was_given_is_noticed(monkeypatch):
    twin = twin_of("gpt2")
    assert round_trip(twin)[1]
    monkeypatch.setattr("archlab.interop.transforms.Fused.to_theirs", lambda _, ours: (torch.cat(ours[::-1]),))
    assert round_trip(twin)[1:] == (False, "transformer.h.0.attn.c_attn.weight")


@pytest.mark.parametrize(
    ("name", "edit", "first", "cause"),
    [
        ("llama", lambda model: model.token_embedding.weight, "input of blocks.0", "embeddings"),
        ("llama", lambda model: model.norm.weight, "output of the model", "final norm"),
        ("llama", lambda model: model.blocks[2].attention.k_proj.weight, "output of blocks.2", "agrees: scores"),
        ("gpt2", lambda model: model.blocks[0].feed_forward.up_proj.bias, "output of blocks.0", "differs too: norms"),
        ("vit", lambda model: model.blocks[0].feed_forward.up_proj.bias, "output of blocks.0", "a part of this layer"),
    ],
)
def test_an_unknown_bug_is_described_by_its_pattern(name, edit, first, cause):
    twin = twin_of(name)
    with torch.no_grad():
        edit(twin.model).mul_(1.5)
    found = explain(twin)
    assert found.first == first
    assert cause in found.cause


def test_no_first_token_sees_itself_alone_in_a_bidirectional_model():
    twin = build(find("gemma").variant("bidirectional"))
    with torch.no_grad():
        twin.model.blocks[1].attention.v_proj.weight.mul_(1.5)
    assert "a part of this layer" in explain(twin).cause


def test_nothing_but_equal_is_within_the_tolerance():
    one = torch.ones(3)
    assert within(one, one, STATES) == (0.0, True)
    for other in (one + 1e-3, one * torch.nan, torch.ones(2), torch.tensor([1.0, 1.0, torch.inf])):
        assert not within(one, other, STATES)[1]
        assert not within(other, one, STATES)[1]


def test_a_run_prints_a_table_and_writes_the_results(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "parity.json"
    assert run.run_parity("vit", show_causes=True, out=path)
    (family,) = json.loads(path.read_text())["families"]
    assert (family["family"], family["passed"]) == ("vit", True)
    assert {check["name"] for check in family["checks"]} == set(run.CHECKS["vision"])
    assert {control["attention"] for control in family["controls"]} == set(IMPLEMENTATIONS)
    assert all(control["noticed"] and control["cause"] == control["fault"] for control in family["controls"])
    shown = capsys.readouterr().out
    assert "hidden states" in shown
    assert "likely cause: queries and keys are swapped" in shown


def test_a_narrow_terminal_shows_every_figure(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    checks = [Check(name="output", attention=one, error=1e-6, passed=True, where="") for one in IMPLEMENTATIONS]
    label = {"family": "deepseek", "variant": "not renormalised, all experts"}
    run.print_table([FamilyResult(**label, checks=tuple(checks), controls=(), explanation="")])
    assert ["1.0e-06", "1.0e-06", "equal"] in [line.split()[-3:] for line in capsys.readouterr().out.splitlines()]


def test_a_run_compares_the_variants_too_in_one_row_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run.run_parity("t5", show_causes=True, out=None)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows].count(["t5", "hidden"]) == 1
    assert [row[:5] for row in rows].count(["t5", "(version", "1.0)", "all", "comparisons"]) == 1
    assert ["planted:", "the", "options", "of", "this", "variant", "are", "not", "read"] in rows


def test_a_difference_is_said_with_place_and_cause(monkeypatch, capsys):
    twin = twin_of("gpt2")
    find("gpt2").interop.FAULTS[1].plant(twin.model, blocks(twin)[2:3])
    monkeypatch.setattr(run, "build", lambda family: twin)
    monkeypatch.setenv("COLUMNS", "120")
    assert not run.run_parity("gpt2", show_causes=True, out=None)
    shown = capsys.readouterr().out
    assert "differs: output of blocks.2" in shown
    assert "output of blocks.2 diverges first; likely cause: attention scores are not divided" in shown


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_a_fault_of_one_implementation_alone_is_explained_there(monkeypatch, attention):
    right = getattr(attention_layer, f"{attention}_attention")
    wrong = lambda *given, **options: right(*given, **options | {"scale": 1.0})  # noqa: E731
    monkeypatch.setattr(attention_layer, f"{attention}_attention", wrong)
    result = run.family_parity(find("gpt2"))
    assert {check.attention for check in result.checks if not check.passed} == {attention}
    assert result.explanation == (
        f"{attention} implementation: output of blocks.0 diverges first; "
        "likely cause: attention scores are not divided by the root of the head's width"
    )


def test_bugs_are_planted_in_both_implementations(monkeypatch):
    """One that only fused attention has is noticed there and not in the other."""
    twin = twin_of("gpt2")
    fault = twin.family.interop.FAULTS[1]

    def plant(model, layers):
        fused = [layer for layer in layers if layer.attention.implementation == "fused"]
        fault.plant(model, fused)

    monkeypatch.setattr(twin.family.interop, "FAULTS", (dataclasses.replace(fault, plant=plant),))
    found = {control.attention: control for control in run.controls(twin, {})}
    assert found["fused"].noticed
    assert found["fused"].cause == fault.cause
    assert not found["readable"].noticed


def test_a_fault_that_only_another_reference_shows_is_explained_by_it(monkeypatch):
    (name, extra), *_ = run.EXTRAS["encoder_decoder"].items()

    def faulty(config):
        pair = extra.build(config)
        pair.model.decoder_blocks[1].post_norm = False
        return pair

    broken = dataclasses.replace(extra, build=faulty)
    monkeypatch.setitem(run.EXTRAS, "encoder_decoder", {name: broken})
    result = run.family_parity(find("encoder_decoder"))
    assert {check.name for check in result.checks if not check.passed} == {name}
    assert result.explanation == f"output of decoder_blocks.1 diverges first; likely cause: {extra.cause}"


def test_what_is_said_of_a_bug_in_one_implementation_alone_names_it(capsys):
    both = [Control(fault="a", attention=one, noticed=True, first="here", cause="b") for one in IMPLEMENTATIONS]
    alone = dataclasses.replace(both[1], first="", noticed=False)
    for controls in (both, [both[0], alone]):
        run.print_causes([FamilyResult(family="f", variant="", checks=(), controls=tuple(controls), explanation="")])
    planted = [line.strip() for line in capsys.readouterr().out.splitlines() if "planted" in line]
    assert planted == ["planted: a", "planted (fused implementation): a", "planted (readable implementation): a"]


def test_an_unknown_family_is_refused():
    with pytest.raises(UserError, match="'lama' is unknown; did you mean 'llama'"):
        run.run_parity("lama", show_causes=False, out=None)

"""Mixture of experts: routers, dispatch, balancing."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from archlab.errors import UserError
from archlab.layers.attention import set_implementation
from archlab.layers.moe import MixtureOfExperts, Router, Routing, load_balancing_loss, recorded_routings

WIDTH = 6


@st.composite
def routers(draw):
    """Any router: both kinds of scores, groups, correction, weights as they are or renormalised."""
    groups, size = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    chosen_groups = draw(st.integers(1, groups))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    router = Router(
        WIDTH,
        groups * size,
        draw(st.integers(1, chosen_groups * size)),
        scores=draw(st.sampled_from(["softmax", "sigmoid"])),
        renormalise=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        groups=groups,
        chosen_groups=chosen_groups,
        corrected=draw(st.booleans()),
    )
    if router.correction is not None:
        router.correction.normal_()
    return router


@given(routers(), st.integers(1, 9))
def test_every_token_gets_different_experts_and_weights_that_add_up(router, tokens):
    routing = router(torch.randn(tokens, WIDTH))
    assert routing.experts.shape == routing.weights.shape == (tokens, router.chosen)
    assert all(len(set(row)) == router.chosen for row in routing.experts.tolist())
    assert (routing.weights >= 0).all()
    if router.renormalise:
        torch.testing.assert_close(routing.weights.sum(-1), torch.full((tokens,), router.scale))
    else:
        torch.testing.assert_close(routing.weights, router.scale * routing.scores.gather(1, routing.experts))


@given(routers(), st.integers(1, 9))
def test_only_experts_of_the_best_groups_are_chosen(router, tokens):
    routing = router(torch.randn(tokens, WIDTH))
    size = len(router.weight) // router.groups
    assert all(len({e // size for e in row}) <= router.chosen_groups for row in routing.experts.tolist())
    correction = 0 if router.correction is None else router.correction
    preference = routing.scores + correction
    for token, row in enumerate(routing.experts.tolist()):
        groups = [sorted(group.tolist(), reverse=True)[:2] for group in preference[token].split(size)]
        best = sorted(range(router.groups), key=lambda g, groups=groups: -sum(groups[g]))[: router.chosen_groups]
        reach = [e for g in best for e in range(g * size, (g + 1) * size)]
        expected = sorted(reach, key=lambda e, token=token: -preference[token, e])[: router.chosen]
        assert set(row) == set(expected)


@given(routers(), st.integers(2, 9))
def test_a_token_is_routed_alike_wherever_it_stands(router, tokens):
    x, order = torch.randn(tokens, WIDTH), torch.randperm(tokens)
    whole, shuffled, alone = router(x), router(x[order]), router(x[:1])
    assert torch.equal(shuffled.experts, whole.experts[order])
    torch.testing.assert_close(shuffled.weights, whole.weights[order])
    assert torch.equal(alone.experts, whole.experts[:1])


@given(routers(), st.integers(1, 9))
def test_the_names_of_the_experts_do_not_matter(router, tokens):
    """Experts may be renamed within their groups, and groups among themselves."""
    size = len(router.weight) // router.groups
    order = torch.cat([group * size + torch.randperm(size) for group in torch.randperm(router.groups)])
    renamed = copy.deepcopy(router)
    renamed.weight.data = router.weight.data[order]
    if router.correction is not None:
        renamed.correction = router.correction[order]
    x = torch.randn(tokens, WIDTH)
    routing, other = router(x), renamed(x)
    back = [dict(zip(row, w, strict=True)) for row, w in zip(order[other.experts].tolist(), other.weights, strict=True)]
    for token, row in enumerate(routing.experts.tolist()):
        assert back[token].keys() == set(row)
        torch.testing.assert_close(torch.stack([back[token][e] for e in row]), routing.weights[token])


@pytest.mark.parametrize("renormalise", [True, False])
def test_a_router_is_the_one_of_deepseek_v3(renormalise):
    torch.manual_seed(0)
    router = Router(
        WIDTH,
        8,
        3,
        scores="sigmoid",
        renormalise=renormalise,
        scale=2.5,
        groups=4,
        chosen_groups=2,
        corrected=True,
    )
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        norm_topk_prob=renormalise,
    )
    theirs = DeepseekV3TopkRouter(config)
    theirs.weight.data = router.weight.data
    theirs.e_score_correction_bias.normal_()
    router.correction.copy_(theirs.e_score_correction_bias)
    x = torch.randn(50, WIDTH)
    routing, (_, weights, experts) = router(x), theirs(x)
    dense = torch.zeros(50, 8)
    torch.testing.assert_close(dense.scatter(1, routing.experts, routing.weights), dense.scatter(1, experts, weights))


def test_the_correction_chooses_but_does_not_weigh():
    router = Router(WIDTH, 4, 2, scores="sigmoid", renormalise=False, corrected=True)
    x = torch.randn(5, WIDTH)
    router.correction.copy_(torch.tensor([-9.0, 9.0, -9.0, 9.0]))
    routing = router(x)
    assert (routing.experts.sort(-1).values == torch.tensor([1, 3])).all()
    torch.testing.assert_close(routing.weights, routing.scores.gather(1, routing.experts))
    torch.testing.assert_close(routing.scores, F.linear(x, router.weight).sigmoid())


@given(routers(), st.sampled_from([0, 5]), st.integers(1, 3), st.integers(1, 4))
def test_sorted_dispatch_equals_asking_every_expert_about_every_token(router, shared, samples, tokens):
    fused = MixtureOfExperts(WIDTH, 4, router, shared_hidden=shared)
    readable = copy.deepcopy(fused)
    set_implementation(readable, "readable")
    x, upstream = torch.randn(samples, tokens, WIDTH), torch.randn(samples, tokens, WIDTH)
    results = []
    for layer in (fused, readable):
        inputs = x.clone().requires_grad_()
        out = layer(inputs)
        out.backward(upstream)
        results.append([out, inputs.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(routers(), st.sampled_from([0, 5]), st.integers(1, 9))
def test_as_it_is_compiled_a_mixture_says_the_same(router, shared, tokens):
    layer = MixtureOfExperts(WIDTH, 4, router, shared_hidden=shared)
    x = torch.randn(1, tokens, WIDTH)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = layer(x)
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        patch.setattr(layer, "_grouped", None)  # its sizes depend on values
        few = tokens * router.chosen <= len(router.weight)
        patch.setattr(layer, "_dense" if few else "_chosen", None)  # asks no more experts than it must, nor copies more
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_mixture_is_what_the_paper_says():
    torch.manual_seed(0)
    layer = MixtureOfExperts(WIDTH, 4, Router(WIDTH, 5, 2), shared_hidden=3)
    x = torch.randn(7, WIDTH)
    expected = []
    for token in x:
        scores = torch.stack([row @ token for row in layer.router.weight]).softmax(0)
        best = scores.argsort(descending=True)[:2]
        out = layer.shared(token)
        for e in best:
            gate, up, down = (part.weight[e] for part in (layer.gate_proj, layer.up_proj, layer.down_proj))
            out = out + scores[e] / scores[best].sum() * (down @ (F.silu(gate @ token) * (up @ token)))
        expected.append(out)
    torch.testing.assert_close(layer(x), torch.stack(expected))


@given(routers(), st.integers(1, 9))
def test_no_token_is_dropped_and_none_changes_another(router, tokens):
    """Even if all go to the same experts: there is no capacity."""
    layer = MixtureOfExperts(WIDTH, 4, router)
    x = torch.randn(1, tokens, WIDTH)
    out = layer(x)
    alone = torch.cat([layer(x[:, t : t + 1]) for t in range(tokens)], 1)
    torch.testing.assert_close(out, alone, rtol=1e-4, atol=1e-5)
    crowd = layer(x[:, :1].expand(-1, 50, -1))
    torch.testing.assert_close(crowd, out[:, :1].expand(-1, 50, -1), rtol=1e-4, atol=1e-5)
    assert router(x[0]).load().sum() == tokens * router.chosen


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_the_balancing_loss_and_its_gradient_are_those_of_transformers(seed, layers, chosen, masked):
    torch.manual_seed(seed)
    x, mask = torch.randn(10, WIDTH), torch.rand(2, 5) > 0.3
    mask[0, 0] = True
    routers = [Router(WIDTH, 4, chosen) for _ in range(layers)]
    ours = load_balancing_loss([router(x) for router in routers], mask if masked else None)
    mine = torch.autograd.grad(ours, [router.weight for router in routers])
    logits = tuple(F.linear(x, router.weight) for router in routers)
    theirs = load_balancing_loss_func(logits, 4, chosen, mask.long() if masked else None)
    yours = torch.autograd.grad(theirs, [router.weight for router in routers])
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(mine, yours, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_balancing_loss_of_equal_scores_is_the_number_of_chosen_experts(scale):
    """Of scores as of sigmoids, which need not add up to one, as well."""
    routing = Routing(torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), 0.5), torch.full((2, 4), scale))
    torch.testing.assert_close(load_balancing_loss([routing]), torch.tensor(2.0))


@pytest.mark.parametrize("implementation", ["fused", "readable"])
def test_half_precision_rounds_neither_scores_nor_corrections(implementation):
    torch.manual_seed(0)
    layer = MixtureOfExperts(WIDTH, 4, Router(WIDTH, 8, 2, scores="sigmoid", corrected=True), shared_hidden=4)
    set_implementation(layer, implementation)
    correction = torch.randn(8)
    layer.router.correction.copy_(correction)
    x = torch.randn(50, WIDTH).bfloat16()
    expected = layer.bfloat16().float()(x.float())  # the weights are rounded, the arithmetic is not
    out = layer.bfloat16()(x)
    assert torch.equal(layer.router.correction, correction)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_rebalancing_follows_the_sign_of_the_missing_load():
    router = Router(WIDTH, 4, 1, corrected=True)
    router.rebalance(torch.tensor([4, 0, 2, 2]), 0.1)
    torch.testing.assert_close(router.correction, torch.tensor([-0.1, 0.1, 0.0, 0.0]))


def test_rebalancing_evens_out_the_load():
    torch.manual_seed(0)
    router = Router(WIDTH, 8, 2, scores="sigmoid", corrected=True)
    x = torch.randn(500, WIDTH) + 1.0  # a common direction: some experts are everyone's favourites

    def imbalance():
        load = router(x).load().float()
        return float(load.max() / load.mean())

    before = imbalance()
    for _ in range(300):
        router.rebalance(router(x).load(), 0.01)
    assert before > 1.5
    assert imbalance() < 1.1


def test_routings_are_recorded_within_the_context_only():
    layers = torch.nn.Sequential(*(MixtureOfExperts(WIDTH, 4, Router(WIDTH, 3, 1)) for _ in range(2)))
    x = torch.randn(2, 5, WIDTH)
    with recorded_routings(layers) as found:
        layers(x)
    layers(x)
    assert [routing.experts.shape for routing in found] == [(10, 1), (10, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 6, "chosen": 7}, "chosen_experts=7: must be at most the 6"),
        ({"experts": 6, "chosen": 1, "groups": 4}, "groups=4: must divide the 6 experts"),
        ({"experts": 6, "chosen": 1, "groups": 6}, "groups=6: must divide the 6 experts, two or more"),
        ({"experts": 6, "chosen": 1, "groups": 3, "chosen_groups": 4}, "chosen_groups=4: must be at most groups=3"),
        ({"experts": 6, "chosen": 3, "groups": 3, "chosen_groups": 1}, "chosen_experts=3: must be at most the 2"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Router(WIDTH, **options)

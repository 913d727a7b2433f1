import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.compare.memory import peak_allocation
from archlab.config import ContrastiveConfig
from archlab.objectives import contrastive
from archlab.objectives.contrastive import InfoNCE, info_nce

B, E = 6, 4


def draw(seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, E, generator=generator, requires_grad=requires_grad) for _ in range(2)]


def naive(predicted, target, scale, positive, ignored):
    """Both directions by loops over pairs; `positive` and `ignored` are functions of (prediction, target)."""

    def direction(similarity, positive, ignored):
        total = 0
        for i in range(B):
            others = [j for j in range(B) if not ignored(i, j)]
            denominator = sum(similarity(i, j).exp() for j in others)
            own = [p for p in range(B) if positive(i, p)]
            total = total + sum((denominator.log() - similarity(i, p)) for p in own) / len(own)
        return total / B

    def similarity(i, j):
        return scale * predicted[i] @ target[j] / predicted[i].norm() / target[j].norm()

    return (
        direction(similarity, positive, ignored),
        direction(lambda j, i: similarity(i, j), lambda j, i: positive(i, j), lambda j, i: ignored(i, j)),
    )


def objective(positives, predicted, target, meaning=None, text=None, temperature=0.2):
    meaning = list(range(B)) if meaning is None else meaning
    batch = SimpleNamespace(meaning=torch.tensor(meaning), text=torch.tensor(meaning if text is None else text))
    loss = InfoNCE(ContrastiveConfig(positives=positives, temperature=temperature))
    return loss(SimpleNamespace(embed=lambda _: (predicted, target)), batch)


@given(st.integers(0, 2**16), st.floats(0.1, 20))
def test_equals_loops_in_both_directions_and_in_gradients(seed, scale):
    """Positives and ignored pairs are not symmetric here, so that a transposed matrix or a lost direction shows."""
    torch.manual_seed(seed)
    positives = (torch.rand(B, B) < 0.3) | torch.eye(B, dtype=torch.bool)
    ignore = (torch.rand(B, B) < 0.3) & ~positives
    predicted, target = draw(seed, requires_grad=True)
    ours = info_nce(predicted, target, scale, positives, ignore)
    theirs = naive(predicted, target, scale, lambda i, j: positives[i, j], lambda i, j: ignore[i, j])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = torch.rand(2)
    gradients = [
        torch.autograd.grad(weights[0] * one + weights[1] * other, (predicted, target)) for one, other in (ours, theirs)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positives", ["none", "meaning"])
def test_equal_logits_cost_the_logarithm_of_the_batch(positives):
    same = torch.randn(1, E).expand(B, E)
    output = objective(positives, same, same, meaning=[0, 0, 1, 2, 2, 2])
    for value in (output.loss, output.parts["predicted_to_target"], output.parts["target_to_predicted"]):
        torch.testing.assert_close(value, torch.tensor(math.log(B)))


def test_the_kinds_of_positives_agree_on_distinct_targets():
    predicted, target = draw()
    losses = [objective(kind, predicted, target).loss for kind in ("none", "text", "meaning")]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])
    wanted = info_nce(predicted, target, 5.0)
    torch.testing.assert_close(losses[0], (wanted[0] + wanted[1]) / 2)


def test_none_takes_only_the_own_target():
    predicted, target = draw()
    output = objective("none", predicted, target, meaning=[0, 0, 1, 1, 2, 3])
    expected = naive(predicted, target, 5.0, lambda i, j: i == j, lambda i, j: False)
    torch.testing.assert_close(output.loss, (expected[0] + expected[1]) / 2)


def test_text_leaves_out_equal_strings():
    predicted, target = draw()
    text = [0, 0, 1, 2, 1, 0]
    output = objective("text", predicted, target, meaning=[0] * B, text=text)
    expected = naive(predicted, target, 5.0, lambda i, j: i == j, lambda i, j: i != j and text[i] == text[j])
    torch.testing.assert_close(output.loss, (expected[0] + expected[1]) / 2)


def test_meaning_takes_every_paraphrase_and_unknown_meanings_stand_alone():
    predicted, target = draw()
    meaning = [0, 0, -1, 2, 0, -1]
    output = objective("meaning", predicted, target, meaning=meaning, text=list(range(B)))

    def positive(i, j):
        return i == j or (meaning[i] == meaning[j] != -1)

    expected = naive(predicted, target, 5.0, positive, lambda i, j: False)
    torch.testing.assert_close(output.parts["predicted_to_target"], expected[0])
    torch.testing.assert_close(output.parts["target_to_predicted"], expected[1])
    torch.testing.assert_close(output.loss, (expected[0] + expected[1]) / 2)


@given(st.permutations(range(B)), st.lists(st.integers(-1, 2), min_size=B, max_size=B))
def test_the_order_of_the_batch_does_not_matter(order, meaning):
    predicted, target = draw()
    shuffled = [meaning[i] for i in order]
    for kind in ("none", "text", "meaning"):
        before = objective(kind, predicted, target, meaning=meaning).loss
        after = objective(kind, predicted[order], target[order], meaning=shuffled).loss
        torch.testing.assert_close(before, after)


def test_exchanging_predictions_and_targets_exchanges_the_directions():
    predicted, target = draw()
    meaning = [0, 0, 1, 1, 2, 3]
    one, other = (objective("meaning", *pair, meaning=meaning) for pair in ((predicted, target), (target, predicted)))
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.parts["predicted_to_target"], other.parts["target_to_predicted"])
    assert one.parts["predicted_to_target"] != one.parts["target_to_predicted"]


def test_only_directions_matter():
    predicted, target = draw()
    torch.testing.assert_close(
        objective("none", predicted * 7, target * 0.1).loss, objective("none", predicted, target).loss
    )


def test_perfect_predictions_approach_zero_loss_at_low_temperature():
    target = torch.eye(B)
    assert objective("none", target, target, temperature=0.01).loss < 1e-6
    assert objective("none", target.roll(1, 0), target, temperature=0.01).loss > 50


def test_temperature_is_learned_stops_at_one_hundredth_and_can_come_back():
    loss = InfoNCE(ContrastiveConfig(temperature=0.07))
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [()]
    predicted, target = draw()
    model = SimpleNamespace(embed=lambda _: (predicted, target))
    batch = SimpleNamespace(meaning=torch.arange(B), text=torch.arange(B))
    output = loss(model, batch)
    torch.testing.assert_close(output.parts["temperature"], torch.tensor(0.07))
    loss.log_scale.data.fill_(9.0)  # beyond the limit after an optimiser's step
    output = loss(model, batch)
    torch.testing.assert_close(output.parts["temperature"], torch.tensor(0.01))
    output.loss.backward()
    assert loss.log_scale.grad > 0  # random predictions want a higher temperature


def test_embeddings_for_the_collapse_watch_carry_no_gradient():
    predicted, target = draw(requires_grad=True)
    output = objective("meaning", predicted, target)
    assert torch.equal(output.embeddings["predicted"], predicted)
    assert torch.equal(output.embeddings["target"], target)
    assert not any(value.requires_grad for value in (*output.embeddings.values(), *output.parts.values()))


def test_a_few_steps_on_one_batch_match_predictions_to_targets():
    predicted, target = draw(requires_grad=True)
    optimizer = torch.optim.Adam([predicted], lr=0.1)
    first = last = None
    for _ in range(60):
        last = objective("none", predicted, target.detach()).loss
        first = last if first is None else first
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
    assert last < 0.6 * first
    similarity = torch.nn.functional.normalize(predicted, dim=1) @ torch.nn.functional.normalize(target, dim=1).T
    assert torch.equal(similarity.argmax(1), torch.arange(B))


def test_logits_are_float32_under_autocast():
    predicted, target = draw()
    exact = objective("none", predicted, target, temperature=0.01).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective("none", predicted, target, temperature=0.01).loss
    assert torch.equal(exact, rounded)


@pytest.mark.parametrize("positives", ["none", "text", "meaning"])
@pytest.mark.parametrize("limit", [1, 2 * B, 4 * B])
def test_in_blocks_of_any_size_loss_and_gradients_are_the_same(monkeypatch, positives, limit):
    """Of one row, of two, and of four with two left over."""
    results = []
    for most in (B * B, limit):
        monkeypatch.setattr(contrastive, "MAX_SIMILARITIES", most)
        predicted, target = draw(requires_grad=True)
        loss = InfoNCE(ContrastiveConfig(positives=positives))
        batch = SimpleNamespace(meaning=torch.tensor([0, 0, -1, 2, 0, -1]), text=torch.tensor([0, 0, 1, 2, 1, 0]))
        output = loss(SimpleNamespace(embed=lambda _, pair=(predicted, target): pair), batch)
        output.loss.backward()
        results.append([output.loss, *output.parts.values(), predicted.grad, target.grad, loss.log_scale.grad])
    for whole, in_blocks in zip(*results, strict=True):
        torch.testing.assert_close(in_blocks, whole, rtol=1e-5, atol=1e-7)


def test_in_blocks_memory_does_not_grow_with_the_square_of_the_batch(monkeypatch):
    def peak(samples, limit):
        monkeypatch.setattr(contrastive, "MAX_SIMILARITIES", limit)
        predicted, target = (torch.randn(samples, E, requires_grad=True) for _ in range(2))
        model = SimpleNamespace(embed=lambda _: (predicted, target))
        batch = SimpleNamespace(meaning=torch.arange(samples), text=torch.arange(samples))
        return peak_allocation(lambda: InfoNCE(ContrastiveConfig())(model, batch).loss.backward(), torch.device("cpu"))

    limit = 2**11
    matrix = 4 * 512**2  # bytes of all similarities of 512 samples
    assert peak(512, matrix) > 3 * matrix  # it is kept, and its gradient is made
    assert peak(512, limit) < matrix / 4
    assert peak(512, limit) < 3 * peak(256, limit)

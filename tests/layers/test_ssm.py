"""Both scans are the recurrence, any chunking is the whole, and the memory of a state does not grow."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archlab.errors import UserError
from archlab.layers.attention import set_implementation
from archlab.layers.ssm import MambaMixer, MambaState, parallel_scan, recurrent_scan

IMPLEMENTATIONS = ["fused", "readable"]


def mixer(seed=0, implementation="fused"):
    torch.manual_seed(seed)
    made = MambaMixer(6, 8, state_size=3, step_rank=2, kernel=3, implementation=implementation)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@given(length=st.integers(1, 40), seed=st.integers(0, 2**16), strength=st.sampled_from([0.01, 1.0, 100.0]))
def test_both_scans_give_the_same_states_and_gradients(length, seed, strength):
    torch.manual_seed(seed)
    decay = (-strength * torch.rand(2, length, 3, 4)).exp()  # from hardly any to states that are forgotten at once
    given_ = decay, torch.randn(2, length, 3, 4), torch.randn(2, 3, 4)
    upstream, results = torch.randn(2, length, 3, 4), []
    for scan in (parallel_scan, recurrent_scan):
        inputs = [tensor.clone().requires_grad_() for tensor in given_]
        states = scan(*inputs)
        states.backward(upstream)
        results.append([states, *(tensor.grad for tensor in inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_without_decay_the_states_are_running_sums(numbers):
    drive = torch.tensor(numbers).float().view(1, -1, 1, 1)
    states = parallel_scan(torch.ones_like(drive), drive, torch.full((1, 1, 1), 5.0))
    assert states.flatten().tolist() == [5.0 + sum(numbers[: end + 1]) for end in range(len(numbers))]


@given(length=st.integers(1, 12), seed=st.integers(0, 2**16), padding=st.integers(0, 4))
def test_fused_equals_readable_in_outputs_and_gradients(length, seed, padding):
    fused = mixer(seed)
    readable = copy.deepcopy(fused)
    set_implementation(readable, "readable")
    x, upstream = torch.randn(2, length, 6), torch.randn(2, length, 6)
    real = torch.arange(length)[None] >= torch.tensor([[0], [padding]])
    results = []
    for layer in (fused, readable):
        own = x.clone().requires_grad_()
        out = layer(own, real=real)
        out.backward(upstream)
        results.append([out, own.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    padding=st.integers(0, 6),
    implementation=st.sampled_from(IMPLEMENTATIONS),
    seed=st.integers(0, 1000),
)
def test_any_chunking_equals_the_whole_sequence_at_once_and_padding_on_the_left_is_nothing(
    chunks, padding, implementation, seed
):
    layer, length = mixer(seed, implementation), sum(chunks)
    x = torch.randn(2, length, 6)
    real = torch.arange(length)[None] >= torch.tensor([[0], [padding]])
    cache, parts = MambaState(), []
    for part, kept in zip(x.split(chunks, 1), real.split(chunks, 1), strict=True):
        parts.append(layer(part, real=kept, cache=cache))
    assert cache.length == length
    found = torch.cat(parts, 1)
    torch.testing.assert_close(found[0], layer(x)[0], rtol=1e-4, atol=1e-5)
    if padding < length:
        torch.testing.assert_close(found[1:, padding:], layer(x[1:, padding:]), rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_a_state():
    layer, x, results = mixer(), torch.randn(1, 7, 6), []
    for chunks in ([7], [3, 2, 2]):
        own, cache = x.clone().requires_grad_(), MambaState()
        torch.cat([layer(part, cache=cache) for part in own.split(chunks, 1)], 1).square().sum().backward()
        results.append(own.grad)
    torch.testing.assert_close(*results)


@torch.no_grad()
def test_the_memory_of_a_state_does_not_grow():
    layer, cache, sizes = mixer(), MambaState(), []
    for length in (1, 50, 3):
        layer(torch.randn(2, length, 6), cache=cache)
        sizes.append([tensor.untyped_storage().nbytes() for tensor in cache.read()])
    assert sizes == [[4 * 2 * 2 * 8, 4 * 2 * 8 * 3]] * 3


@torch.no_grad()
def test_an_expanded_state_serves_every_candidate_and_leaves_the_original():
    layer, prefix, candidates = mixer(), torch.randn(2, 4, 6), torch.randn(2, 3, 5, 6)
    cache = MambaState()
    layer(prefix, cache=cache)
    assert MambaState().expand(3).length == 0
    together = layer(candidates.flatten(0, 1), cache=cache.expand(3)).unflatten(0, (2, 3))
    assert cache.length == 4
    for candidate in range(3):
        whole = layer(torch.cat([prefix, candidates[:, candidate]], 1))
        torch.testing.assert_close(together[:, candidate], whole[:, 4:])


@torch.no_grad()
def test_a_state_cannot_go_back_but_to_the_beginning():
    layer, x, cache = mixer(), torch.randn(2, 4, 6), MambaState()
    out = layer(x, cache=cache)
    cache.crop(4)
    with pytest.raises(UserError, match="length=3: a recurrent state of 4 tokens cannot go back"):
        cache.crop(3)
    cache.crop(0)
    assert torch.equal(layer(x, cache=cache), out)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_autocast_stays_close_to_float32(implementation):
    layer, x = mixer(implementation=implementation), torch.randn(2, 9, 6, requires_grad=True)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1 * exact.abs().max().item())
    rounded.float().square().sum().backward()
    assert x.grad.isfinite().all()

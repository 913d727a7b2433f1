"""What Mamba does beyond the checks of every family."""

import itertools

import pytest
import torch

from archlab.errors import UserError
from archlab.interop.parity.decoding import padding_invariance
from archlab.interop.parity.states import states
from archlab.interop.parity.twin import build
from archlab.models.mamba import Mamba, MambaConfig
from archlab.models.registry import find

TOKENS = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def twin():
    return build(find("mamba"))


def test_every_layer_changes_the_stream_enough_to_be_compared(twin):
    found = states(twin)[:-1]
    for before, after in itertools.pairwise(found):
        assert (after.ours - before.ours).std() > 0.1 * before.ours.std()


@torch.no_grad()
def test_left_padded_batches_read_as_transformers_reads_them(twin):
    mask = torch.arange(12)[None] >= torch.tensor([[0], [5]])
    expected = twin.reference(input_ids=TOKENS, attention_mask=mask.long(), use_cache=False).logits
    torch.testing.assert_close(twin.model(TOKENS, mask=mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_padding_that_is_read_is_noticed(twin, monkeypatch):
    assert padding_invariance(twin)[1]
    monkeypatch.setattr("archlab.models.mamba._real", lambda tokens, *_: torch.ones_like(tokens, dtype=torch.bool))
    assert not padding_invariance(twin)[1]


def test_padding_between_real_tokens_is_refused(twin):
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 6] = False
    with pytest.raises(UserError, match="mask: padding between real tokens"):
        twin.model(TOKENS, mask=mask)
    cache, right = twin.model.new_cache(), torch.arange(6)[None] < torch.tensor([[6], [4]])
    twin.model(TOKENS[:, :6], mask=right, cache=cache)
    with pytest.raises(UserError, match="mask: padding between real tokens"):
        twin.model(TOKENS[:, 6:], mask=torch.cat([right, torch.ones(2, 6, dtype=torch.bool)], 1), cache=cache)


@torch.no_grad()
def test_the_stream_stays_in_float32_under_bfloat16_weights():
    twin = build(find("mamba"))
    twin.model.bfloat16()
    twin.reference.bfloat16()
    found = states(twin)
    assert all(state.ours.dtype == state.theirs.dtype == torch.float32 for state in found[1:-1])
    for state in found:
        torch.testing.assert_close(state.ours.float(), state.theirs.float(), rtol=0.05, atol=0.05)


def test_a_new_model_starts_with_the_decays_and_steps_of_the_paper():
    torch.manual_seed(0)
    mixer = Mamba(MambaConfig(vocab_size=5, width=64, depth=1)).blocks[0].mixer
    torch.testing.assert_close(mixer.log_decay.exp(), torch.arange(1.0, 17.0).expand(128, 16))
    assert (mixer.skip == 1).all()
    steps = torch.nn.functional.softplus(mixer.step_proj.bias)
    assert 0.00099 < steps.min() < 0.0015
    assert 0.07 < steps.max() < 0.101

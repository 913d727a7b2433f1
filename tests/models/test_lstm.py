from __future__ import annotations

import pytest
import torch

from archlab.errors import UserError
from archlab.models.lstm import LSTMConfig, LSTMTranslator

BOTH = pytest.mark.parametrize("attention", [False, True], ids=["without attention", "with attention"])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
SOURCE = torch.randint(3, 20, (3, 5), generator=torch.Generator().manual_seed(0)) * MASK
TARGET = torch.randint(3, 20, (3, 6), generator=torch.Generator().manual_seed(1))


def model(attention: bool) -> LSTMTranslator:
    torch.manual_seed(0)
    return LSTMTranslator(LSTMConfig(vocab_size=20, width=16, depth=2, attention=attention)).eval()


@BOTH
def test_source_padding_changes_nothing(attention: bool) -> None:
    logits = model(attention)(SOURCE, TARGET, source_mask=MASK)
    for row, length in enumerate(MASK.sum(1)):
        alone = model(attention)(SOURCE[row : row + 1, :length], TARGET[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone)
    other = SOURCE.masked_fill(~MASK, 7)
    assert torch.equal(model(attention)(other, TARGET, source_mask=MASK), logits)
    assert not torch.allclose(model(attention)(other, TARGET), logits)  # without the mask it does


@BOTH
def test_no_logit_knows_a_later_token_and_every_one_knows_the_source(attention: bool) -> None:
    ours = model(attention)
    logits = ours(SOURCE, TARGET, source_mask=MASK)
    changed = TARGET.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 17 + 3
    after = ours(SOURCE, changed, source_mask=MASK)
    assert torch.equal(after[:, :3], logits[:, :3])
    assert not torch.allclose(after[:, 3:], logits[:, 3:])
    source = SOURCE.clone()
    source[:, 0] = (source[:, 0] + 1) % 17 + 3
    assert (ours(source, TARGET, source_mask=MASK) != logits).any(-1).all()


@BOTH
@pytest.mark.parametrize("chunks", [[1] * 6, [2, 1, 3], [6]])
def test_decoding_in_chunks_gives_the_same_logits(attention: bool, chunks: list[int]) -> None:
    ours = model(attention)
    memory, cache = ours.encode(SOURCE, mask=MASK), ours.new_cache()
    parts = [ours.decode(part, memory, memory_mask=MASK, cache=cache) for part in TARGET.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), ours(SOURCE, TARGET, source_mask=MASK))
    assert cache[0].length == 6


@BOTH
def test_a_selected_state_goes_on_as_its_sample_would(attention: bool) -> None:
    ours = model(attention)
    memory, cache = ours.encode(SOURCE, mask=MASK), ours.new_cache()
    ours.decode(TARGET[:, :3], memory, memory_mask=MASK, cache=cache)
    rows = torch.tensor([2, 0, 0, 1])
    cache[0].select(rows)
    after = ours.decode(TARGET[rows, 3:], memory[rows], memory_mask=MASK[rows], cache=cache)
    torch.testing.assert_close(after, ours(SOURCE, TARGET, source_mask=MASK)[rows, 3:])


def test_attention_weights_add_up_to_one_and_padding_gets_none() -> None:
    ours = model(True)
    assert ours.attention is not None
    read, weights = ours.attention(torch.randn(3, 4, 16), ours.encode(SOURCE, mask=MASK), MASK)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    assert (weights.masked_select(~MASK[:, None].expand_as(weights)) == 0).all()
    assert read.shape == (3, 4, 16)


@BOTH
def test_every_parameter_gets_a_gradient(attention: bool) -> None:
    ours = model(attention).train()
    ours(SOURCE, TARGET, source_mask=MASK).square().sum().backward()
    assert [name for name, parameter in ours.named_parameters() if parameter.grad is None] == []


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(UserError, match="width=15: must be even"):
        LSTMConfig(width=15)

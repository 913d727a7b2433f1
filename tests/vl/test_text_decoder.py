from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from archlab.data.batch import Batch
from archlab.vl.text_decoder import TextDecoder

BOS = 1


@pytest.fixture
def decoder(make: Callable[..., Any]) -> TextDecoder:
    return make("vljepa").decoder


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(4, 12, generator=torch.Generator().manual_seed(2))


def test_a_token_depends_on_the_embedding_and_the_tokens_before_it_only(
    decoder: TextDecoder, embeddings: torch.Tensor, batch: Batch
) -> None:
    logits = decoder(embeddings, batch.target, batch.target_mask)
    assert logits.shape == (4, 6, 40)
    for token in range(6):
        changed = batch.target.clone()
        changed[:, token] = 30
        moved = (decoder(embeddings, changed, batch.target_mask) - logits).abs().amax(-1) > 1e-4
        for sample, real in enumerate(batch.target_mask):
            assert moved[sample, real].tolist() == [real[token].item() and i >= token for i in range(real.sum())]
    other = decoder(embeddings.roll(1, 0), batch.target, batch.target_mask)
    assert ((other - logits).abs().amax((1, 2)) > 1e-2).all()


def test_every_part_of_the_unfolded_embedding_is_read(decoder: TextDecoder, embeddings: torch.Tensor) -> None:
    tokens = decoder.unfold_prefix(embeddings).detach().requires_grad_()
    assert tokens.shape == (4, 3, 16)
    decoder.unfold_prefix = lambda _: tokens  # type: ignore[method-assign]
    decoder(embeddings, torch.tensor([[BOS]] * 4), torch.ones(4, 1, dtype=torch.bool)).square().sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad.abs().sum(-1) > 0).all()


def test_only_the_direction_of_an_embedding_speaks(
    decoder: TextDecoder, embeddings: torch.Tensor, batch: Batch
) -> None:
    logits = decoder(embeddings, batch.target, batch.target_mask)
    torch.testing.assert_close(decoder(7 * embeddings, batch.target, batch.target_mask), logits)
    assert not torch.allclose(decoder(-embeddings, batch.target, batch.target_mask), logits, atol=1e-2)


def test_cached_speech_equals_reading_everything_again_for_every_token(
    decoder: TextDecoder, embeddings: torch.Tensor
) -> None:
    with torch.no_grad():
        for parameter in decoder.trunk.parameters():
            parameter.mul_(2)  # untrained, it would only repeat the last token
    said = torch.full((4, 1), BOS)
    for _ in range(8):
        logits = decoder(embeddings, said, torch.ones_like(said, dtype=torch.bool))
        said = torch.cat([said, logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert len(set(said.flatten().tolist())) > 4
    assert torch.equal(decoder.generate(embeddings, 8, BOS, -1), said[:, 1:])


def test_padding_of_the_target_changes_nothing(
    decoder: TextDecoder, embeddings: torch.Tensor, batch: Batch, padded: Callable[..., Batch]
) -> None:
    more = padded(batch, 0, 3)
    logits = decoder(embeddings, batch.target, batch.target_mask)
    torch.testing.assert_close(decoder(embeddings, more.target, more.target_mask)[:, :6], logits)

from __future__ import annotations

import torch

from archlab.layers.attention import set_implementation
from archlab.layers.dropout import set_dropout
from archlab.models.gpt2 import GPT2, GPT2Config

CONFIG = GPT2Config(vocab_size=11, context=8, width=64, depth=1, heads=2, feed_forward=24)
TOKENS = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(0))


def model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(CONFIG)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    plain, dropped = model(), model()
    set_dropout(dropped, 0.5, 0.5)
    assert torch.equal(dropped.eval()(TOKENS), plain.eval()(TOKENS))
    dropped.train()
    assert not torch.equal(dropped(TOKENS), plain(TOKENS))
    assert not torch.equal(dropped(TOKENS), dropped(TOKENS))


def test_at_zero_no_random_number_is_drawn_and_nothing_changes() -> None:
    plain, other = model().train(), model().train()
    set_dropout(other, 0.0)
    before = torch.get_rng_state()
    assert torch.equal(other(TOKENS), plain(TOKENS))
    assert torch.equal(torch.get_rng_state(), before)


def test_embeddings_and_both_residual_results_lose_their_share_and_keep_their_mean() -> None:
    dropped = model().train()
    set_dropout(dropped, 0.3)
    block, seen = dropped.blocks[0], {}
    block.attention_norm.register_forward_pre_hook(lambda module, args: seen.update(embeddings=args[0]))
    block.attention.out_proj.register_forward_hook(lambda module, args, out: seen.update(attention=out))
    block.feed_forward.down_proj.register_forward_hook(lambda module, args, out: seen.update(feed_forward=out))
    torch.manual_seed(1)
    dropped(TOKENS)
    assert seen.keys() == {"embeddings", "attention", "feed_forward"}
    for name, states in seen.items():
        assert abs((states == 0).float().mean().item() - 0.3) < 0.04, name
    embedded = dropped.token_embedding(TOKENS) + dropped.positions[:8]
    kept = seen["embeddings"] != 0
    torch.testing.assert_close(seen["embeddings"][kept], (embedded / 0.7)[kept])


def test_fused_and_readable_attention_drop_the_same_weights_under_the_same_seed() -> None:
    dropped = model().train()
    set_dropout(dropped, 0.0, 0.4)
    results = []
    for implementation in ("fused", "readable"):
        set_implementation(dropped, implementation)  # type: ignore[arg-type]
        torch.manual_seed(2)
        results.append(dropped(TOKENS))
    torch.testing.assert_close(*results)
    assert not torch.allclose(results[0], model()(TOKENS))

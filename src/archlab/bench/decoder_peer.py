"""The same decoder of the registry twice: ours, and that of `transformers`, with equal weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from archlab.bench.pair import pair
from archlab.bench.peer import Contender, Shape, labelled_loss
from archlab.data.text.batch import Tokens
from archlab.objectives.sequence import LanguageModelling


def llama_contenders(shape: Shape, seed: int = 0) -> dict[str, Contender]:
    """Both with tied embeddings, as the token arm has them."""
    return decoder_contenders("llama", shape, seed, key_value_heads=shape.stack.heads, tied=True)


def decoder_contenders(family: str, shape: Shape, seed: int, **options: Any) -> dict[str, Contender]:
    """Both with the same batch of random tokens, without dropout.

    Args:
        family: of the registry.
        options: of its configuration, beside those of the shape.
    """
    ours, theirs = pair(family, shape.options() | options, seed)
    tokens = shape.random_tokens(seed)
    return {
        "archlab": language_model(ours, tokens),
        "transformers": Contender(theirs.train(), lambda: labelled_loss(theirs, tokens)),
    }


def language_model(model: Any, tokens: Tensor) -> Contender:
    """A model (B, T) -> (B, T, V) that is trained on tokens (B, T + 1)."""
    batch, objective = Tokens(tokens), LanguageModelling()
    return Contender(model.train(), lambda: objective(model, batch).loss)

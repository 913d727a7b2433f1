"""The same LLaMA twice: ours, and that of `transformers`, with equal weights."""

from __future__ import annotations

from archlab.bench.pair import pair
from archlab.bench.peer import Contender, Shape, labelled_loss
from archlab.data.text.batch import Tokens
from archlab.objectives.sequence import LanguageModelling


def llama_contenders(shape: Shape, seed: int = 0) -> dict[str, Contender]:
    """Both with the same batch of random tokens; with tied embeddings, as the token arm has them."""
    stack = shape.stack
    options = {
        "vocab_size": shape.vocabulary,
        "context": shape.tokens,
        "width": stack.width,
        "depth": stack.depth,
        "heads": stack.heads,
        "key_value_heads": stack.heads,
        "feed_forward": stack.feed_forward,
        "tied": True,
    }
    ours, theirs = pair("llama", options, seed)
    tokens = shape.random_tokens(seed)
    batch, objective = Tokens(tokens), LanguageModelling()
    return {
        "archlab": Contender(ours.train(), lambda: objective(ours, batch).loss),
        "transformers": Contender(theirs.train(), lambda: labelled_loss(theirs, tokens)),
    }

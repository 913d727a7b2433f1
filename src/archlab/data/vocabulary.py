"""The vocabulary of a run: learnt from training texts, the same at every setting of the paraphrase dial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archlab.data.example import Example
from archlab.data.scenes.language import in_all_forms
from archlab.data.tokenizer import TextTokenizer

_EXAMPLES = 4000  # a byte-pair vocabulary is stable long before this many
_SEED = 0


def learn_vocabulary(examples: Sequence[Example], vocab_size: int) -> TextTokenizer:
    """A tokenizer of examples that are drawn at random: their order has a period, that of the texts of one image.

    Built-in scenes are read in all forms that training may have, whatever the dial says: runs that hear fewer of them
    must not spell them otherwise, nor have a smaller table of tokens.
    """
    drawn = np.random.default_rng(_SEED).permutation(len(examples))[:_EXAMPLES]
    chosen = (examples[row] for row in drawn)
    texts = (text for one in chosen for forms in (one.queries, one.targets) for text in in_all_forms(forms))
    return TextTokenizer.train(texts, vocab_size)

"""One encoder-decoder three times: ours, Marian of `transformers`, and `nn.Transformer`, all with equal weights."""

from __future__ import annotations

from typing import Any

import torch

from archlab.bench.pair import pair
from archlab.bench.peer import Contender, Shape
from archlab.data.text.batch import Pairs
from archlab.interop.torch_translator import torch_copy
from archlab.objectives.sequence import Translation


def translator_contenders(shape: Shape, seed: int = 0) -> dict[str, Contender]:
    """All three models with equal weights and the same batch of random tokens, without dropout.

    All get what the recipe `translation` gives: the mask of the sources, which here leaves nothing out.
    """
    options = shape.options() | {"decoder_depth": shape.stack.depth}
    ours, theirs = pair("encoder_decoder", options, seed)
    torchs = torch_copy(ours)
    source, target = shape.random_tokens(seed + 1)[:, 1:], shape.random_tokens(seed)
    real = [torch.ones_like(tokens, dtype=torch.bool) for tokens in (source, target)]
    batch, objective = Pairs(source, real[0], target, real[1]), Translation()

    def labelled_loss() -> Any:
        labels = target[:, 1:].contiguous()
        return theirs(
            input_ids=source,
            attention_mask=real[0],
            decoder_input_ids=target[:, :-1],
            labels=labels,
            use_cache=False,
        ).loss

    return {
        "archlab": Contender(ours.train(), lambda: objective(ours, batch).loss),
        "transformers": Contender(theirs.train(), labelled_loss),
        "torch.nn": Contender(torchs.train(), lambda: objective(torchs, batch).loss),
    }

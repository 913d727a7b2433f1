"""The parts of a run that are exported, each a module of tensors in and tensors out.

A stack with a cache becomes two graphs: one reads a prefix and gives its keys and values, one continues it by any
number of tokens: by one when text is decoded, by many when candidates are scored. The keys of all layers lie side by
side along the axis of the heads, so that one `KVCache` keeps them.

Shape legend: B samples, N visual tokens, D features, Q query tokens, P prefix tokens, T new tokens, L layers, H heads,
d width of a head, E embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.layers.block import TransformerStack
from archlab.layers.cache import KVCache
from archlab.layers.embeddings import TokenEmbedding
from archlab.vl.answering import Answerer
from archlab.vl.arms import EmbeddingArm, TokenArm
from archlab.vl.decoding import Prefix
from archlab.vl.encoder import FrozenEncoder

_PREFIX = ("keys", "values", "mask")
_EXAMPLES = ["what colour is it?", "yes"]  # of different lengths, so that there is padding


@dataclass(frozen=True)
class Graph:
    """One graph to export.

    Attributes:
        module: what it computes, called with the inputs in their order.
        inputs: name -> an example.
        dynamic: input -> its axes of any length.
        outputs: their names.
        whitened: whether its last product whitens. That one enlarges what has little variance, and what int8 rounds
            off with it: int8 leaves it as it is.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    whitened: bool = False


class Apply(nn.Module):
    """One method of a module.

    Args:
        owner: whose weights it uses.
        function: tensors to a tensor.
    """

    def __init__(self, owner: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the method gives."""
        return self.function(*inputs)


class Read(nn.Module):
    """A prefix to the keys and values of all layers, (B, L * H, P, d) each, and its mask (B, P).

    Args:
        owner: whose weights it uses.
        function: tensors to the prefix.
    """

    def __init__(self, owner: nn.Module, function: Callable[..., Prefix]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and mask."""
        prefix = self.function(*inputs)
        kept = [cache.read() for cache in prefix.caches if isinstance(cache, KVCache)]
        return torch.cat([keys for keys, _ in kept], 1), torch.cat([values for _, values in kept], 1), prefix.mask


class Continue(nn.Module):
    """Tokens behind a prefix, to logits and to their own keys and values.

    Args:
        stack: that read the prefix.
        embedding: of the tokens, also the output projection.
    """

    def __init__(self, stack: TransformerStack, embedding: TokenEmbedding) -> None:
        super().__init__()
        self.stack, self.embedding = stack, embedding

    def forward(
        self, tokens: Tensor, attend: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, T, V), and keys and values (B, L * H, T, d) of the new tokens.

        Args:
            tokens: ids (B, T); positions: of each (B, T).
            attend: True = may attend, (B, 1, T, P + T).
            keys, values: of the prefix, (B, L * H, P, d).
        """
        caches = [KVCache() for _ in range(self.stack.depth)]
        for cache, *held in zip(caches, keys.chunk(len(caches), 1), values.chunk(len(caches), 1), strict=True):
            cache.append(*held)
        states = self.stack(self.embedding(tokens), mask=attend, positions=positions, caches=caches)
        new = [[part[:, :, keys.shape[2] :] for part in cache.read()] for cache in caches]
        new_keys, new_values = (torch.cat(parts, 1) for parts in zip(*new, strict=True))
        return self.embedding.logits(states), new_keys, new_values


@torch.no_grad()
def graphs_of(answerer: Answerer) -> dict[str, Graph]:
    """The graphs of a run, by name.

    Raises:
        UserError: the encoder is not the project's own, or the token arm is an encoder-decoder.
    """
    arm, encoder = answerer.readout.arm, answerer.encoder
    if not isinstance(encoder, FrozenEncoder):
        raise UserError("export: only runs on the project's own encoders are exported; serve it with the backend torch")
    side = encoder.image_size
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    text, text_mask = map(torch.from_numpy, answerer.tokenizer.encode(_EXAMPLES, answerer.config.tokenizer.max_query))
    request = {"features": encoder.features(images), "query": text, "query_mask": text_mask}
    encode = Apply(encoder.vit, encoder.features)
    graphs = {"encoder": Graph(encode, {"images": images}, {"images": (0,)}, ("out",), whitened=True)}
    if isinstance(arm, EmbeddingArm):
        graphs["predict"] = _of_request(Apply(arm, arm.predict), request, ("out",))
        graphs["text"] = Graph(
            Apply(arm, arm.target_encoder),
            {"text": text, "text_mask": text_mask},
            {"text": (0, 1), "text_mask": (0, 1)},
            ("out",),
        )
        embedding, decoder = arm.predict(*request.values()), arm.decoder
        graphs["read"] = Graph(Read(decoder, decoder.read), {"embedding": embedding}, {"embedding": (0,)}, _PREFIX)
        graphs["continue"] = _continue(decoder.trunk, decoder.token_embedding, decoder.read(embedding))
    elif isinstance(arm, TokenArm):
        backbone = arm.backbone
        graphs["pool"] = _of_request(Apply(arm, arm.pooled), request, ("out",))
        graphs["read"] = _of_request(Read(arm, arm.read), request, _PREFIX)
        graphs["continue"] = _continue(backbone.trunk, backbone.token_embedding, arm.read(*request.values()))
    else:
        raise UserError("export: an encoder-decoder is not exported; serve this run with the backend torch")
    return graphs


def _of_request(module: nn.Module, request: Mapping[str, Tensor], outputs: tuple[str, ...]) -> Graph:
    return Graph(module, request, dict.fromkeys(request, (0, 1)), outputs)


def _continue(stack: TransformerStack, embedding: TokenEmbedding, prefix: Prefix) -> Graph:
    keys, values, _ = Read(stack, lambda: prefix)()
    (samples, length), new = prefix.mask.shape, 3
    inputs = {
        "tokens": torch.zeros(samples, new, dtype=torch.long),
        "attend": torch.ones(samples, 1, new, length + new, dtype=torch.bool),
        "positions": torch.arange(length, length + new).repeat(samples, 1),
        "keys": keys,
        "values": values,
    }
    dynamic = {"tokens": (0, 1), "attend": (0, 2, 3), "positions": (0, 1), "keys": (0, 2), "values": (0, 2)}
    return Graph(Continue(stack, embedding), inputs, dynamic, ("logits", "new_keys", "new_values"))

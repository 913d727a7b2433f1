"""The parts of a run that are exported, each a module of tensors in and tensors out.

A stack with a cache becomes two graphs: one reads a prefix and gives its keys and values, one continues it by any number
of tokens: by one when text is decoded, by many when candidates are scored. The keys of all layers lie side by side along
the axis of the heads, so that one `KVCache` keeps them.

Shape legend: B samples, N visual tokens, D features, Q query tokens, P prefix tokens, T new tokens, L layers, H heads,
d width of a head, W width, E embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Graph:
    """One graph to export.

    Attributes:
        module: what it computes.
        inputs: name -> an example.
        axes: input -> its dynamic axes, number -> name; equal names are equal lengths.
        outputs: their names.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]


class Encode(nn.Module):
    """The frozen encoder: uint8 images (B, H, W, 3) -> features (B, N, D)."""

    def __init__(self, answerer: Answerer) -> None:
        super().__init__()
        self.vit = answerer.encoder.vit
        self.function: Callable[[Tensor], Tensor] = answerer.encoder.features

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class Apply(nn.Module):
    """One method of a part of an arm."""

    def __init__(self, part: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.part, self.function = part, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Read(nn.Module):
    """A prefix -> keys and values of all layers, (B, L * H, P, d) each, and its mask (B, P)."""

    def __init__(self, part: nn.Module, function: Callable[..., Prefix]) -> None:
        super().__init__()
        self.part, self.function = part, function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prefix = self.function(*inputs)
        keys, values = zip(*(_kept(cache).read() for cache in prefix.caches), strict=True)
        return torch.cat(keys, 1), torch.cat(values, 1), prefix.mask


class Continue(nn.Module):
    """Tokens (B, T) behind a prefix -> logits (B, T, V), and the keys and values of the new tokens, (B, L * H, T, d)."""

    def __init__(self, stack: TransformerStack, embedding: TokenEmbedding) -> None:
        super().__init__()
        self.stack, self.embedding = stack, embedding

    def forward(
        self, tokens: Tensor, attend: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`attend` is the mask (B, 1, T, P + T), `positions` (B, T)."""
        caches = [KVCache() for _ in range(self.stack.depth)]
        for cache, *held in zip(caches, keys.chunk(len(caches), 1), values.chunk(len(caches), 1), strict=True):
            cache.append(*held)
        states = self.stack(self.embedding(tokens), mask=attend, positions=positions, caches=caches)
        new = [[part[:, :, -tokens.shape[1] :] for part in cache.read()] for cache in caches]
        new_keys, new_values = zip(*new, strict=True)
        return self.embedding.logits(states), torch.cat(new_keys, 1), torch.cat(new_values, 1)


def graphs_of(answerer: Answerer) -> dict[str, Graph]:
    """The graphs of a run, by name.

    Raises:
        UserError: the token arm is an encoder-decoder.
    """
    arm = answerer.readout.arm
    side = answerer.encoder.image_size
    images = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    features = answerer.encoder.encode(images).clone()
    ids, mask = map(torch.from_numpy, answerer.tokenizer.encode(["what colour is it?", "yes"], 16))
    request = {"features": features, "query": ids, "query_mask": mask}
    request_axes = {"features": {0: "batch", 1: "visual"}, "query": {0: "batch", 1: "length"}}
    request_axes |= {"query_mask": request_axes["query"]}
    graphs = {"encoder": Graph(Encode(answerer), {"images": images}, {"images": {0: "batch"}}, ("features",))}
    if isinstance(arm, EmbeddingArm):
        text_axes = {name: {0: "batch", 1: "length"} for name in ("text", "text_mask")}
        embedding = arm.predict(*request.values()).detach()
        graphs["predict"] = Graph(Apply(arm, arm.predict), request, request_axes, ("embedding",))
        graphs["text"] = Graph(arm.target_encoder, {"text": ids, "text_mask": mask}, text_axes, ("embedding",))
        graphs["read"] = Graph(
            Read(arm.decoder, arm.decoder.read), {"embedding": embedding}, {"embedding": {0: "batch"}}, _PREFIX
        )
        graphs["continue"] = _continue(arm.decoder.trunk, arm.decoder.token_embedding, arm.decoder.read(embedding))
    elif isinstance(arm, TokenArm):
        graphs["pool"] = Graph(Apply(arm, arm.pooled), request, request_axes, ("embedding",))
        graphs["read"] = Graph(Read(arm, arm.read), request, request_axes, _PREFIX)
        graphs["continue"] = _continue(arm.backbone.trunk, arm.backbone.token_embedding, arm.read(*request.values()))
    else:
        raise UserError("export: an encoder-decoder arm has no graphs here; serve it with the backend torch")
    return graphs


_PREFIX = ("keys", "values", "mask")


def _continue(stack: TransformerStack, embedding: TokenEmbedding, prefix: Prefix) -> Graph:
    keys, values, _ = Read(stack, lambda: prefix)()
    samples, length = prefix.mask.shape
    tokens = torch.full((samples, 3), 3)
    inputs = {
        "tokens": tokens,
        "attend": torch.ones(samples, 1, 3, length + 3, dtype=torch.bool),
        "positions": torch.arange(length, length + 3).expand(samples, -1).contiguous(),
        "keys": keys.detach(),
        "values": values.detach(),
    }
    axes = {
        "tokens": {0: "batch", 1: "new"},
        "attend": {0: "batch", 2: "new", 3: "all"},
        "positions": {0: "batch", 1: "new"},
        "keys": {0: "batch", 2: "prefix"},
        "values": {0: "batch", 2: "prefix"},
    }
    return Graph(Continue(stack, embedding), inputs, axes, ("logits", "new_keys", "new_values"))


def _kept(cache: object) -> KVCache:
    assert isinstance(cache, KVCache)
    return cache


def names_of(graphs: dict[str, Graph]) -> Sequence[str]:
    """All of them."""
    return list(graphs)

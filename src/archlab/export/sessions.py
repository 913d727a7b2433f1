"""Exported graphs in ONNX Runtime, in the place of an arm's modules: decoding and read-outs stay those of PyTorch.

Shape legend: B samples, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from archlab.layers.cache import KVCache
from archlab.machine import computing_threads
from archlab.vl.decoding import Prefix, Step, collect, continuation_log_probs, greedy_steps

Run = Callable[..., list[Tensor]]
"""A graph: tensors in its inputs' order to its outputs."""


def open_graph(path: Path) -> Run:
    """Open a graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = computing_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the processor
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    read = {given.name for given in session.get_inputs()}  # what a graph has no use for is not among its inputs

    def run(**inputs: Tensor) -> list[Tensor]:
        given = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items() if name in read}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


class Tokens:
    """The embedding of a stack that reads ids and gives logits itself; see `vl.decoding.Embeds`."""

    def __call__(self, ids: Tensor, /) -> Tensor:
        return ids

    def logits(self, states: Tensor, /) -> Tensor:
        """The states are the logits."""
        return states


TOKENS = Tokens()


@dataclass(frozen=True)
class Stack:
    """The graph "continue" as a stack; see `vl.decoding.Continues`."""

    graph: Run

    def __call__(self, ids: Tensor, /, *, mask: Tensor, positions: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Logits (B, T, V) of ids (B, T); the one cache holds the keys and values of all layers."""
        (cache,) = caches
        keys, values = cache.read()
        logits, *new = self.graph(tokens=ids, attend=mask, positions=positions, keys=keys, values=values)
        cache.append(*new)
        return logits


class Continued(nn.Module):
    """The graphs "read" and "continue": text behind a prefix. Its own modules have no parameters."""

    def __init__(self, read: Run, stack: Run) -> None:
        super().__init__()
        self._read, self._stack = read, Stack(stack)

    def prefix(self, **inputs: Tensor) -> Prefix:
        """What was read once and can be continued any number of times."""
        keys, values, mask = self._read(**inputs)
        cache = KVCache()
        cache.append(keys, values)
        return Prefix([cache], mask, mask.long().sum(1))

    def score(self, prefix: Prefix, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        """See `vl.arms.TokenArm.score`."""
        return continuation_log_probs(self._stack, TOKENS, prefix, candidates, candidate_mask)

    def continued(self, prefix: Prefix, max_tokens: int, bos: int, eos: int) -> Iterator[Step]:
        """See `vl.decoding.greedy_steps`."""
        return greedy_steps(self._stack, TOKENS, prefix, max_tokens, bos, eos)


class ExportedTokenArm(Continued):
    """What `evaluate.readout.TokenReadout` asks of `vl.arms.TokenArm`."""

    def __init__(self, graphs: dict[str, Run], feature_width: int) -> None:
        super().__init__(graphs["read"], graphs["continue"])
        self._pool, self.feature_width = graphs["pool"], feature_width

    def read(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Prefix:
        """See `vl.arms.TokenArm`, as the others."""
        return self.prefix(features=features, query=query, query_mask=query_mask)

    def steps(self, prefix: Prefix, max_tokens: int, bos: int, eos: int) -> Iterator[Step]:
        return self.continued(prefix, max_tokens, bos, eos)

    def pooled(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        return self._pool(features=features, query=query, query_mask=query_mask)[0]


class ExportedDecoder(Continued):
    """What is asked of `vl.text_decoder.TextDecoder`."""

    def steps(self, embedding: Tensor, max_tokens: int, bos: int, eos: int) -> Iterator[Step]:
        """See `vl.text_decoder.TextDecoder`, as the other."""
        return self.continued(self.prefix(embedding=embedding), max_tokens, bos, eos)

    def generate(self, embedding: Tensor, max_tokens: int, bos: int, eos: int) -> Tensor:
        return collect(self.steps(embedding, max_tokens, bos, eos))


class ExportedEmbeddingArm(nn.Module):
    """What `evaluate.readout.EmbeddingReadout` asks of `vl.arms.EmbeddingArm`."""

    def __init__(self, graphs: dict[str, Run]) -> None:
        super().__init__()
        self._predict, self._text = graphs["predict"], graphs["text"]
        self.decoder = ExportedDecoder(graphs["read"], graphs["continue"])

    def predict(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """See `vl.arms.EmbeddingArm`, as the other."""
        return self._predict(features=features, query=query, query_mask=query_mask)[0]

    def target_encoder(self, text: Tensor, text_mask: Tensor) -> Tensor:
        return self._text(text=text, text_mask=text_mask)[0]


@dataclass(frozen=True)
class ExportedEncoder:
    """What is asked of `vl.encoder.FrozenEncoder`.

    Attributes:
        graph: "encoder".
        image_size, tokens, width: see `FrozenEncoder`.
        digest: hash of the graph.
        clip_frames: 0; runs on clips are not exported.
    """

    clip_frames: ClassVar[int] = 0
    graph: Run
    image_size: int
    tokens: int
    width: int
    digest: str

    def encode(self, images: Tensor) -> Tensor:
        """See `FrozenEncoder`."""
        return self.graph(images=images)[0]

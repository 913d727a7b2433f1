"""A run about images as an engine: what `vl.answering` opens, in torch or in ONNX Runtime, asked in batches.

Shape legend: B items, C candidates, E embedding, L layers, H heads, N visual tokens, T tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch

from archlab.compare.flops import counted_flops
from archlab.data.batch import Batch
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.evaluate.vectors import unit
from archlab.generate.streaming import Detokenizer
from archlab.layers.attention import attention_weights
from archlab.serve.engine import About, Attention, Operation, Spoken, advance, softmax
from archlab.vl.answering import Answerer
from archlab.vl.decoding import Step
from archlab.vl.predictors import JointPredictor


class VisionEngine:
    """Answers of one arm; see `serve.engine.Engine`.

    Args:
        answerer: the run.
        about: what it is.
        readable: the same run in torch, for attention maps and to count operations; None: there is none to be had.
    """

    def __init__(self, answerer: Answerer, about: About, readable: Callable[[], Answerer] | None) -> None:
        self.about = about
        self._answerer, self._readable = answerer, readable
        self.operations: Mapping[Operation, Callable[..., Iterable[Any]]] = {
            "embed_texts": self.embed_texts,
            "embed_images": self.embed_images,
            "choose": self.choose,
            "speak": self.speak,
            "begin": self.begin,
            "advance": advance,
            **({"attention": self.attention, "flops": self.flops} if readable else {}),
            **({"speak_vectors": self.speak_vectors} if isinstance(answerer.readout, EmbeddingReadout) else {}),
        }

    def probe(self) -> None:
        """See `Engine`."""
        side = self.about.image_size
        vectors = self.embed_images([np.zeros((side, side, 3), np.uint8)], [""])
        if not np.isfinite(vectors).all():
            raise FloatingPointError("the embedding of a black image is not finite")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (B, E) of unit length."""
        return unit(self._answerer.readout.text_vectors(texts))

    def embed_images(self, images: Sequence[np.ndarray], queries: Sequence[str]) -> np.ndarray:
        """Vectors (B, E) of unit length."""
        return unit(self._answerer.readout.image_vectors(self._request(images, queries)))

    def choose(
        self, images: Sequence[np.ndarray], queries: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """Probabilities (C,): of the token arm by summed log-probabilities, of VL-JEPA by cosines."""
        request, readout = self._request(images, queries), self._answerer.readout
        together: dict[tuple[str, ...], list[int]] = {}  # items that choose from the same are scored as one batch
        for row, own in enumerate(candidates):
            together.setdefault(tuple(own), []).append(row)
        found: dict[int, np.ndarray] = {}
        for own, rows in together.items():
            scores = next(iter(readout.choose(_rows(request, rows), own).values()))  # (rows, C), the primary read-out
            found |= dict(zip(rows, softmax((self.about.scale or 1.0) * scores), strict=True))
        return [found[row] for row in range(len(candidates))]

    def speak(self, images: Sequence[np.ndarray], queries: Sequence[str]) -> list[Spoken]:
        """Text, decoded greedily."""
        return self._spoken(self._answerer.readout.steps(self._request(images, queries)))

    def speak_vectors(self, vectors: Sequence[np.ndarray]) -> list[Spoken]:
        """Text of embeddings (E,) of images."""
        readout = self._answerer.readout
        assert isinstance(readout, EmbeddingReadout)
        return self._spoken(readout.decode_steps(np.stack(vectors)))

    def begin(self, images: Sequence[np.ndarray], queries: Sequence[str]) -> list[Iterator[str]]:
        """One stream per item; nothing is decoded before it is asked for."""
        request = self._request(images, queries)
        return [self._pieces(_rows(request, [row])) for row in range(len(queries))]

    def attention(self, images: Sequence[np.ndarray], queries: Sequence[str]) -> list[Attention]:
        """The weights of the trunk; each item by itself, because queries differ in length."""
        assert self._readable is not None
        answerer = self._readable()
        arm: Any = answerer.readout.arm
        if isinstance(answerer.readout, EmbeddingReadout) and not isinstance(arm.predictor, JointPredictor):
            raise UserError("attention: this run's predictor has no joint attention over image and query; ask another")
        found = []
        for image, query in zip(images, queries, strict=True):
            request = answerer.request(image[None], [query])
            with torch.inference_mode(), attention_weights(arm.backbone.trunk) as weights:
                read = arm.predict if isinstance(answerer.readout, EmbeddingReadout) else arm.read
                read(request.features, request.query, request.query_mask)
            maps = torch.cat(weights).float().cpu().numpy()  # (L, H, T, T)
            visual = request.features.shape[1]
            spell = answerer.tokenizer.tokenizer.decode
            words = [spell([token], skip_special_tokens=False).strip() for token in request.query[0].tolist()]
            found.append(Attention(_tokens(visual, words)[: maps.shape[-1]], maps, visual))
        return found

    def flops(
        self,
        images: Sequence[np.ndarray],
        queries: Sequence[str],
        candidates: Sequence[Sequence[str] | None],
    ) -> list[int]:
        """Operations of an answer, from the image to the words: counted in torch, whatever computes the answers."""
        assert self._readable is not None
        answerer = self._readable()

        def answer(image: np.ndarray, query: str, own: Sequence[str] | None) -> object:
            request = answerer.request(image[None], [query])
            return answerer.readout.speak(request) if own is None else answerer.readout.choose(request, own)

        asked = zip(images, queries, candidates, strict=True)
        return [counted_flops(functools.partial(answer, *one)) for one in asked]

    def _request(self, images: Sequence[np.ndarray], queries: Sequence[str]) -> Batch:
        return self._answerer.request(np.stack(images), queries)

    def _pieces(self, request: Batch) -> Iterator[str]:
        """Text of one request, piece by piece; pieces may be empty, so that every step comes back."""
        tokenizer = self._answerer.tokenizer
        writer, begun = Detokenizer(tokenizer.tokenizer), False
        for step in self._answerer.readout.steps(request):
            token = int(step.token)
            piece = "" if token == tokenizer.eos_id else writer.push(token)
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            yield piece
        yield writer.flush()

    def _spoken(self, steps: Iterable[Step]) -> list[Spoken]:
        tokens, log_probs, running = [], [], []
        for step in steps:
            chosen = step.logits.log_softmax(-1).gather(-1, step.token[:, None])[:, 0]  # (B,)
            tokens.append(step.token)
            log_probs.append(chosen.where(step.running, 0))
            running.append(step.running)
        counts = torch.stack(running, 1).sum(1)  # (B,)
        confidence = (torch.stack(log_probs, 1).sum(1) / counts).exp()
        decode = self._answerer.tokenizer.decode
        return [
            Spoken(decode(ids), sure, count)
            for ids, sure, count in zip(
                torch.stack(tokens, 1).tolist(), confidence.tolist(), counts.tolist(), strict=True
            )
        ]


def _rows(request: Batch, rows: Sequence[int]) -> Batch:
    """Some of the items of a request."""
    index = torch.tensor(rows, device=request.features.device)
    return Batch.without_target(request.features[index], request.query[index], request.query_mask[index])


def _tokens(visual: int, words: Sequence[str]) -> list[str]:
    side = isqrt(visual)
    square = side * side == visual
    patches = [f"[{place // side}, {place % side}]" if square else f"[{place}]" for place in range(visual)]
    return patches + list(words)

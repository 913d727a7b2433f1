"""How each arm answers: candidate scores, captions and retrieval vectors, behind one interface.

The two arms are asked the same questions through `Readout`; nothing else in the evaluation knows which arm it scores.
Requests may be anywhere and results are on the CPU, wherever the arm is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.data.batch import Batch
from archlab.data.device import device_of, to_device
from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.vqa import length_normalised
from archlab.vl.arms import Arm, EmbeddingArm, GenerativeArm, SupervisedArm
from archlab.vl.decoding import Prefix, Step, collect

_TEXTS_AT_ONCE = 256


class Readout(Protocol):
    """Answers of one arm to a batch of B samples."""

    def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores (B, C) of each candidate answer, higher is better, per read-out name; the first is the primary one."""
        ...

    def speak(self, batch: Batch) -> list[str]:
        """Free text for each sample."""
        ...

    def image_vectors(self, batch: Batch) -> np.ndarray:
        """Vectors (B, E) of the images under the batch's queries, for retrieval."""
        ...

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (len(texts), E) of texts, for retrieval."""
        ...


class TokenReadout:
    """The token arm: candidates by log-probability, free text by greedy decoding.

    "sum" adds the log-probabilities of a candidate's tokens; "normalised" divides by their number, [EOS] included.
    Retrieval vectors are pooled trunk states of the image under its query and of the text alone; they need the linear
    map of `evaluate.retrieval` between them.
    """

    def __init__(self, arm: GenerativeArm, tokenizer: TextTokenizer, max_target: int) -> None:
        self.arm, self.tokenizer, self.max_target = arm.eval(), tokenizer, max_target

    @torch.no_grad()
    def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
        log_probs, lengths = self.score(self.read(batch), candidates)
        return {"sum": log_probs, "normalised": length_normalised(log_probs, lengths)}

    @torch.no_grad()
    def speak(self, batch: Batch) -> list[str]:
        return [self.tokenizer.decode(row) for row in collect(self.steps(batch)).tolist()]

    @torch.no_grad()
    def steps(self, batch: Batch) -> Iterator[Step]:
        """`speak` token by token."""
        return self.arm.steps(self.read(batch), self.max_target, self.tokenizer.bos_id, self.tokenizer.eos_id)

    @torch.no_grad()
    def image_vectors(self, batch: Batch) -> np.ndarray:
        return pooled_states(self.arm, batch).float().cpu().numpy()

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            no_image = torch.zeros(len(ids), 0, self.arm.feature_width, device=ids.device)
            return self.arm.pooled(no_image, ids, mask)

        return _encode_texts(encode, device_of(self.arm), self.tokenizer, texts, self.max_target)

    def read(self, batch: Batch) -> Prefix:
        """Image and query, run once."""
        batch = to_device(batch, device_of(self.arm))
        return self.arm.read(batch.features, batch.query, batch.query_mask)

    @torch.no_grad()
    def score(self, prefix: Prefix, candidates: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Summed log-probabilities (B, C) of the candidates and their lengths (C,) in tokens, [EOS] included."""
        ids, mask = self.tokenizer.encode(candidates, self.max_target)
        device = prefix.mask.device
        log_probs = self.arm.score(prefix, torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)).sum(-1)
        return log_probs.cpu().numpy(), mask.sum(1) - 1


class EmbeddingReadout:
    """VL-JEPA: the nearest candidate in the target encoder's space, free text through the text decoder."""

    def __init__(self, arm: EmbeddingArm, tokenizer: TextTokenizer, max_target: int) -> None:
        self.arm, self.tokenizer, self.max_target = arm.eval(), tokenizer, max_target

    @torch.no_grad()
    def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
        return {"cosine": self.image_vectors(batch) @ self.text_vectors(candidates).T}

    @torch.no_grad()
    def speak(self, batch: Batch) -> list[str]:
        return self.decode(self.image_vectors(batch))

    @torch.no_grad()
    def image_vectors(self, batch: Batch) -> np.ndarray:
        batch = to_device(batch, device_of(self.arm))
        predicted = self.arm.predict(batch.features, batch.query, batch.query_mask).float()
        return F.normalize(predicted, dim=-1).cpu().numpy()

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        encode, device = self.arm.target_encoder, device_of(self.arm)
        vectors = _encode_texts(encode, device, self.tokenizer, texts, self.max_target)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @torch.no_grad()
    def decode(self, embeddings: np.ndarray) -> list[str]:
        """Speak embeddings (B, E)."""
        return [self.tokenizer.decode(row) for row in collect(self.decode_steps(embeddings)).tolist()]

    def steps(self, batch: Batch) -> Iterator[Step]:
        """`speak` token by token."""
        return self.decode_steps(self.image_vectors(batch))

    @torch.no_grad()
    def decode_steps(self, embeddings: np.ndarray) -> Iterator[Step]:
        """`decode` token by token."""
        vectors = torch.from_numpy(embeddings).to(device_of(self.arm))
        return self.arm.decoder.steps(vectors, self.max_target, self.tokenizer.bos_id, self.tokenizer.eos_id)


class SupervisedReadout:
    """The supervised head: candidates by the logit of their meaning. It neither speaks nor retrieves."""

    def __init__(self, arm: SupervisedArm, candidate_classes: dict[str, int]) -> None:
        self.arm, self.candidate_classes = arm.eval(), candidate_classes

    @torch.no_grad()
    def choose(self, batch: Batch, candidates: Sequence[str]) -> dict[str, np.ndarray]:
        logits = self.arm.class_logits(to_device(batch, device_of(self.arm))).cpu().numpy()
        classes = np.array([self.candidate_classes.get(candidate, -1) for candidate in candidates])
        return {"logit": np.where(classes >= 0, logits[:, classes], -np.inf)}


def speaking_readout(
    arm: GenerativeArm | EmbeddingArm, tokenizer: TextTokenizer, max_target: int
) -> TokenReadout | EmbeddingReadout:
    """How an arm that speaks is asked; `max_target` is the longest answer, in tokens."""
    if isinstance(arm, EmbeddingArm):
        return EmbeddingReadout(arm, tokenizer, max_target)
    return TokenReadout(arm, tokenizer, max_target)


def pooled_states(arm: Arm, batch: Batch) -> Tensor:
    """The pooled trunk states (B, W) of an arm for image and query, on its device."""
    batch = to_device(batch, device_of(arm))
    return arm.pooled(batch.features, batch.query, batch.query_mask)


def _encode_texts(
    encode: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    max_length: int,
) -> np.ndarray:
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        ids, mask = tokenizer.encode(texts[start : start + _TEXTS_AT_ONCE], max_length)
        parts.append(encode(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)).float().cpu().numpy())
    return np.concatenate(parts)

"""The arms of the comparison: one backbone, and what is made of its states.

`TokenArm` and `EncoderDecoderArm` generate the answer token by token, `EmbeddingArm` (VL-JEPA) predicts the answer's
embedding, and `SupervisedArm` classifies among the training answers: the ceiling that the frozen features set.

Shape legend: B samples, N visual tokens, Q query tokens, L target tokens, C candidates, W width, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from archlab.config import RunConfig
from archlab.data.batch import Batch
from archlab.data.tokenizer import TextTokenizer
from archlab.layers import masks
from archlab.layers.block import CrossStack
from archlab.layers.pruning import narrow
from archlab.vl.backbone import Backbone, positions_of
from archlab.vl.decoding import Memory, Prefix, Step, collect, continuation_log_probs, greedy_steps
from archlab.vl.language import LanguageBackbone
from archlab.vl.predictors import CrossPredictor, Predictor, build_predictor
from archlab.vl.target_encoder import PretrainedTargetEncoder, TargetEncoder, build_target_encoder
from archlab.vl.text_decoder import TextDecoder


class TokenArm(nn.Module):
    """Backbone and a token head tied to the token embedding: a prefix language model (T5, section 3.2.1).

    Image and query attend in both directions, exactly as in `EmbeddingArm`; the answer is causal.
    """

    def __init__(self, backbone: Backbone, causal: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.causal = causal
        self.feature_width = backbone.feature_width

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, L - 1, vocabulary) of `batch.target[:, 1:]` given image, query and the tokens before."""
        embeddings, mask = self.backbone.embed(batch.features, batch.query, batch.query_mask)
        prefix = embeddings.shape[1]
        embeddings = torch.cat([embeddings, self.backbone.token_embedding(batch.target[:, :-1])], 1)  # (B, T, W)
        mask = torch.cat([mask, batch.target_mask[:, :-1]], 1)  # (B, T)
        positions = positions_of(mask)
        states = self.backbone.trunk(embeddings, mask=self._attend(mask, positions, prefix), positions=positions)
        return self.backbone.token_embedding.logits(states[:, prefix:])

    def read(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Prefix:
        """Run image and query once; the result can be continued by any number of answers."""
        embeddings, mask = self.backbone.embed(features, query, query_mask)
        attend = self._attend(mask, positions_of(mask), embeddings.shape[1])
        return Prefix.run(self.backbone.trunk, embeddings, mask, attend)

    def score(self, prefix: Prefix, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        """Log-probability of every token of every candidate after every prefix.

        Args:
            candidates: ids (C, L), [BOS] first, [EOS] last; candidate_mask: True at real tokens.

        Returns:
            (B, C, L - 1), zero at padding.
        """
        return continuation_log_probs(
            self.backbone.trunk, self.backbone.token_embedding, prefix, candidates, candidate_mask
        )

    def generate(self, prefix: Prefix, max_tokens: int, bos: int, eos: int) -> Tensor:
        """Greedy answer ids (B, at most `max_tokens`), filled with [EOS] after the end."""
        return collect(self.steps(prefix, max_tokens, bos, eos))

    def steps(self, prefix: Prefix, max_tokens: int, bos: int, eos: int) -> Iterator[Step]:
        """`generate` step by step."""
        return greedy_steps(self.backbone.trunk, self.backbone.token_embedding, prefix, max_tokens, bos, eos)

    def _attend(self, mask: Tensor, positions: Tensor, prefix: int) -> Tensor:
        if self.causal:
            return masks.combine(masks.padding(mask), masks.causal(positions, positions))
        in_prefix = torch.arange(mask.shape[1], device=mask.device) < prefix
        return masks.combine(masks.padding(mask), masks.prefix(in_prefix.expand_as(mask), positions))

    def pooled(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """The state (B, W) of image and query that probes look at."""
        return self.backbone.pooled(features, query, query_mask)


class EncoderDecoderArm(nn.Module):
    """The trunk as an encoder of image and query, and a decoder that writes the answer with cross-attention to it.

    Image and query are read exactly as in `EmbeddingArm`; the token embedding is shared by query, answer and output.
    """

    def __init__(self, backbone: Backbone, writer: CrossStack) -> None:
        super().__init__()
        self.backbone = backbone
        self.writer = writer
        self.feature_width = backbone.feature_width

    def logits(self, batch: Batch) -> Tensor:
        """See `TokenArm.logits`."""
        states, states_mask = self.backbone(batch.features, batch.query, batch.query_mask)
        answer, mask = batch.target[:, :-1], batch.target_mask[:, :-1]  # (B, L - 1)
        positions = positions_of(mask)
        attend = masks.combine(masks.padding(mask), masks.causal(positions, positions))
        embeddings = self.backbone.token_embedding(answer)
        written = self.writer(embeddings, states, states_mask, mask=attend, positions=positions)
        return self.backbone.token_embedding.logits(written)

    def read(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Memory:
        """See `TokenArm.read`."""
        return Memory.of(self.writer, *self.backbone(features, query, query_mask))

    def score(self, prefix: Prefix, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        """See `TokenArm.score`; `prefix` is what `read` returned."""
        assert isinstance(prefix, Memory)
        reader = prefix.reader(self.writer)
        return continuation_log_probs(reader, self.backbone.token_embedding, prefix, candidates, candidate_mask)

    def generate(self, prefix: Prefix, max_tokens: int, bos: int, eos: int) -> Tensor:
        """See `TokenArm.generate`; `prefix` is what `read` returned."""
        return collect(self.steps(prefix, max_tokens, bos, eos))

    def steps(self, prefix: Prefix, max_tokens: int, bos: int, eos: int) -> Iterator[Step]:
        """`generate` step by step."""
        assert isinstance(prefix, Memory)
        return greedy_steps(prefix.reader(self.writer), self.backbone.token_embedding, prefix, max_tokens, bos, eos)

    def pooled(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """See `TokenArm.pooled`."""
        return self.backbone.pooled(features, query, query_mask)


class EmbeddingArm(nn.Module):
    """VL-JEPA: backbone, predictor, embedding head, target encoder and the text decoder that speaks embeddings.

    The decoder plays no part in the training of the rest: it learns from text alone, see
    `objectives.embedding_prediction`.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Linear,
        target_encoder: TargetEncoder | PretrainedTargetEncoder,
        decoder: TextDecoder,
        predictor: Predictor,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.target_encoder = target_encoder
        self.decoder = decoder
        self.predictor = predictor
        for part in predictor.idle(backbone):
            part.requires_grad_(False)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted and target embeddings of a batch, (B, E) each, not normalised."""
        predicted = self.predict(batch.features, batch.query, batch.query_mask)
        return predicted, self.target_encoder(batch.target, batch.target_mask)

    def predict(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """Embedding (B, E) of the answer to the query about the image."""
        return self.head(self.pooled(features, query, query_mask))

    def pooled(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """See `TokenArm.pooled`."""
        return self.predictor(self.backbone, features, query, query_mask)

    def reconstruct(self, features: Tensor, visible: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """See `CrossPredictor.reconstruct`; for arms that were made for it."""
        assert isinstance(self.predictor, CrossPredictor)
        return self.predictor.reconstruct(self.backbone, features, visible, text, text_mask)


class SupervisedArm(nn.Module):
    """Backbone and a linear classifier over the meanings of the training answers."""

    def __init__(self, backbone: Backbone, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def class_logits(self, batch: Batch) -> Tensor:
        """Logits (B, meanings)."""
        return self.head(self.pooled(batch.features, batch.query, batch.query_mask))

    def pooled(self, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """See `TokenArm.pooled`."""
        return self.backbone.pooled(features, query, query_mask)


GenerativeArm = TokenArm | EncoderDecoderArm
Arm = GenerativeArm | EmbeddingArm | SupervisedArm


def build_arm(
    config: RunConfig, feature_width: int, vocab_size: int, meanings: int, tokenizer: TextTokenizer | None = None
) -> Arm:
    """The untrained arm of a run.

    The backbone is drawn first, from the run's seed alone, and the head from a second stream: arms of one seed and one
    trunk start from bit-identical backbones. What is never trained asks for no gradient: a target encoder whose
    learning rate is scaled by 0, all of a hybrid but its decoder, and parts that the predictor does not use.

    Args:
        feature_width: D, features per visual token of the frozen encoder.
        vocab_size: size of the tokenizer.
        meanings: classes of the supervised arm.
        tokenizer: what a pretrained target encoder spells its targets out with; without it, it takes them for its own.

    Raises:
        UserError: a pretrained part cannot be opened.
    """
    arm = _drawn(config, feature_width, vocab_size, meanings, tokenizer)
    return arm.to(torch.bfloat16) if config.compression.method == "bfloat16" else arm


def _drawn(
    config: RunConfig, feature_width: int, vocab_size: int, meanings: int, tokenizer: TextTokenizer | None
) -> Arm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = _backbone(config, feature_width, vocab_size)
        torch.manual_seed(config.seed + 1)
        if config.arm == "token" and config.token.architecture == "encoder-decoder":
            return EncoderDecoderArm(backbone, CrossStack(replace(config.trunk, depth=config.token.decoder_depth)))
        if config.arm == "token":
            return TokenArm(backbone, causal=config.token.attention == "causal")
        if config.arm == "supervised":
            return SupervisedArm(backbone, nn.Linear(backbone.width, meanings))
        own = config.vljepa
        arm = EmbeddingArm(
            backbone,
            nn.Linear(backbone.width, own.embedding),
            build_target_encoder(own, vocab_size, tokenizer),
            TextDecoder(own.decoder, vocab_size, own.embedding, own.decoder_prefix),
            build_predictor(own.predictor, config.trunk, feature_width),
        )
        if own.target_learning_rate_scale == 0 and not own.target_weights:
            arm.target_encoder.requires_grad_(False)
        if config.arm == "hybrid":
            arm.requires_grad_(False)
            arm.decoder.requires_grad_(True)
        return arm


def _backbone(config: RunConfig, feature_width: int, vocab_size: int) -> Backbone:
    if config.language.weights:
        backbone: Backbone = LanguageBackbone(config.language, feature_width, vocab_size)
    else:
        backbone = Backbone(config.trunk, feature_width, vocab_size)
    narrow(backbone.trunk, config.compression.heads, config.compression.feed_forward)
    return backbone

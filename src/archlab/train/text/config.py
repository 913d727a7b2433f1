"""Configurations of the recipes on text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError
from archlab.rules import (
    Count,
    Finite,
    GradientClip,
    InnerShare,
    Named,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    ShareBelowOne,
    TokenLimit,
)


@dataclass(frozen=True, kw_only=True)
class AverageConfig(Section):
    """Which weights are evaluated and kept: the last ones, or an average; see `train.averaging`."""

    kind: Literal["none", "ema", "checkpoints"] = "none"
    decay: InnerShare = 0.999
    """Of "ema"."""
    every: Count = 200
    """Steps between the averaged "checkpoints"."""
    last: Count = 5
    """How many of them are averaged."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """How a model is trained, whatever the task."""

    steps: Count = 2000
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive = 1e-3
    beta2: InnerShare = 0.95
    """AdamW's memory of squared gradients."""
    weight_decay: NonNegative = 0.1
    schedule: Literal["cosine", "constant", "wsd", "inverse-sqrt"] = "cosine"
    warmup: Natural = 100
    """Steps in which the learning rate rises."""
    final: Share = 0.0
    """Share of the learning rate that "cosine" and "wsd" end at."""
    decay_fraction: PositiveShare = 0.2
    """Share of the steps in which "wsd" comes down."""
    gradient_clip: GradientClip = 1.0
    accumulate: Count = 1
    """Batches whose gradients make one update."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    recompute: bool = False
    """Activation checkpointing; see `train.recompute`."""
    compile: bool = False
    """torch.compile."""
    dropout: ShareBelowOne = 0.0
    attention_dropout: ShareBelowOne = 0.0
    average: AverageConfig = field(default_factory=AverageConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" is a GPU where there is one."""
    evaluate_every: Count = 250
    resume_every: Count = 200
    """Steps between two saves of the resumable training state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup > self.steps:
            raise UserError(f"warmup={self.warmup}: must be at most steps={self.steps}")
        if self.average.kind == "checkpoints" and self.average.every > self.steps:
            raise UserError(
                f"average.every={self.average.every}: must be at most steps={self.steps}, or there is no checkpoint"
            )


@dataclass(frozen=True, kw_only=True)
class CharacterModelConfig(Section):
    """Size of a GPT-2; the defaults are nanoGPT's for the CPU."""

    context: Count = 64
    width: Count = 128
    depth: Count = 4
    heads: Count = 4
    feed_forward: Count = 512


@dataclass(frozen=True, kw_only=True)
class CharactersConfig(Section):
    """Language modelling of characters: a GPT-2 on one text, next to an n-gram model of the same text."""

    source: Named = "tinyshakespeare"
    """A named text, or the path of a text file; see `data.text.sets`."""
    validation_fraction: ShareBelowOne = 0.1
    """Share of the text that is not trained on: its end, and of names some drawn by lot."""
    model: CharacterModelConfig = field(default_factory=CharacterModelConfig)
    batch_size: Count = 12
    ngram: Count = 5
    """Largest order of the n-gram models."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: Natural = 0


@dataclass(frozen=True, kw_only=True)
class TransformerTranslatorConfig(Section):
    """Size of an encoder-decoder Transformer; the defaults are the Transformer-Tiny of the Multi30k literature."""

    width: Count = 128
    depth: Count = 4
    """Blocks of the encoder, and as many of the decoder."""
    heads: Count = 4
    feed_forward: Count = 256
    pre_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class RecurrentTranslatorConfig(Section):
    """Size of an LSTM encoder-decoder."""

    width: Count = 256
    depth: Count = 2


@dataclass(frozen=True, kw_only=True)
class TranslationConfig(Section):
    """Translation: an encoder-decoder on pairs of sentences."""

    source: Named = "multi30k"
    """A named set; see `data.text.sets`."""
    languages: list[str] = field(default_factory=lambda: ["en", "fr"])
    """From, to."""
    architecture: Literal["transformer", "lstm", "lstm-attention"] = "transformer"
    transformer: TransformerTranslatorConfig = field(default_factory=TransformerTranslatorConfig)
    lstm: RecurrentTranslatorConfig = field(default_factory=RecurrentTranslatorConfig)
    vocab_size: Count = 10000
    """Of the byte-pair tokenizer that both languages share."""
    max_target: TokenLimit = 128
    """Longer sentences are cut, in tokens."""
    batch_tokens: Count = 4096
    """Most tokens of a batch on either side, padding included."""
    label_smoothing: ShareBelowOne = 0.1
    beams: Count = 5
    """Hypotheses that are kept side by side when the tests are translated; 1 takes the likeliest token."""
    length_penalty: Finite = 1.0
    """The score of a hypothesis is divided by its length to this power."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.languages) != 2 or self.languages[0] == self.languages[1]:
            raise UserError(f"languages={self.languages}: must be two different ones, from and to")
        if self.batch_tokens < self.max_target:
            raise UserError(
                f"batch_tokens={self.batch_tokens}: must be at least max_target={self.max_target}, one sentence"
            )


@dataclass(frozen=True, kw_only=True)
class SentimentConfig(Section):
    """Sentiment: an encoder from scratch or a pretrained one, next to a majority and a TF-IDF classifier."""

    source: Named = "imdb"
    """A named set; see `data.text.reviews`."""
    validation_fraction: ShareBelowOne = 0.1
    """Share of the training reviews that is held out, where the set has no validation split."""
    pretrained: str = ""
    """Folder, hub id or `package:NAME/PATH` of a BERT in the format of `transformers`; empty trains an encoder from
    scratch."""
    encoder: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=128, depth=2, heads=4, feed_forward=352)
    )
    """Of the one from scratch."""
    vocab_size: Count = 8000
    """Of the one from scratch."""
    max_tokens: Count = 256
    """Longer reviews keep as many tokens of their head as of their tail."""
    batch_tokens: Count = 8192
    """Most tokens of a batch, padding included."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens < self.max_tokens:
            raise UserError(
                f"batch_tokens={self.batch_tokens}: must be at least max_tokens={self.max_tokens}, one review"
            )

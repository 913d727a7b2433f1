"""Configurations of the recipes on text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AverageConfig(Section):
    """Which weights are evaluated and kept: the last ones, or an average; see `train.averaging`."""

    kind: Literal["none", "ema", "checkpoints"] = "none"
    decay: float = 0.999
    """Of "ema"."""
    every: int = 200
    """Steps between the averaged "checkpoints"."""
    last: int = 5
    """How many of them are averaged."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """How a model is trained, whatever the task."""

    steps: int = 2000
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    beta2: float = 0.95
    """AdamW's memory of squared gradients."""
    weight_decay: float = 0.1
    schedule: Literal["cosine", "constant", "wsd", "inverse-sqrt"] = "cosine"
    warmup: int = 100
    """Steps in which the learning rate rises."""
    final: float = 0.0
    """Share of the learning rate that "cosine" and "wsd" end at."""
    decay_fraction: float = 0.2
    """Share of the steps in which "wsd" comes down."""
    gradient_clip: float = 1.0
    accumulate: int = 1
    """Batches whose gradients make one update."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    recompute: bool = False
    """Activation checkpointing; see `train.recompute`."""
    compile: bool = False
    """torch.compile."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    average: AverageConfig = field(default_factory=AverageConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" is a GPU where there is one."""
    evaluate_every: int = 250
    resume_every: int = 200
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

    context: int = 64
    width: int = 128
    depth: int = 4
    heads: int = 4
    feed_forward: int = 512


@dataclass(frozen=True, kw_only=True)
class CharactersConfig(Section):
    """Language modelling of characters: a GPT-2 on one text, next to an n-gram model of the same text."""

    source: str = "tinyshakespeare"
    """A named text, or the path of a text file; see `data.text.sets`."""
    validation_fraction: float = 0.1
    """Share of the text, at its end, that is not trained on."""
    model: CharacterModelConfig = field(default_factory=CharacterModelConfig)
    batch_size: int = 12
    ngram: int = 5
    """Largest order of the n-gram models."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TransformerTranslatorConfig(Section):
    """Size of an encoder-decoder Transformer; the defaults are the Transformer-Tiny of the Multi30k literature."""

    width: int = 128
    depth: int = 4
    """Blocks of the encoder, and as many of the decoder."""
    heads: int = 4
    feed_forward: int = 256
    pre_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class RecurrentTranslatorConfig(Section):
    """Size of an LSTM encoder-decoder."""

    width: int = 256
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class TranslationConfig(Section):
    """Translation: an encoder-decoder on pairs of sentences."""

    source: str = "multi30k"
    """A named set; see `data.text.sets`."""
    languages: list[str] = field(default_factory=lambda: ["en", "fr"])
    """From, to."""
    architecture: Literal["transformer", "lstm", "lstm-attention"] = "transformer"
    transformer: TransformerTranslatorConfig = field(default_factory=TransformerTranslatorConfig)
    lstm: RecurrentTranslatorConfig = field(default_factory=RecurrentTranslatorConfig)
    vocab_size: int = 10000
    """Of the byte-pair tokenizer that both languages share."""
    max_target: int = 128
    """Longer sentences are cut, in tokens."""
    batch_tokens: int = 4096
    """Most tokens of a batch on either side, padding included."""
    label_smoothing: float = 0.1
    beams: int = 5
    """Hypotheses that are kept side by side when the tests are translated; 1 takes the likeliest token."""
    length_penalty: float = 1.0
    """The score of a hypothesis is divided by its length to this power."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0

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

    source: str = "imdb"
    """A named set; see `data.text.sets`."""
    validation_fraction: float = 0.1
    """Share of the training reviews that is held out."""
    pretrained: str = ""
    """Folder or hub id of a BERT in the format of `transformers`; empty trains an encoder from scratch."""
    encoder: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=128, depth=2, heads=4, feed_forward=352)
    )
    """Of the one from scratch."""
    vocab_size: int = 8000
    """Of the one from scratch."""
    max_tokens: int = 256
    """Longer reviews keep as many tokens of their head as of their tail."""
    batch_tokens: int = 8192
    """Most tokens of a batch, padding included."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens < self.max_tokens:
            raise UserError(
                f"batch_tokens={self.batch_tokens}: must be at least max_tokens={self.max_tokens}, one review"
            )

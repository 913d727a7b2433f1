"""Typed run configuration: frozen dataclasses, read from YAML, changed by dotted overrides, saved with every run.

An unknown key or a value of the wrong type is a `UserError` that names the key and suggests the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import dacite
import yaml

from archlab.errors import UserError

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class ScenesData:
    """Size and language of the built-in procedural data (`data.scenes`)."""

    train_images: int = 4000
    validation_images: int = 500
    test_images: int = 1000
    questions_per_image: int = 4
    paraphrases: int = 4
    """K, the number of surface forms per meaning: 1, 2, 4, 8 or 32."""
    kinds: list[str] = field(default_factory=list)
    """Question kinds to keep; empty keeps all."""


@dataclass(frozen=True, kw_only=True)
class PairsData:
    """How image-text data of the user's own is read (`data.pairs`)."""

    columns: dict[str, str] = field(default_factory=dict)
    """Role (image, text, question, answer, split, group) -> column name, where the names differ from the roles."""
    on_error: Literal["fail", "skip"] = "fail"
    """Broken image, missing file, empty text: stop with one line, or skip, count and list."""
    validation_fraction: float = 0.1
    """Share of the images to hold out where the data brings no validation split."""
    test_fraction: float = 0.1
    max_pixels: int = 50_000_000
    """Larger images are refused before they are decoded (decompression bombs)."""
    query: str = "describe the image"
    """The query of rows that have a text but no question."""
    limit: int = 0
    """Read at most this many rows of each split; 0 reads all."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images, queries and targets come from."""

    source: str = "scenes"
    """"scenes", a named set, a folder, a parquet file, webdataset shards or a hub id."""
    seed: int = 0
    scenes: ScenesData = field(default_factory=ScenesData)
    pairs: PairsData = field(default_factory=PairsData)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Byte-pair tokenizer trained on the training texts, or a pretrained one."""

    vocab_size: int = 1024
    pretrained: str = ""
    """Hub id or path of a tokenizer; empty trains one."""
    max_query: int = 48
    """Longer queries are cut, in tokens."""
    max_target: int = 64


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The frozen X-encoder whose features both arms read."""

    weights: str = "mae-v1"
    """Name of a folder shipped in `archlab/weights`, or a path."""
    views: int = 0
    """Augmented views cached per training image beside the plain one, the same for both arms."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size of one pre-norm Transformer stack (RMSNorm, rotary attention, SwiGLU)."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    feed_forward: int = 352


@dataclass(frozen=True, kw_only=True)
class TokenArmConfig:
    """What only the token-generative arm has."""

    attention: Literal["prefix", "causal"] = "prefix"
    """"prefix": image and query attend in both directions and the answer is causal; "causal": all is causal."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Bi-directional InfoNCE (VL-JEPA, section 3.1)."""

    positives: Literal["meaning", "text", "none"] = "meaning"
    """"meaning": all targets of one meaning are positives; "text": equal strings are; "none": only the own target."""
    temperature: float = 0.07
    """Initial value; it is learned."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingArmConfig:
    """What only the VL-JEPA arm has: target encoder, loss and the text decoder that speaks embeddings."""

    embedding: int = 128
    """Dimensions of the space shared by predictor and target encoder."""
    target: TransformerConfig = field(default_factory=lambda: TransformerConfig(depth=2))
    target_learning_rate_scale: float = 1.0
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    decoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(depth=2))
    decoder_prefix: int = 4
    """Tokens that the embedding is unfolded into before the decoder reads it."""
    decoder_steps: int = 400
    """Steps of the text-only training of the decoder, after the arm is trained."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up; the same for both arms but for the tuned learning rate."""

    steps: int = 400
    batch_size: int = 128
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured while a run trains."""

    checkpoints: int = 5
    """Number of log-spaced steps at which the validation split is scored, the last step included."""
    first_checkpoint: int = 25
    items: int = 400
    """Validation questions scored at a checkpoint; and as many captions and retrieval pairs at most."""
    resume_every: int = 200
    """Steps between two saves of the resumable training state."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run of one arm."""

    arm: Literal["token", "vljepa", "supervised"] = "vljepa"
    seed: int = 0
    blind: bool = False
    """Train with the images shuffled against the questions: the trained blind control."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    trunk: TransformerConfig = field(default_factory=TransformerConfig)
    token: TokenArmConfig = field(default_factory=TokenArmConfig)
    vljepa: EmbeddingArmConfig = field(default_factory=EmbeddingArmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The controlled comparison: the shared run and what is measured around it."""

    run: RunConfig = field(default_factory=RunConfig)
    budget: Literal["shared", "paper", "equal-params", "equal-flops"] = "shared"
    seeds: list[int] = field(default_factory=lambda: [0])
    learning_rates: list[float] = field(default_factory=list)
    """Tried for each arm with equal trials on validation; empty trains at `run.optimizer.learning_rate`."""
    sweep_steps: int = 0
    """Length of one trial."""
    trained_blind: bool = False
    supervised: bool = False
    """Also train a supervised classifier on the same features: the ceiling of the frozen encoder."""
    test_items: int = 2000
    """Test questions scored per split (and as many captions and retrieval pairs at most)."""
    pmi_gallery: int = 100
    """Gallery of the token arm's likelihood retrieval, at most 100."""
    bootstrap_samples: int = 2000
    latency_batches: list[int] = field(default_factory=lambda: [1, 8, 32])
    latency_requests: int = 30
    machine_price_per_hour: float = 0.0
    """Price of the serving machine, in the user's currency; 0 leaves the cost table in seconds."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Self-supervised pretraining of the X-encoder (masked autoencoder, arXiv 2111.06377)."""

    sources: list[str] = field(default_factory=lambda: ["scenes"])
    """Image sources, train splits only; "scenes" draws fresh images without held-out attribute combinations."""
    scenes_share: float = 0.7
    """Share of scenes in a batch; the rest comes from the other sources in equal parts."""
    image_size: int = 64
    patch_size: int = 8
    merge: int = 2
    """Neighbouring patches merged per side, so that 64 patches leave as 16 visual tokens."""
    encoder: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=192, depth=6, heads=6, feed_forward=768)
    )
    decoder: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=96, depth=2, heads=3, feed_forward=384)
    )
    mask_ratio: float = 0.75
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(steps=4000, batch_size=256, learning_rate=1e-3)
    )
    seed: int = 0
    probe_every: int = 1000
    """Steps between two probes against random initialisation."""
    resume_every: int = 500


def load(path: str | os.PathLike[str], kind: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into the configuration `kind`, then apply `section.key=value` overrides.

    Raises:
        UserError: the file is missing or no mapping, a key is unknown, or a value has the wrong type.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"configuration {path}: {error.strerror}; give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"configuration {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UserError(f"configuration {path}: holds a {type(raw).__name__}; it must be a mapping of keys to values")
    return build(kind, raw, overrides)


def build(kind: type[Config], raw: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Make the configuration `kind` from nested plain values and dotted overrides; see `load`."""
    raw = yaml.safe_load(yaml.safe_dump(raw))  # a deep copy of plain values
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"override {override!r}: must have the form section.key=value")
        *sections, key = path.split(".")
        node = raw
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UserError(f"override {override!r}: {section!r} is a value, not a section")
        try:
            node[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None
    _refuse_unknown_keys(kind, raw, "")
    try:
        return dacite.from_dict(kind, raw, dacite.Config(strict=True, type_hooks={float: _number}))
    except dacite.WrongTypeError as error:
        expected = getattr(error.field_type, "__name__", str(error.field_type).replace("typing.", ""))
        if (choices := getattr(error.field_type, "__args__", None)) and "Literal" in expected:
            expected = "one of " + ", ".join(str(choice) for choice in choices)
        raise UserError(f"configuration key {error.field_path!r}: {error.value!r} is not {expected}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as nested plain values."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, the form in which it is saved with every run."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as one level of dotted keys, so that two configurations can be compared key by key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _number(value: object) -> object:
    """Accept whole numbers and YAML's unsigned exponents (1e-3 is text to YAML 1.1) where a float is asked for."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _refuse_unknown_keys(kind: type, raw: dict[str, Any], prefix: str) -> None:
    types = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in raw.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, n=1, cutoff=0.0)
            raise UserError(f"configuration key '{prefix}{key}' is unknown; did you mean '{prefix}{near[0]}'?")
        nested = _dataclass_of(kind, key)
        if nested is not None:
            if not isinstance(value, dict):
                raise UserError(f"configuration key '{prefix}{key}': {value!r} must be a section of keys")
            _refuse_unknown_keys(nested, value, f"{prefix}{key}.")


def _dataclass_of(kind: type, key: str) -> type | None:
    import typing

    hint = typing.get_type_hints(kind)[key]
    return hint if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None

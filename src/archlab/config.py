"""Typed run configuration: frozen dataclasses, read from YAML, changed by dotted overrides, saved with every run.

An unknown key, a value of the wrong type or one that breaks its rule is a `UserError` that names key, value and rule.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import dacite
import yaml

from archlab.errors import UserError
from archlab.rules import (
    NAMED,
    POSITIVE,
    Count,
    GradientClip,
    InnerShare,
    Named,
    Natural,
    NonNegative,
    Positive,
    Share,
    ShareBelowOne,
    TokenLimit,
    at_least,
    between,
    each,
    one_of,
    rules_of,
)

Config = TypeVar("Config")


class Section:
    """A part of the configuration; its values are checked against the rules in their types whenever one is made."""

    def __post_init__(self) -> None:
        for name, rule in rules_of(type(self)).items():  # type: ignore[arg-type]  # mypy doubts that a class has a hash
            value = getattr(self, name)
            if not rule.holds(value):
                raise UserError(f"{name}={value!r}: {rule.text}")


@dataclass(frozen=True, kw_only=True)
class ScenesData(Section):
    """Size and language of the built-in procedural data (`data.scenes`)."""

    train_images: Count = 4000
    validation_images: Count = 500
    test_images: Count = 1000
    questions_per_image: Count = 4
    paraphrases: Annotated[int, one_of(1, 2, 4, 8, 32)] = 4
    """K, the number of surface forms of a target (an answer, a caption): 1, 2, 4, 8 or 32."""
    query_paraphrases: Annotated[int, one_of(1, 2, 4, 8, 32)] = 4
    """Of a query; it stays what it is while K is turned."""
    kinds: list[str] = field(default_factory=list)
    """Question kinds to keep; empty keeps all."""


@dataclass(frozen=True, kw_only=True)
class PairsData(Section):
    """How image-text data of the user's own is read (`data.pairs`)."""

    columns: dict[str, str] = field(default_factory=dict)
    """Role (image, text, question, answer, split, group) -> column name, where the names differ from the roles."""
    on_error: Literal["fail", "skip"] = "fail"
    """Broken image, missing file, empty text: stop with one line, or skip, count and list."""
    validation_fraction: ShareBelowOne = 0.1
    """Share of the images to hold out where the data brings no validation split."""
    test_fraction: ShareBelowOne = 0.1
    max_pixels: Count = 50_000_000
    """Larger images are refused before they are decoded (decompression bombs); likewise clips of larger frames."""
    max_seconds: Positive = 600.0
    """Longer clips are refused before they are decoded."""
    query: Named = "describe the picture"
    """The query of rows that have a text but no question."""
    limit: Natural = 0
    """Read at most this many rows of each split; 0 reads all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_fraction + self.test_fraction >= 1:
            raise UserError(
                f"test_fraction={self.test_fraction!r}: must leave a share to train on beside "
                f"validation_fraction={self.validation_fraction!r}; their sum must be less than 1"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Where the images, queries and targets come from."""

    source: Named = "scenes"
    """"scenes", a named set, a folder, a parquet file, webdataset shards or a hub id."""
    frames: Annotated[int, between(0, 64)] = 0
    """Clips instead of images: frames of each that are looked at. Scenes become videos of so many frames, with motion
    and events; of a clip in a folder so many are taken, evenly spread. 0: images."""
    seed: Natural = 0
    scenes: ScenesData = field(default_factory=ScenesData)
    pairs: PairsData = field(default_factory=PairsData)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Section):
    """Byte-pair tokenizer trained on the training texts, or a pretrained one."""

    vocab_size: Count = 1024
    pretrained: str = ""
    """Hub id or path of a tokenizer; empty trains one."""
    max_query: TokenLimit = 48
    """Longer queries are cut, in tokens."""
    max_target: TokenLimit = 64


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Section):
    """The frozen X-encoder whose features both arms read."""

    weights: Named = "lejepa-v2"
    """Name of a folder shipped in `archlab/weights`, the folder of a pretraining run, or a checkpoint of V-JEPA 2,
    DINOv2, SigLIP, CLIP, ViT or another vision model of `transformers`: its folder, its hub id, or `package:NAME/PATH`,
    a folder that an installed Python package brings."""
    tokens: Natural = 0
    """Visual tokens that a checkpoint's patches are averaged to, a square number; 0 keeps them all. With `data.frames`,
    those of each moment of a clip, of any encoder; 0: 4."""
    frames: Natural = 0
    """How often a still image is repeated for a model of video; 0: as often as it takes for one patch."""
    views: Natural = 0
    """Augmented views cached per training image beside the plain one, the same for both arms."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Section):
    """Size of one pre-norm Transformer stack (RMSNorm, rotary attention, SwiGLU)."""

    width: Count = 128
    depth: Count = 4
    heads: Count = 4
    feed_forward: Count = 352

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise UserError(
                f"width={self.width}: must be a multiple of {2 * self.heads}, "
                f"two for each of the {self.heads} heads (rotary positions turn pairs)"
            )


@dataclass(frozen=True, kw_only=True)
class TokenArmConfig(Section):
    """What only the token-generative arm has."""

    attention: Literal["prefix", "causal"] = "prefix"
    """"prefix": image and query attend in both directions and the answer is causal; "causal": all is causal."""
    architecture: Literal["decoder-only", "encoder-decoder"] = "decoder-only"
    """"decoder-only": the trunk reads image, query and answer as one sequence; "encoder-decoder": it reads image and
    query, and a decoder writes the answer with cross-attention to its states."""
    decoder_depth: Count = 2
    """Blocks of the decoder of "encoder-decoder", which are as wide as the trunk's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture == "encoder-decoder" and self.attention == "causal":
            raise UserError(
                "attention='causal': is for architecture='decoder-only'; an encoder reads image and query in both "
                "directions"
            )


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(Section):
    """Bi-directional InfoNCE (VL-JEPA, section 3.1)."""

    positives: Literal["meaning", "text", "none"] = "meaning"
    """"meaning": all targets of one meaning are positives; "text": equal strings are; "none": only the own target."""
    temperature: Positive = 0.07
    """Initial value; it is learned."""


@dataclass(frozen=True, kw_only=True)
class SIGRegConfig(Section):
    """Agreement of prediction and target, both of them as a Gaussian (LeJEPA, arXiv 2511.08544, equation 6)."""

    regularization: InnerShare = 0.05
    """Lambda, the weight of the Gaussian against the agreement."""


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(Section):
    """Weights of VICReg's three terms (arXiv 2105.04906, section 4.2)."""

    invariance: NonNegative = 25.0
    variance: NonNegative = 25.0
    covariance: NonNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(Section):
    """How image and query become the state that the embedding is read from."""

    kind: Literal["joint", "cross-attention", "none"] = "joint"
    """"joint": the trunk reads both as one sequence, as in the paper; "cross-attention": the trunk reads the query, and
    visual tokens ask its states; "none": the mean visual token alone, without query (CLIP)."""
    attention: Literal["full", "causal"] = "full"
    """Of "joint"; the paper turns the language model's causal mask off."""
    conditioned: bool = True
    """Whether "joint" reads the query."""
    depth: Count = 2
    """Blocks of "cross-attention", which are as wide as the trunk's."""
    reconstruction: NonNegative = 0.0
    """Weight of predicting hidden visual tokens from query and answer, for "cross-attention"; 0 leaves it out."""
    mask_ratio: InnerShare = 0.5
    """Share of the visual tokens that are hidden for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, plain, kind in (
            ("attention", "full", "joint"),
            ("conditioned", True, "joint"),
            ("reconstruction", 0.0, "cross-attention"),
        ):
            value = getattr(self, name)
            if value != plain and self.kind != kind:
                raise UserError(f"{name}={value!r}: is for kind={kind!r}, not for {self.kind!r}; leave it at {plain!r}")


@dataclass(frozen=True, kw_only=True)
class EmbeddingArmConfig(Section):
    """What only the VL-JEPA arm has: target encoder, loss and the text decoder that speaks embeddings."""

    embedding: Count = 128
    """Dimensions of the space shared by predictor and target encoder."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    target: TransformerConfig = field(default_factory=lambda: TransformerConfig(depth=2))
    target_weights: str = ""
    """Pretrained encoder of text in place of `target`, such as MiniLM or EmbeddingGemma, with its own tokenizer and
    pooling: its folder, its hub id, or `package:NAME/PATH`. Empty trains one from scratch."""
    target_learning_rate_scale: NonNegative = 1.0
    """Of the target encoder's learning rate; the paper's is 0.05, and 0 freezes it. Of a pretrained one only its own
    weights are meant: the head on them is new, and learns at the full rate, or not at all with a distance as objective.
    """
    objective: Literal["info-nce", "cosine", "l1", "l2", "sigreg", "vicreg"] = "info-nce"
    """What trains prediction and target. Only InfoNCE, SIGReg and VICReg keep a trained target from collapse."""
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    sigreg: SIGRegConfig = field(default_factory=SIGRegConfig)
    vicreg: VICRegConfig = field(default_factory=VICRegConfig)
    decoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(depth=2))
    decoder_prefix: Count = 4
    """Tokens that the embedding is unfolded into before the decoder reads it."""

    @property
    def trains_target_head(self) -> bool:
        """Whether the head of a pretrained target encoder learns."""
        return self.objective in ("info-nce", "sigreg", "vicreg")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """AdamW with warm-up; the same for both arms but for the tuned learning rate."""

    steps: Count = 400
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: Share = 0.05
    weight_decay: NonNegative = 0.05
    gradient_clip: GradientClip = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Section):
    """What is measured while a run trains."""

    checkpoints: Count = 5
    """Number of log-spaced steps at which the validation split is scored, the last step included."""
    first_checkpoint: Count = 25
    items: Count = 400
    """Validation questions scored at a checkpoint; and as many captions and retrieval pairs at most."""
    resume_every: Count = 200
    """Steps between two saves of the resumable training state."""


@dataclass(frozen=True, kw_only=True)
class StartConfig(Section):
    """Where a run begins: at random, or with parts of a finished run on the same encoder and tokenizer."""

    run: str = ""
    """Folder of the finished run; empty draws every part at random."""
    parts: Annotated[
        list[Literal["backbone", "head", "predictor", "target_encoder", "decoder"]], each(NAMED, least=1)
    ] = field(default_factory=lambda: ["backbone"])
    """What begins with its weights; a hybrid takes all but the decoder, whatever this says."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Section):
    """A pretrained LLaMA whose last layers are the trunk of both arms (VL-JEPA, section 3.1)."""

    weights: str = ""
    """Its folder, its hub id or `package:NAME/PATH`; its tokenizer is the run's, its token table is frozen. Empty: the
    trunk has the size `trunk` and begins at random."""
    layers: Count = 8
    """The last so many; the paper takes 8 of the 16 of Llama-3.2-1B."""


@dataclass(frozen=True, kw_only=True)
class CompressionConfig(Section):
    """How a run was made of a larger one by `archlab compress`, which writes this section; recipes leave it out."""

    method: Literal["none", "bfloat16", "magnitude", "structured", "distillation"] = "none"
    parent: str = ""
    """Digest of the weights that it was made of."""
    heads: Natural = 0
    """Heads left in each block of the trunk; where heads share keys, groups of them. 0: all."""
    feed_forward: Natural = 0
    """Channels left in each feed-forward layer of the trunk; 0: all."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """What it was made by, for its readers; see `compress.recipe`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.method == "none") != (self.parent == ""):
            raise UserError(f"method={self.method!r}: 'archlab compress' sets it with the parent; leave both out")
        if (self.heads or self.feed_forward) and self.method != "structured":
            raise UserError(f"method={self.method!r}: only 'structured' leaves heads or channels out; leave them at 0")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """One training run of one arm."""

    arm: Literal["token", "vljepa", "hybrid", "supervised"] = "vljepa"
    """"hybrid" is a finished `vljepa`, frozen, with a decoder that learns to speak its predictions."""
    seed: Natural = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" is a GPU where there is one."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every process holds the whole model ("ddp") or a share of it ("fsdp")."""
    blind: bool = False
    """Train with the images shuffled against the questions: the trained blind control."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    start: StartConfig = field(default_factory=StartConfig)
    trunk: TransformerConfig = field(default_factory=TransformerConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    token: TokenArmConfig = field(default_factory=TokenArmConfig)
    vljepa: EmbeddingArmConfig = field(default_factory=EmbeddingArmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arm == "hybrid" and not self.start.run:
            raise UserError("start.run='': must be the folder of a finished vljepa run for arm='hybrid'")
        if self.language.weights:
            for name, plain in (
                ("trunk", TransformerConfig()),
                ("tokenizer.pretrained", ""),
                ("token.architecture", "decoder-only"),
                ("vljepa.predictor.kind", "joint"),
            ):
                value: Any = self
                for key in name.split("."):
                    value = getattr(value, key)
                if value != plain:
                    raise UserError(f"{name}={value!r}: language.weights settles it; leave it at {plain!r}")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Section):
    """The controlled comparison: the shared run and what is measured around it."""

    run: RunConfig = field(default_factory=RunConfig)
    budget: Literal["shared", "paper", "equal-params", "equal-flops"] = "shared"
    seeds: Annotated[list[int], each(at_least(0), least=1)] = field(default_factory=lambda: [0])
    learning_rates: Annotated[list[float], each(POSITIVE)] = field(default_factory=list)
    """Tried for each arm with equal trials on validation; empty trains at `run.optimizer.learning_rate`."""
    sweep_steps: Natural = 0
    """Length of one trial."""
    trained_blind: bool = False
    supervised: bool = False
    """Also train a supervised classifier on the same features: the ceiling of the frozen encoder."""
    end_to_end_epochs: Natural = 0
    """Also train a convolutional network on the pixels of data with one question: what freezing the encoder costs."""
    test_items: Count = 2000
    """Test questions scored per split (and as many captions and retrieval pairs at most)."""
    pmi_gallery: Annotated[int, between(2, 100)] = 100
    """Gallery of the token arm's likelihood retrieval, at most 100."""
    bootstrap_samples: Annotated[int, at_least(100)] = 2000  # fewer give no 95 % interval; see evaluate.statistics
    workers: Count = 2
    """Runs trained side by side, each in a process with its share of the cores."""
    latency_batches: Annotated[list[int], each(at_least(1), least=1)] = field(default_factory=lambda: [1, 8, 32])
    latency_requests: Count = 30
    machine_price_per_hour: NonNegative = 0.0
    """Price of the serving machine, in the user's currency; 0 leaves the cost table in seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_to_end_epochs and self.run.data.frames:
            raise UserError(
                f"end_to_end_epochs={self.end_to_end_epochs}: trains a network of images; leave it at 0 with "
                f"run.data.frames={self.run.data.frames}"
            )
        if self.learning_rates and self.sweep_steps < 1:
            raise UserError(
                f"sweep_steps={self.sweep_steps}: must be at least 1 to try learning_rates={self.learning_rates}"
            )


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoderConfig(Section):
    """Masked autoencoder (arXiv 2111.06377): the few visible patches predict the pixels of the others."""

    mask_ratio: InnerShare = 0.75
    decoder: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=96, depth=2, heads=3, feed_forward=384)
    )


@dataclass(frozen=True, kw_only=True)
class LeJEPAConfig(Section):
    """LeJEPA (arXiv 2511.08544) on local features: two views of one spot embed alike, all spots as a Gaussian."""

    embedding: Count = 64
    """Dimensions in which views are compared."""
    projector: Count = 512
    """Width of the hidden layers between the features and that space."""
    points: Count = 16
    """Spots of an image that are compared."""
    recoloured: Share = 0.7
    """Share of the views with other colours."""
    regularization: InnerShare = 0.002
    """Lambda, the weight of the Gaussian against the invariance."""
    reconstruction: NonNegative = 0.5
    """Weight of reading each patch's thumbnail off its features, without which they would forget colour; 0 leaves the
    paper's loss alone."""


@dataclass(frozen=True, kw_only=True)
class LatentPredictionConfig(Section):
    """I-JEPA (arXiv 2301.08243) and V-JEPA (arXiv 2404.08471): visible patches predict the states of hidden ones."""

    predictor: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=96, depth=2, heads=3, feed_forward=384)
    )
    """Narrower than the encoder; thrown away after pretraining."""
    target: Literal["ema", "trained"] = "ema"
    """What makes the targets: an average of the encoder, without gradient, or the encoder itself, which collapses."""
    momentum: InnerShare = 0.996
    """Of that average at first; it rises to 1 in a line. This is I-JEPA's, V-JEPA's is 0.998; short runs need less."""
    frames: Annotated[int, between(6, 64)] = 8
    """Of a clip, for V-JEPA."""
    tubelet: Count = 2
    """Frames per patch, for V-JEPA."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames % self.tubelet:
            raise UserError(f"frames={self.frames}: must be a multiple of tubelet={self.tubelet}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Section):
    """Self-supervised pretraining of the X-encoder."""

    method: Literal["mae", "lejepa", "ijepa", "vjepa", "none"] = "mae"
    """"none" leaves the encoder as it was drawn: the control."""
    sources: Annotated[list[str], each(NAMED, least=1)] = field(default_factory=lambda: ["scenes"])
    """Image sources, train splits only; "scenes" draws fresh images without held-out attribute combinations."""
    scenes_share: Share = 0.7
    """Share of scenes in a batch; the rest comes from the other sources in equal parts."""
    image_size: Count = 64
    patch_size: Count = 8
    merge: Count = 2
    """Neighbouring patches merged per side, so that 64 patches leave as 16 visual tokens."""
    encoder: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=192, depth=6, heads=6, feed_forward=768)
    )
    stem: Literal["linear", "convolutional"] = "linear"
    """How the ViT embeds patches; see `models.vit`."""
    mae: MaskedAutoencoderConfig = field(default_factory=MaskedAutoencoderConfig)
    lejepa: LeJEPAConfig = field(default_factory=LeJEPAConfig)
    jepa: LatentPredictionConfig = field(default_factory=LatentPredictionConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(steps=4000, batch_size=256, learning_rate=1e-3)
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" is a GPU where there is one."""
    update: Literal["adamw", "muon"] = "adamw"
    """What updates hidden matrices and filters; see `train.optim.MuonWithAdamW`."""
    seed: Natural = 0
    probe_every: Count = 1000
    """Steps between two probes against random initialisation."""
    resume_every: Count = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % (self.patch_size * self.merge):
            raise UserError(
                f"image_size={self.image_size}: must be a multiple of {self.patch_size * self.merge}, "
                f"patch_size x merge"
            )
        if self.method in ("mae", "ijepa", "vjepa") and self.stem != "linear":
            raise UserError(
                f"stem={self.stem!r}: must be 'linear' with method={self.method!r}, whose encoder may not see masked "
                f"patches"
            )
        if self.method == "vjepa" and self.optimizer.batch_size % self.jepa.frames:
            raise UserError(
                f"optimizer.batch_size={self.optimizer.batch_size}: counts images, and must be a multiple of "
                f"jepa.frames={self.jepa.frames} with method='vjepa'"
            )


def load(path: str | os.PathLike[str], kind: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into the configuration `kind`, then apply `section.key=value` overrides.

    Raises:
        UserError: the file is missing or no mapping, a key is unknown, or a value breaks its type or rule.
    """
    return build(kind, read_yaml(path), overrides)


def build(kind: type[Config], raw: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Make the configuration `kind` from nested plain values and dotted overrides; see `load`."""
    raw = copy.deepcopy(raw)
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path:
            raise UserError(f"override {override!r}: must have the form section.key=value")
        *sections, key = path.split(".")
        node = raw
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UserError(f"override {override!r}: {section!r} is a value, not a section")
        try:
            node[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: 2024-02-30 looks like a day, and is none
            raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None
    return _construct(kind, raw, "")


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


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked; see `load`."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"configuration {path}: {error.strerror}; give the path of a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a day like 2024-02-30
        raise UserError(f"configuration {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UserError(f"configuration {path}: holds a {type(raw).__name__}; it must be a mapping of keys to values")
    return raw


def _construct(kind: type[Config], raw: dict[str, Any], prefix: str) -> Config:
    """One section and, before it, the sections inside; `prefix` is its dotted path, for messages."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in hints:
            near = _elsewhere(kind, key) or difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)[0]
            raise UserError(f"configuration key '{prefix}{key}' is unknown; did you mean '{prefix}{near}'?")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"configuration key '{prefix}{key}': {value!r} must be a section of keys")
            value = _construct(hints[key], value, f"{prefix}{key}.")
        values[key] = value
    try:
        return dacite.from_dict(kind, values, dacite.Config(strict=True, type_hooks={float: _number, int: _whole}))
    except dacite.WrongTypeError as error:
        wanted: Any = error.field_type
        if typing.get_origin(wanted) is typing.Literal:
            expected = "one of " + ", ".join(map(str, typing.get_args(wanted)))
        else:
            expected = f"of type {wanted if typing.get_args(wanted) else wanted.__name__}"
        message = f"configuration key '{prefix}{error.field_path}': {error.value!r} must be {expected}"
    except UserError as error:
        message = f"configuration key {prefix}{error}"
    raise UserError(message)


def _elsewhere(kind: type, key: object) -> str:
    """Dotted path of a key of that name in a section below, the nearest first; empty where there is none."""
    level = [("", kind)]
    while level:
        inner = [
            (f"{path}{name}.", hint)
            for path, section in level
            for name, hint in typing.get_type_hints(section).items()
            if dataclasses.is_dataclass(hint)
        ]
        for path, section in inner:
            if key in typing.get_type_hints(section):
                return f"{path}{key}"
        level = inner  # type: ignore[assignment]
    return ""


def _whole(value: object) -> object:
    """Refuse `true` and `false` where an integer is asked for: to Python they are 1 and 0."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(int, value)
    return value


def _number(value: object) -> object:
    """Accept whole numbers and YAML's unsigned exponents (1e-3 is text to YAML 1.1) where a float is asked for."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(float, value)
    if not isinstance(value, int | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value

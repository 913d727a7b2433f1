"""The families of models: name -> configuration, class, weight map, a tiny shape for tests, the published sizes.

Importing this imports no PyTorch; a family's modules are imported when they are asked for.

To add a family:
 1. `models/NAME.py`: a configuration (`config.Section`; rules for new names go to `config._RULES_OF_NAMES`), the block,
    the model. A decoder follows `models.protocols.Decoder`. Extend a layer where one is missing; do not copy it.
 2. `interop/NAME.py`: what `interop.family.Interop` lists: options and weights of `transformers`, the reference, and at
    least two faults that parity must notice (shared ones are in `interop.parity.faults`).
 3. An entry below. Its `tiny` shape should exercise every option (more heads than key-value heads, unequal widths).
 4. Only if the family reads or gives something new: a kind, with one probe in `interop.parity.probes`.
Every test in `tests/models/test_families.py` and `tests/interop/` then covers it, as does `archlab parity NAME`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from archlab.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from archlab.interop.family import Interop

Kind = Literal["decoder", "encoder", "encoder-decoder", "vision"]
"""What is read and given.

decoder: tokens to next-token logits; encoder: tokens to hidden states; encoder-decoder: source tokens and target tokens
to next-token logits of the target; vision: images to hidden states.
"""


@dataclass(frozen=True)
class Size:
    """A published model.

    Attributes:
        parameters: published count, tied tables counted once.
        source: where the count is published.
        options: how its configuration differs from the defaults.
    """

    parameters: int
    source: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: also of the modules `archlab.models.NAME` and `archlab.interop.NAME`.
        kind: what the model reads and gives.
        config_name, model_name: classes in `archlab.models.NAME`.
        model_types: values of `model_type` in the `config.json` of its checkpoints.
        tiny: options of a configuration for tests.
        sizes: the published models by name.
    """

    name: str
    kind: Kind
    config_name: str
    model_name: str
    model_types: tuple[str, ...]
    tiny: Mapping[str, Any]
    sizes: Mapping[str, Size]

    @property
    def config_class(self) -> type[Any]:
        """The class of its configuration."""
        return getattr(import_module(f"archlab.models.{self.name}"), self.config_name)

    @property
    def model_class(self) -> type[nn.Module]:
        """The class of its model; made with a configuration."""
        return getattr(import_module(f"archlab.models.{self.name}"), self.model_name)

    @property
    def interop(self) -> Interop:
        """The module that knows its counterpart in `transformers`."""
        module: Any = import_module(f"archlab.interop.{self.name}")
        return module

    def config(self, size: str | None = None) -> Any:
        """The configuration of a published size, or the tiny one.

        Raises:
            UserError: no such size.
        """
        from archlab.config import build

        if size is not None and size not in self.sizes:
            raise UserError(_unknown(f"size of {self.name}", size, self.sizes))
        return build(self.config_class, dict(self.tiny if size is None else self.sizes[size].options))


def find(name: str) -> Family:
    """The family with this name.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    if name not in FAMILIES:
        raise UserError(_unknown("family", name, FAMILIES))
    return FAMILIES[name]


def find_by_model_type(model_type: str) -> Family:
    """The family whose checkpoints have this `model_type`.

    Raises:
        UserError: no family reads it; the nearest is suggested.
    """
    by_type = {known: family for family in FAMILIES.values() for known in family.model_types}
    if model_type not in by_type:
        raise UserError(_unknown("model_type", model_type, by_type))
    return by_type[model_type]


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        UserError: it belongs to none.
    """
    for family in FAMILIES.values():
        if type(model).__name__ == family.model_name and type(model) is family.model_class:
            return family
    raise UserError(f"model of class {type(model).__name__}: belongs to no family; known are {', '.join(FAMILIES)}")


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"{what} {name!r} is unknown; did you mean {near[0]!r}? (known: {', '.join(known)})"


_BERT = "huggingface.co, safetensors parameter counts less the heads of pretraining"
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "feed_forward": 4096}
_VASWANI = (
    "arXiv 1706.03762, section 5.1 and table 3, which rounds to 65 and 213 million with about 37000 tokens; "
    "the exact count is that of torch.nn.Transformer and one table"
)
_GPT2 = "github.com/openai/gpt-2, counts of the released weights"
_LLAMA3 = "huggingface.co/meta-llama, safetensors parameter counts"
_T5 = "huggingface.co/google-t5 and google, counts of the released weights"
_T511 = {"activation": "gated-gelu", "tied": False}
_VIT = "torchvision, counts of the ImageNet-1k weights less their heads of 1000 (width + 1)"
_LLAMA31 = {"rotary_scaling": {"factor": 8.0}, "context": 131072}
_LLAMA32 = {"rotary_scaling": {"factor": 32.0}, "context": 131072, "tied": True}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="bert",
            kind="encoder",
            config_name="BertConfig",
            model_name="Bert",
            model_types=("bert",),
            tiny={
                "vocab_size": 61,
                "context": 32,
                "token_types": 3,
                "width": 24,
                "depth": 3,
                "heads": 3,
                "feed_forward": 40,
                "norm_eps": 1e-4,
            },
            sizes={
                "bert-base-uncased": Size(109_482_240, _BERT, {}),
                "bert-base-cased": Size(108_310_272, _BERT, {"vocab_size": 28996}),
                "bert-large-uncased": Size(335_141_888, _BERT, _LARGE),
                "bert-large-cased": Size(333_579_264, _BERT, {"vocab_size": 28996} | _LARGE),
                "minilm-l6": Size(
                    22_713_216,
                    "huggingface.co/sentence-transformers/all-MiniLM-L6-v2, its weights",
                    {"width": 384, "depth": 6, "feed_forward": 1536},
                ),
            },
        ),
        Family(
            name="encoder_decoder",
            kind="encoder-decoder",
            config_name="EncoderDecoderConfig",
            model_name="EncoderDecoderTransformer",
            model_types=("marian",),
            tiny={
                "vocab_size": 61,
                "context": 32,
                "width": 24,
                "depth": 3,
                "decoder_depth": 2,
                "heads": 3,
                "feed_forward": 40,
            },
            sizes={
                "base": Size(63_082_496, _VASWANI, {}),
                "big": Size(214_245_376, _VASWANI, {"width": 1024, "heads": 16, "feed_forward": 4096}),
            },
        ),
        Family(
            name="gpt2",
            kind="decoder",
            config_name="GPT2Config",
            model_name="GPT2",
            model_types=("gpt2",),
            tiny={
                "vocab_size": 61,
                "context": 32,
                "width": 24,
                "depth": 3,
                "heads": 3,
                "feed_forward": 40,
                "norm_eps": 1e-4,
            },
            sizes={
                "gpt2": Size(124_439_808, _GPT2, {}),
                "gpt2-medium": Size(
                    354_823_168, _GPT2, {"width": 1024, "depth": 24, "heads": 16, "feed_forward": 4096}
                ),
                "gpt2-large": Size(774_030_080, _GPT2, {"width": 1280, "depth": 36, "heads": 20, "feed_forward": 5120}),
                "gpt2-xl": Size(1_557_611_200, _GPT2, {"width": 1600, "depth": 48, "heads": 25, "feed_forward": 6400}),
            },
        ),
        Family(
            name="llama",
            kind="decoder",
            config_name="LlamaConfig",
            model_name="Llama",
            model_types=("llama",),
            tiny={
                "vocab_size": 61,
                "context": 32,
                "width": 32,
                "depth": 3,
                "heads": 4,
                "key_value_heads": 2,
                "feed_forward": 40,
                "norm_eps": 1e-4,
                "rotary_base": 100.0,
                # Of the four frequencies of a head, the first stays, the last is divided, the others lie between.
                "rotary_scaling": {"factor": 4.0, "original_context": 16},
            },
            sizes={
                "llama-3-8b": Size(8_030_261_248, _LLAMA3, {}),
                "llama-3-70b": Size(
                    70_553_706_496, _LLAMA3, {"width": 8192, "depth": 80, "heads": 64, "feed_forward": 28672}
                ),
                "llama-3.1-8b": Size(8_030_261_248, _LLAMA3, _LLAMA31),
                "llama-3.2-1b": Size(
                    1_235_814_400, _LLAMA3, {"width": 2048, "depth": 16, "feed_forward": 8192} | _LLAMA32
                ),
                "llama-3.2-3b": Size(
                    3_212_749_824, _LLAMA3, {"width": 3072, "depth": 28, "heads": 24, "feed_forward": 8192} | _LLAMA32
                ),
            },
        ),
        Family(
            name="t5",
            kind="encoder-decoder",
            config_name="T5Config",
            model_name="T5",
            model_types=("t5",),
            tiny={
                "vocab_size": 61,
                "width": 16,
                "depth": 3,
                "decoder_depth": 2,
                "heads": 3,
                "head_width": 3,
                "feed_forward": 20,
                # Of the four buckets of a direction, two hold one distance each; some distances are the farthest.
                "buckets": 8,
                "farthest": 8,
                "norm_eps": 1e-2,
            }
            | _T511,
            sizes={
                "t5-small": Size(60_506_624, _T5, {}),
                "t5-base": Size(
                    222_903_552,
                    _T5,
                    {"width": 768, "depth": 12, "decoder_depth": 12, "heads": 12, "feed_forward": 3072},
                ),
                "t5-large": Size(
                    737_668_096,
                    _T5,
                    {"width": 1024, "depth": 24, "decoder_depth": 24, "heads": 16, "feed_forward": 4096},
                ),
                "t5-3b": Size(
                    2_851_598_336,
                    _T5,
                    {
                        "width": 1024,
                        "depth": 24,
                        "decoder_depth": 24,
                        "heads": 32,
                        "head_width": 128,
                        "feed_forward": 16384,
                    },
                ),
                "t5-v1.1-small": Size(
                    76_961_152, _T5, {"depth": 8, "decoder_depth": 8, "heads": 6, "feed_forward": 1024} | _T511
                ),
                "t5-v1.1-base": Size(
                    247_577_856,
                    _T5,
                    {"width": 768, "depth": 12, "decoder_depth": 12, "heads": 12, "feed_forward": 2048} | _T511,
                ),
            },
        ),
        Family(
            name="vit",
            kind="vision",
            config_name="ViTConfig",
            model_name="ViT",
            model_types=("vit",),
            tiny={
                "image_size": 16,
                "patch_size": 4,
                "transformer": {"width": 24, "depth": 3, "heads": 3, "feed_forward": 40},
                "norm_eps": 1e-4,
            },
            sizes={
                "vit-b-16": Size(
                    86_567_656 - 769_000,
                    _VIT,
                    {
                        "image_size": 224,
                        "patch_size": 16,
                        "transformer": {"width": 768, "depth": 12, "heads": 12, "feed_forward": 3072},
                    },
                ),
                "vit-l-16": Size(
                    304_326_632 - 1_025_000,
                    _VIT,
                    {
                        "image_size": 224,
                        "patch_size": 16,
                        "transformer": {"width": 1024, "depth": 24, "heads": 16, "feed_forward": 4096},
                    },
                ),
                "vit-h-14": Size(
                    632_045_800 - 1_281_000,
                    _VIT,
                    {
                        "image_size": 224,
                        "patch_size": 14,
                        "transformer": {"width": 1280, "depth": 32, "heads": 16, "feed_forward": 5120},
                    },
                ),
            },
        ),
    )
}

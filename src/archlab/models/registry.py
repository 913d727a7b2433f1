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

Kind = Literal["decoder", "vision", "masked-vision", "image-text", "clip"]
"""decoder: tokens to next-token logits; vision: images to hidden states; masked-vision: images of any size, of which
patches may be masked, to hidden states; image-text: both to logits of matches; clip: frames to hidden states, and those
of some patches to those of others."""


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


_GPT2 = "github.com/openai/gpt-2, counts of the released weights"
_LLAMA3 = "huggingface.co/meta-llama, safetensors parameter counts"
_VIT = "torchvision, counts of the ImageNet-1k weights less their heads of 1000 (width + 1)"
_CLIP = "github.com/openai/CLIP, counts of the released weights"
_META = "huggingface.co/facebook, safetensors parameter counts"
_SIGLIP = "huggingface.co/google, safetensors parameter counts"
_LLAMA31 = {"rotary_scaling": {"factor": 8.0}, "context": 131072}
_LLAMA32 = {"rotary_scaling": {"factor": 32.0}, "context": 131072, "tied": True}


def _size(width: int, depth: int, heads: int, feed_forward: int) -> dict[str, Any]:
    """Options of a Transformer."""
    return {"width": width, "depth": depth, "heads": heads, "feed_forward": feed_forward}


def _clip_large(image_size: int) -> dict[str, Any]:
    """Options of the CLIP that reads patches of 14 pixels."""
    return {
        "image": {
            "image_size": image_size,
            "patch_size": 14,
            "transformer": _size(1024, 24, 16, 4096),
            "norm_eps": 1e-5,
        },
        "text": {"vocab_size": 49408, "context": 77, "transformer": _size(768, 12, 12, 3072), "norm_eps": 1e-5},
        "embedding": 768,
    }


def _siglip(image_size: int, patch_size: int, size: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Options of a SigLIP, whose towers are alike."""
    return {
        "image": {"image_size": image_size, "patch_size": patch_size, "transformer": size, "norm_eps": 1e-6},
        "text": {"vocab_size": vocab_size, "context": 64, "transformer": size, "norm_eps": 1e-6},
    }


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
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
        Family(
            name="clip",
            kind="image-text",
            config_name="CLIPConfig",
            model_name="CLIP",
            model_types=("clip",),
            tiny={
                "image": {
                    "image_size": 14,  # the last two pixels belong to no patch
                    "patch_size": 4,
                    "transformer": _size(24, 3, 3, 40),
                    "norm_eps": 1e-4,
                },
                "text": {"vocab_size": 13, "context": 24, "transformer": _size(16, 2, 2, 24), "norm_eps": 2e-4},
                "embedding": 10,
                "end_token": 7,
            },
            sizes={
                "clip-vit-b-32": Size(151_277_313, _CLIP, {}),
                "clip-vit-b-16": Size(
                    149_620_737,
                    _CLIP,
                    {
                        "image": {
                            "image_size": 224,
                            "patch_size": 16,
                            "transformer": _size(768, 12, 12, 3072),
                            "norm_eps": 1e-5,
                        }
                    },
                ),
                "clip-vit-l-14": Size(427_616_513, _CLIP, _clip_large(224)),
                "clip-vit-l-14-336": Size(427_944_193, _CLIP, _clip_large(336)),
            },
        ),
        Family(
            name="siglip",
            kind="image-text",
            config_name="SigLIPConfig",
            model_name="SigLIP",
            model_types=("siglip",),
            tiny={
                "image": {
                    "image_size": 14,  # the last two pixels belong to no patch
                    "patch_size": 4,
                    "transformer": _size(24, 3, 3, 40),
                    "norm_eps": 1e-4,
                },
                "text": {"vocab_size": 13, "context": 24, "transformer": _size(16, 2, 2, 24), "norm_eps": 2e-4},
            },
            sizes={
                "siglip-base-patch16-224": Size(203_155_970, _SIGLIP, {}),
                "siglip-so400m-patch14-384": Size(
                    877_960_498, _SIGLIP, _siglip(384, 14, _size(1152, 27, 16, 4304), 32000)
                ),
                "siglip2-base-patch16-224": Size(
                    375_187_970, _SIGLIP, _siglip(224, 16, _size(768, 12, 12, 3072), 256000)
                ),
                "siglip2-so400m-patch14-384": Size(
                    1_136_008_498, _SIGLIP, _siglip(384, 14, _size(1152, 27, 16, 4304), 256000)
                ),
            },
        ),
        Family(
            name="dinov2",
            kind="masked-vision",
            config_name="DINOv2Config",
            model_name="DINOv2",
            model_types=("dinov2", "dinov2_with_registers"),
            tiny={
                "image_size": 20,
                "patch_size": 4,
                "transformer": _size(24, 3, 3, 32),
                "gated": True,
                "registers": 2,
                "norm_eps": 1e-4,
            },
            sizes={
                f"dinov2-{name}{'-with-registers' if registers else ''}": Size(
                    parameters + registers * size["width"],
                    _META,
                    {"transformer": size, "gated": name == "giant", "registers": registers},
                )
                for name, parameters, size in (
                    ("small", 22_056_576, _size(384, 12, 6, 1536)),
                    ("base", 86_580_480, _size(768, 12, 12, 3072)),
                    ("large", 304_368_640, _size(1024, 24, 16, 4096)),
                    ("giant", 1_136_480_768, _size(1536, 40, 24, 4096)),
                )
                for registers in (0, 4)
            },
        ),
        Family(
            name="vjepa",
            kind="clip",
            config_name="VJEPAConfig",
            model_name="VJEPA",
            model_types=("vjepa2",),
            tiny={
                "image_size": 12,
                "patch_size": 4,
                "tubelet": 2,
                "transformer": _size(52, 3, 2, 72),  # 26 features per head: four pairs per axis and two that stay
                "predictor": _size(28, 2, 2, 40),
                "mask_tokens": 3,
                "norm_eps": 1e-4,
            },
            sizes={
                "vjepa2-vitl-fpc64-256": Size(325_971_328, _META, {}),
                "vjepa2-vith-fpc64-256": Size(653_930_880, _META, {"transformer": _size(1280, 32, 16, 5120)}),
                "vjepa2-vitg-fpc64-256": Size(1_034_555_264, _META, {"transformer": _size(1408, 40, 22, 6144)}),
                "vjepa2-vitg-fpc64-384": Size(
                    1_034_555_264, _META, {"image_size": 384, "transformer": _size(1408, 40, 22, 6144)}
                ),
            },
        ),
    )
}

"""Models that see: images or clips, and images beside text."""

from __future__ import annotations

from typing import Any

from archlab.models.families.family import Family, Size, Variant

_VIT = "torchvision, counts of the ImageNet-1k weights less their heads of 1000 (width + 1)"
_META = "huggingface.co/facebook, safetensors parameter counts"
_CLIP = "github.com/openai/CLIP, counts of the released weights"
_SIGLIP = "huggingface.co/google, safetensors parameter counts"


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


_SIGLIP_TOWERS = {
    "base": _size(768, 12, 12, 3072),
    "large": _size(1024, 24, 16, 4096),
    "so400m": _size(1152, 27, 16, 4304),
    "giant-opt": _size(1536, 40, 16, 6144),
}

_SIGLIPS = (  # release, vocabulary, and of each: name, patch, image, parameters
    (
        "siglip",
        32000,
        (
            ("base", 16, 224, 203_155_970),
            ("base", 16, 256, 203_202_050),
            ("base", 16, 384, 203_447_810),
            ("base", 16, 512, 203_791_874),
            ("large", 16, 256, 652_150_786),
            ("large", 16, 384, 652_478_466),
            ("so400m", 14, 384, 877_960_498),
        ),
    ),
    (
        "siglip2",
        256000,
        (
            ("base", 32, 256, 376_856_066),
            ("base", 16, 224, 375_187_970),
            ("base", 16, 256, 375_234_050),
            ("base", 16, 384, 375_479_810),
            ("base", 16, 512, 375_823_874),
            ("large", 16, 256, 881_526_786),
            ("large", 16, 384, 881_854_466),
            ("large", 16, 512, 882_313_218),
            ("so400m", 14, 224, 1_135_463_602),
            ("so400m", 14, 384, 1_136_008_498),
            ("so400m", 16, 256, 1_135_670_962),
            ("so400m", 16, 384, 1_136_039_602),
            ("so400m", 16, 512, 1_136_555_698),
            ("giant-opt", 16, 256, 1_871_393_906),
            ("giant-opt", 16, 384, 1_871_885_426),
        ),
    ),
)


def _siglip(
    name: str, patch_size: int, image_size: int, parameters: int, *, vocab_size: int, context: int = 64
) -> Size:
    """A SigLIP, whose towers are alike; the text tower of the giant one is that of so400m."""
    image, text = _SIGLIP_TOWERS[name], _SIGLIP_TOWERS["so400m" if name == "giant-opt" else name]
    return Size(
        parameters,
        _SIGLIP,
        {
            "image": {"image_size": image_size, "patch_size": patch_size, "transformer": image, "norm_eps": 1e-6},
            "text": {"vocab_size": vocab_size, "context": context, "transformer": text, "norm_eps": 1e-6},
        },
    )


VISION: tuple[Family, ...] = (
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
            "vit-b-32": Size(
                88_224_232 - 769_000,
                _VIT,
                {
                    "image_size": 224,
                    "patch_size": 32,
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
            "vit-l-32": Size(
                306_535_400 - 1_025_000,
                _VIT,
                {
                    "image_size": 224,
                    "patch_size": 32,
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
        variants={
            "without registers and gate": Variant(
                {"registers": 0, "gated": False, "transformer": _size(24, 3, 3, 48)},
            )
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
        variants={
            "pooled at the highest id": Variant({"end_token": None}),
            "GELU": Variant({"activation": "gelu"}),
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
            **{
                f"{release}-{name}-patch{patch_size}-{image_size}": _siglip(
                    name, patch_size, image_size, parameters, vocab_size=vocab_size
                )
                for release, vocab_size, sizes in _SIGLIPS
                for name, patch_size, image_size, parameters in sizes
            },
            "siglip-so400m-patch14-224": _siglip("so400m", 14, 224, 877_360_306, vocab_size=32000, context=16),
            "siglip-base-patch16-256-multilingual": _siglip("base", 16, 256, 370_626_050, vocab_size=250000),
            "siglip-so400m-patch16-256-i18n": _siglip("so400m", 16, 256, 1_128_758_962, vocab_size=250000),
        },
    ),
)

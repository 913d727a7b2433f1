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


def _siglip(image_size: int, patch_size: int, size: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Options of a SigLIP, whose towers are alike."""
    return {
        "image": {"image_size": image_size, "patch_size": patch_size, "transformer": size, "norm_eps": 1e-6},
        "text": {"vocab_size": vocab_size, "context": 64, "transformer": size, "norm_eps": 1e-6},
    }


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
            "siglip-base-patch16-224": Size(203_155_970, _SIGLIP, {}),
            "siglip-so400m-patch14-384": Size(877_960_498, _SIGLIP, _siglip(384, 14, _size(1152, 27, 16, 4304), 32000)),
            "siglip2-base-patch16-224": Size(375_187_970, _SIGLIP, _siglip(224, 16, _size(768, 12, 12, 3072), 256000)),
            "siglip2-so400m-patch14-384": Size(
                1_136_008_498, _SIGLIP, _siglip(384, 14, _size(1152, 27, 16, 4304), 256000)
            ),
        },
    ),
)

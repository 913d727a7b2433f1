"""Models that see: images or clips, and images beside text."""

from __future__ import annotations

from archlab.models.families.family import Family, Size

_VIT = "torchvision, counts of the ImageNet-1k weights less their heads of 1000 (width + 1)"

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

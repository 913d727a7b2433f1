"""SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) at one resolution: CLIP for a sigmoid loss.

Shape legend: B samples, T tokens, C channels, H x W pixels, N patches, D width of the image tower, E embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import Section, TransformerConfig
from archlab.layers.embeddings import PatchEmbedding
from archlab.layers.feedforward import MLP
from archlab.layers.initialization import initialize
from archlab.layers.pooling import AttentionPooling
from archlab.models.towers import ImageTowerConfig, TextTower, TextTowerConfig, tower_block

_SCALE, _BIAS = 10.0, -10.0  # of the logits at the start of training (section 3.2)


@dataclass(frozen=True, kw_only=True)
class SigLIPConfig(Section):
    """Shape of a SigLIP; the defaults are the base model with patches of 16 pixels.

    The embedding is as wide as the image tower.
    """

    image: ImageTowerConfig = field(
        default_factory=lambda: ImageTowerConfig(
            image_size=224,
            patch_size=16,
            transformer=TransformerConfig(width=768, depth=12, heads=12, feed_forward=3072),
            norm_eps=1e-6,
        )
    )
    text: TextTowerConfig = field(
        default_factory=lambda: TextTowerConfig(
            vocab_size=32000,
            context=64,
            transformer=TransformerConfig(width=768, depth=12, heads=12, feed_forward=3072),
            norm_eps=1e-6,
        )
    )


class ImageTower(nn.Module):
    """Images to one normalised state per patch: a ViT without class token."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        self.config = config
        size = config.transformer
        self.patch_embedding = PatchEmbedding(config.channels, config.patch_size, size.width)
        self.positions = nn.Parameter(torch.empty(config.patches, size.width))
        self.blocks = nn.ModuleList(tower_block(size, config.norm_eps, "gelu-tanh") for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=config.norm_eps)
        initialize(self, size.depth)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D)."""
        x = self.patch_embedding(self.config.whole_patches(images)) + self.positions  # (B, N, D)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PoolingHead(nn.Module):
    """Attention pooling, then a residual feed-forward layer ("Scaling vision transformers", arXiv 2106.04560, 3.2)."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        size = config.transformer
        self.pooling = AttentionPooling(size.width, size.heads, bias=True)
        self.norm = nn.LayerNorm(size.width, eps=config.norm_eps)
        self.feed_forward = MLP(size.width, size.feed_forward, activation="gelu-tanh")
        initialize(self, depth=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        x = self.pooling(x)
        return x + self.feed_forward(self.norm(x))


class SigLIP(nn.Module):
    """Images and texts to logits of matches, each decided on its own; see `models.protocols.ImageTextModel`.

    A text is pooled at its last token, padding or not: the released models read every text padded to the context.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide a width.
    """

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config.image)
        self.image_head = PoolingHead(config.image)
        self.text = TextTower(config.text, activation="gelu-tanh", causal=False)
        self.text_head = nn.Linear(config.text.transformer.width, config.image.transformer.width)
        self.log_scale = nn.Parameter(torch.tensor([math.log(_SCALE)]))
        self.bias = nn.Parameter(torch.tensor([_BIAS]))
        initialize(self.text_head, depth=1, std=config.text.transformer.width**-0.5)

    def patch_states(self, images: Tensor) -> Tensor:
        """See `models.protocols.VisionEncoder`."""
        return self.image(images)  # (B, N, D)

    def embed_images(self, images: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`."""
        return F.normalize(self.image_head(self.image(images)), dim=-1)  # (B, E)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`; pad texts to the context with the tokenizer's padding token."""
        return F.normalize(self.text_head(self.text(tokens)[:, -1]), dim=-1)  # (B, E)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`; the sigmoid of one is the probability of the match (equation 1)."""
        return self.log_scale.exp() * images @ texts.T + self.bias

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`."""
        return self.logits(self.embed_images(images), self.embed_texts(tokens))

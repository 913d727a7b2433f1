"""CLIP (arXiv 2103.00020): an image tower and a text tower whose vectors match where image and text do.

Shape legend: B samples, T tokens, C channels, H x W pixels, N patches, D width of the image tower, E embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError
from archlab.layers.embeddings import PatchEmbedding
from archlab.layers.initialization import initialize
from archlab.models.towers import ImageTowerConfig, TextTower, TextTowerConfig, tower_block
from archlab.rules import Count

_TEMPERATURE = 0.07  # at the start of training (section 2.5)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(Section):
    """Shape of a CLIP; the defaults are ViT-B/32."""

    image: ImageTowerConfig = field(
        default_factory=lambda: ImageTowerConfig(
            image_size=224,
            patch_size=32,
            transformer=TransformerConfig(width=768, depth=12, heads=12, feed_forward=3072),
            norm_eps=1e-5,
        )
    )
    text: TextTowerConfig = field(
        default_factory=lambda: TextTowerConfig(
            vocab_size=49408,
            context=77,
            transformer=TransformerConfig(width=512, depth=12, heads=8, feed_forward=2048),
            norm_eps=1e-5,
        )
    )
    embedding: Count = 512
    """E."""
    activation: Literal["gelu", "gelu-quick"] = "gelu-quick"
    """"gelu-quick": the models of OpenAI; "gelu": most that others trained."""
    end_token: int | None = None
    """A text is pooled at the first token with this id; None: at its highest id, which the end has in OpenAI's
    vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_token is not None and not 0 <= self.end_token < self.text.vocab_size:
            raise UserError(f"end_token={self.end_token}: must be an id of the vocabulary of {self.text.vocab_size}")


class ImageTower(nn.Module):
    """Images to the state of the class token and those of all patches, all normalised.

    Differs from ViT: no bias in the map of patches, and a norm before the first block (section 2.4).
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config.image
        size, eps = self.config.transformer, self.config.norm_eps
        self.patch_embedding = PatchEmbedding(self.config.channels, self.config.patch_size, size.width, bias=False)
        self.class_token = nn.Parameter(torch.empty(1, 1, size.width))
        self.positions = nn.Parameter(torch.empty(1 + self.config.patches, size.width))
        self.input_norm = nn.LayerNorm(size.width, eps=eps)
        self.blocks = nn.ModuleList(tower_block(size, eps, config.activation) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=eps)
        initialize(self, size.depth)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1 + N, D)."""
        x = self.patch_embedding(self.config.whole_patches(images))  # (B, N, D)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions  # (B, 1 + N, D)
        x = self.input_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class CLIP(nn.Module):
    """Images and texts to logits of matches; see `models.protocols.ImageTextModel`.

    The text tower is causal, so that padding after the end of a text changes nothing. Differs from the paper: the final
    norm of the image tower is also applied to the patches, whose states the paper does not use.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide a width.
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config.text, activation=config.activation, causal=True)
        self.image_head = nn.Linear(config.image.transformer.width, config.embedding, bias=False)
        self.text_head = nn.Linear(config.text.transformer.width, config.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_TEMPERATURE)))
        for head in (self.image_head, self.text_head):
            initialize(head, depth=1, std=head.in_features**-0.5)

    def patch_states(self, images: Tensor) -> Tensor:
        """See `models.protocols.VisionEncoder`."""
        return self.image(images)[:, 1:]  # (B, N, D)

    def embed_images(self, images: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`."""
        return F.normalize(self.image_head(self.image(images)[:, 0]), dim=-1)  # (B, E)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`; a text without an end is pooled at its first token."""
        end = self.config.end_token
        ends = tokens.argmax(1) if end is None else (tokens == end).int().argmax(1)  # (B), the first of equals
        states = self.text(tokens)[torch.arange(len(tokens), device=tokens.device), ends]
        return F.normalize(self.text_head(states), dim=-1)  # (B, E)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`."""
        return self.log_scale.exp() * images @ texts.T

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """See `models.protocols.ImageTextModel`."""
        return self.logits(self.embed_images(images), self.embed_texts(tokens))

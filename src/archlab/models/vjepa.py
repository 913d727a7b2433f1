"""V-JEPA 2 (arXiv 2506.09985): an encoder of clips, and a predictor of the states of patches that it did not see.

Shape legend: B samples, F frames, C channels, H x W pixels, f x h x w = N patches of a clip, n given and m wanted
patches, D width of the encoder, P of the predictor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from archlab.config import Section, TransformerConfig
from archlab.errors import UserError
from archlab.layers.embeddings import TubeletEmbedding, patches_per_side, take
from archlab.layers.initialization import initialize
from archlab.layers.positions import Rotation
from archlab.layers.rotary_3d import Rotary3D
from archlab.models.vit import vit_block
from archlab.rules import Count, Positive


@dataclass(frozen=True, kw_only=True)
class VJEPAConfig(Section):
    """Shape of a V-JEPA 2; the defaults are ViT-L at 256 pixels."""

    image_size: Count = 256
    patch_size: Count = 16
    tubelet: Count = 2
    """Frames per patch."""
    channels: Count = 3
    transformer: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=1024, depth=24, heads=16, feed_forward=4096)
    )
    """The encoder."""
    predictor: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=384, depth=12, heads=12, feed_forward=1536)
    )
    mask_tokens: Count = 10
    """Vectors that stand for wanted patches, one for each way of masking in pretraining."""
    norm_eps: Positive = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        patches_per_side(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """h and w."""
        side = patches_per_side(self.image_size, self.patch_size)
        return side, side

    @property
    def patches(self) -> int:
        """Of one tubelet."""
        return self.grid[0] * self.grid[1]


class Encoder(nn.Module):
    """Clips to one normalised state per patch: a ViT on tubelets with rotary positions (section 2.1)."""

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.config = config
        size = config.transformer
        self.patch_embedding = TubeletEmbedding(config.channels, config.tubelet, config.patch_size, size.width)
        self.rotary = Rotary3D(size.width // size.heads, config.grid)
        self.blocks = nn.ModuleList(vit_block(size, config.norm_eps) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=config.norm_eps)
        initialize(self, size.depth)

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, F, C, H, W) -> (B, N, D), for any number of tubelets; or (B, n, D) of the patches `keep` (B, n) alone."""
        config = self.config
        expected = (config.channels, config.image_size, config.image_size)
        if clips.shape[2:] != expected or clips.shape[1] % config.tubelet:
            raise UserError(
                f"clips of shape {tuple(clips.shape[1:])}: this model reads (frames, *{expected}), "
                f"frames a multiple of {config.tubelet}; resize or repeat them"
            )
        x = self.patch_embedding(clips, keep)  # (B, N or n, D)
        rotation = self.rotary(torch.arange(x.shape[1], device=x.device)[None] if keep is None else keep)
        return self.norm(_run(self.blocks, x, rotation))


class Predictor(nn.Module):
    """States of some patches to those of others (section 2.1).

    Differs from the released code: tokens are not sorted by position, which changes nothing, as their turns say it.
    """

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        size, width = config.predictor, config.transformer.width
        self.embedding = nn.Linear(width, size.width)
        self.mask_tokens = nn.Parameter(torch.empty(config.mask_tokens, size.width))
        self.rotary = Rotary3D(size.width // size.heads, config.grid)
        self.blocks = nn.ModuleList(vit_block(size, config.norm_eps) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=config.norm_eps)
        self.head = nn.Linear(size.width, width)
        initialize(self, size.depth)

    def forward(self, states: Tensor, context: Tensor, targets: Tensor, *, mask_token: int = 1) -> Tensor:
        """Predict the states of the wanted patches from those of the given ones.

        Args:
            states: of all patches, (B, N, D); only those of `context` are read.
            context: indices of the given patches, (B, n).
            targets: indices of the wanted patches, (B, m).
            mask_token: which of the vectors stands for the wanted patches, counted round.

        Returns:
            (B, m, D).
        """
        return self.fill(take(states, context), context, targets, mask_token=mask_token)

    def fill(self, given: Tensor, context: Tensor, targets: Tensor, *, mask_token: int) -> Tensor:
        """As `forward`, from the states of the given patches alone, (B, n, D)."""
        given = self.embedding(given)  # (B, n, P)
        wanted = self.mask_tokens[mask_token % len(self.mask_tokens)].expand(*targets.shape, -1)  # (B, m, P)
        rotation = self.rotary(torch.cat([context, targets], 1))
        x = _run(self.blocks, torch.cat([given, wanted], 1), rotation)  # (B, n + m, P)
        return self.head(self.norm(x[:, context.shape[1] :]))


class VJEPA(nn.Module):
    """Clips to the predicted states of wanted patches; `encoder` alone describes what is seen.

    Differs from pretraining: the encoder sees the whole clip, as in `transformers`, and the predictor what it is given.

    Args:
        config: shape of the model.

    Raises:
        UserError: the heads do not divide a width, or are too narrow for rotary positions in three axes.
    """

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.predictor = Predictor(config)

    def patch_states(self, images: Tensor) -> Tensor:
        """See `models.protocols.VisionEncoder`; one image, repeated, makes one tubelet."""
        return self.encoder(as_clips(images, self.config.tubelet))  # (B, N, D)

    def forward(self, clips: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) or images (B, C, H, W), and indices (B, n), (B, m) -> (B, m, D); see `Predictor`."""
        return self.predictor(self.patch_states(clips), context, targets)


def as_clips(images: Tensor, tubelet: int) -> Tensor:
    """Images (B, C, H, W), or clips of one frame, repeated to fill one tubelet: (B, tubelet, C, H, W)."""
    clips = images[:, None] if images.dim() == 4 else images
    return clips.expand(-1, tubelet, -1, -1, -1) if clips.shape[1] == 1 else clips


def _run(blocks: Iterable[nn.Module], x: Tensor, rotation: Rotation) -> Tensor:
    for block in blocks:
        x = block(x, rotation=rotation)
    return x

"""Images to sequences of patches and back; tokens to vectors and back.

Shape legend: B samples, C channels, H x W pixels, p pixels per side of a patch, h x w = N patches, P = C * p * p values
per patch in the order (channel, row, column). Patches come row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.errors import UserError


def patches_per_side(image_size: int, patch_size: int) -> int:
    """Patches along one side of a square image.

    Raises:
        UserError: the patches do not fill the image.
    """
    if image_size % patch_size:
        raise UserError(f"image_size={image_size}: must be a multiple of patch_size={patch_size}")
    return image_size // patch_size


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, N, P).

    Raises:
        UserError: a side of the image is no multiple of the patch.
    """
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise UserError(f"image of {height} x {width} pixels: both sides must be multiples of the patch, {patch}")
    patches = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, P)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Put patches (B, N, P) of a grid (h, w) together to images (B, C, H, W): the inverse of `patchify`."""
    pixels = patches.unflatten(2, (-1, patch, patch)).unflatten(1, grid)  # (B, h, w, C, p, p)
    return pixels.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (B, C, H, W)


class PatchEmbedding(nn.Module):
    """One linear map of every patch (ViT, arXiv 2010.11929, equation 1).

    Equal to a convolution whose stride is its kernel, but able to embed chosen patches only.

    Args:
        channels: C.
        patch: p.
        width: features per patch.
        bias: whether the map has one.
    """

    def __init__(self, channels: int, patch: int, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Linear(channels * patch * patch, width, bias=bias)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed images (B, C, H, W), or only their patches with the indices `keep` (B, n): (B, N or n, width)."""
        patches = patchify(images, self.patch)
        if keep is not None:
            patches = take(patches, keep)
        return self.projection(patches)


class TubeletEmbedding(nn.Module):
    """One linear map of every patch of several frames (ViViT, arXiv 2103.15691, section 3.2).

    Equal to a convolution over frames, rows and columns whose stride is its kernel.

    Args:
        channels: C.
        frames: of a patch.
        patch: p.
        width: features per patch.
    """

    def __init__(self, channels: int, frames: int, patch: int, width: int) -> None:
        super().__init__()
        self.frames = frames
        self.patches = PatchEmbedding(channels * frames, patch, width)

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed clips (B, F, C, H, W), tubelet by tubelet, or their patches `keep` (B, n): (B, all or n, width)."""
        tubelets = clips.unflatten(1, (-1, self.frames)).transpose(2, 3)  # (B, F / frames, C, frames, H, W)
        samples, count = tubelets.shape[:2]
        patches = self.patches(tubelets.flatten(2, 3).flatten(0, 1))  # (B * F / frames, N, width)
        patches = patches.unflatten(0, (samples, count)).flatten(1, 2)
        return patches if keep is None else take(patches, keep)  # (B, n, width): the map costs little beside the blocks


def take(x: Tensor, indices: Tensor) -> Tensor:
    """Each sample's rows at its own indices: (B, N, D) and (B, n) -> (B, n, D)."""
    return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))


class TokenEmbedding(nn.Module):
    """Token ids to vectors, and states to logits with the same table (arXiv 1706.03762, section 3.4).

    The table has standard deviation 1 / sqrt(W) and is multiplied by sqrt(W) on the way in: vectors and logits both
    have unit variance at the start. Without the factor, narrow models lose the tokens among the outputs of their first
    block, and contrastive learning starts from embeddings that are all alike.

    Args:
        vocab_size: V.
        width: W.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.scale = width**0.5
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        nn.init.normal_(self.weight, std=1 / self.scale)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (..., W) of ids (...)."""
        return F.embedding(ids, self.weight) * self.scale

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., W)."""
        return F.linear(states, self.weight)


def output_logits(states: Tensor, head: nn.Module | None, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits (..., V) of states (..., W): of the output layer, or where there is none of the token table.

    Args:
        table: (V, W).
        bias: (V), for the table alone.
    """
    logits: Tensor = F.linear(states, table, bias) if head is None else head(states)
    return logits

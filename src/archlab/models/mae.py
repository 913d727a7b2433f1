"""Masked autoencoder (arXiv 2111.06377): encode the few visible patches, then predict the pixels of the others.

Shape legend: B samples, C channels, H x W pixels, N patches, n visible patches, D widths, P pixel values per patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.layers.initialization import initialize
from archlab.layers.positions import sinusoidal_2d
from archlab.models.vit import ViT, ViTConfig, vit_block


class MaskedAutoencoder(nn.Module):
    """A ViT on visible patches and a small decoder that is thrown away after pretraining (section 3).

    Args:
        encoder: shape of the ViT that is kept, `self.encoder`.
        decoder: size of the decoder.
    """

    positions: Tensor

    def __init__(self, encoder: ViTConfig, decoder: TransformerConfig) -> None:
        super().__init__()
        self.decoder_embedding = nn.Linear(encoder.transformer.width, decoder.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.width))
        self.register_buffer("positions", sinusoidal_2d(*encoder.grid, decoder.width), persistent=False)
        self.blocks = nn.ModuleList(vit_block(decoder, encoder.norm_eps) for _ in range(decoder.depth))
        self.norm = nn.LayerNorm(decoder.width, eps=encoder.norm_eps)
        self.prediction = nn.Linear(decoder.width, encoder.channels * encoder.patch_size**2)
        initialize(self, decoder.depth)
        self.encoder = ViT(encoder)

    def forward(self, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Predict every patch from the visible ones.

        Args:
            images: (B, C, H, W).
            visible: indices of the patches that the encoder sees, (B, n).

        Returns:
            prediction (B, N, P), in the pixel order of `layers.embeddings.patchify`, and masked (B, N), True at patches
            that the encoder did not see.
        """
        x = self.decoder_embedding(self.encoder(images, visible))  # (B, n, D), or 1 + n with a class token
        of_class, of_patches = x.split([x.shape[1] - visible.shape[1], visible.shape[1]], 1)
        everywhere = self.mask_token.to(x.dtype).expand(len(x), len(self.positions), -1)  # (B, N, D)
        patches = everywhere.scatter(1, visible[:, :, None].expand_as(of_patches), of_patches) + self.positions
        x = torch.cat([of_class, patches], 1)
        for block in self.blocks:
            x = block(x)
        masked = torch.ones(patches.shape[:2], dtype=torch.bool, device=x.device).scatter(1, visible, False)
        return self.prediction(self.norm(x[:, of_class.shape[1] :])), masked

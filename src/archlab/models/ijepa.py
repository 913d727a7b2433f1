"""The predictor of I-JEPA (arXiv 2301.08243, section 3): a narrow ViT that fills in the states of hidden patches.

Shape legend: B samples, N patches, n given and m wanted patches, D width of the encoder, P of the predictor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.config import TransformerConfig
from archlab.layers.initialization import initialize
from archlab.layers.positions import sinusoidal_2d
from archlab.models.vit import ViTConfig, vit_block


class Predictor(nn.Module):
    """States of some patches to those of others, known by their places alone.

    Args:
        encoder: shape of the ViT whose states it reads.
        size: of the predictor.
    """

    positions: Tensor

    def __init__(self, encoder: ViTConfig, size: TransformerConfig) -> None:
        super().__init__()
        width = encoder.transformer.width
        self.embedding = nn.Linear(width, size.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.width))
        self.register_buffer("positions", sinusoidal_2d(*encoder.grid, size.width), persistent=False)
        self.blocks = nn.ModuleList(vit_block(size, encoder.norm_eps) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=encoder.norm_eps)
        self.head = nn.Linear(size.width, width)
        initialize(self, size.depth)

    def fill(self, given: Tensor, context: Tensor, targets: Tensor, *, mask_token: int = 0) -> Tensor:
        """Predict the states of the wanted patches.

        Args:
            given: states of the given patches, (B, n, D).
            context: their indices, (B, n).
            targets: indices of the wanted patches, (B, m).
            mask_token: for one interface with `models.vjepa.Predictor`; there is one here, whatever it says.

        Returns:
            (B, m, D).
        """
        seen = self.embedding(given) + self.positions[context]  # (B, n, P)
        x = torch.cat([seen, self.mask_token + self.positions[targets]], 1)  # (B, n + m, P)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, context.shape[1] :]))

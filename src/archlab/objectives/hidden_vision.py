"""Hidden visual tokens predicted from language: what the text says must be found again in the frozen features.

Shape legend: B samples, N visual tokens, D features per visual token, T text tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.objectives.global_batch import share
from archlab.objectives.masked_autoencoder import random_visible
from archlab.objectives.output import Output

if TYPE_CHECKING:
    from archlab.data.batch import Batch


class ReconstructsVision(Protocol):
    """A model that predicts visual tokens."""

    def reconstruct(self, features: Tensor, visible: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Features (B, N, D) of all visual tokens, given those that are visible (B, N) and a text (B, T)."""
        ...


class HiddenVision(nn.Module):
    """L1 between predicted and frozen features, each token's features normalised (V-JEPA, arXiv 2404.08471, section 3).

    The text is the query followed by the answer: a query alone says little about the picture. The embedding that is
    predicted for the answer is that of another pass, which never sees it.

    Args:
        mask_ratio: share of the visual tokens that is hidden, drawn from the global random state.
    """

    def __init__(self, mask_ratio: float) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio

    def forward(self, model: ReconstructsVision, batch: Batch) -> Output:
        """`loss` is the mean over hidden tokens and features."""
        samples, tokens, width = batch.features.shape
        kept = random_visible(samples, tokens, self.mask_ratio, device=batch.features.device)
        visible = torch.zeros(samples, tokens, dtype=torch.bool, device=kept.device).scatter(1, kept, True)
        text = torch.cat([batch.query, batch.target], 1)
        text_mask = torch.cat([batch.query_mask, batch.target_mask], 1)
        predicted = model.reconstruct(batch.features, visible, text, text_mask)
        wanted = F.layer_norm(batch.features.float(), (width,))
        loss = share(F.l1_loss(predicted.float()[~visible], wanted[~visible]), samples)
        return Output(loss, {"hidden_vision": loss.detach()})

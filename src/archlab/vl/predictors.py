"""From image and query to the one state that the embedding is predicted from: three ways over the shared backbone.

Shape legend: B samples, N visual tokens, D features per visual token, Q query tokens, T text tokens, W width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from archlab.config import PredictorConfig, TransformerConfig
from archlab.layers import masks
from archlab.layers.block import CrossStack
from archlab.layers.pooling import masked_mean
from archlab.vl.backbone import Backbone, positions_of


class JointPredictor(nn.Module):
    """The paper's: the trunk reads visual and query tokens as one sequence, and their states are averaged.

    Args:
        causal: keep the language model's causal mask (an ablation of table 7).
        conditioned: whether the query is read.
    """

    def __init__(self, *, causal: bool = False, conditioned: bool = True) -> None:
        super().__init__()
        self.causal, self.conditioned = causal, conditioned

    def forward(self, backbone: Backbone, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """State (B, W) of features (B, N, D) and query ids (B, Q)."""
        if not self.conditioned:
            query, query_mask = query[:, :0], query_mask[:, :0]
        if not self.causal:
            return backbone.pooled(features, query, query_mask)
        embeddings, mask = backbone.embed(features, query, query_mask)
        positions = positions_of(mask)
        attend = masks.combine(masks.padding(mask), masks.causal(positions, positions))
        return masked_mean(backbone.trunk(embeddings, mask=attend, positions=positions), mask)

    def idle(self, backbone: Backbone) -> list[nn.Module]:
        """Parts of the backbone that it does not use."""
        return [] if self.conditioned else [backbone.token_embedding]


class CrossPredictor(nn.Module):
    """The trunk reads the query alone; visual tokens attend to each other and ask the query's states.

    It can also be asked for hidden visual tokens: from those that are left and from a text, it predicts the frozen
    features, as a masked autoencoder does with pixels.

    Args:
        config: size of the stack; its width is the backbone's.
        feature_width: D.
        hides: whether visual tokens will be hidden; without, what that needs is not made.
    """

    def __init__(self, config: TransformerConfig, feature_width: int, *, hides: bool) -> None:
        super().__init__()
        self.stack = CrossStack(config)
        if hides:
            self.mask_token = nn.Parameter(torch.randn(config.width))  # of unit variance, as visual tokens are
            self.to_features = nn.Linear(config.width, feature_width)

    def forward(self, backbone: Backbone, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """State (B, W), the mean of the visual tokens' states (B, N, W)."""
        states = self._ask(backbone, backbone.see(features), query, query_mask)
        return masked_mean(states, query_mask.new_ones(states.shape[:2]))

    def reconstruct(
        self, backbone: Backbone, features: Tensor, visible: Tensor, text: Tensor, text_mask: Tensor
    ) -> Tensor:
        """Predicted features (B, N, D) of all visual tokens, from the visible ones and a text.

        Args:
            visible: True at the visual tokens that may be seen, (B, N).
            text: ids (B, T); text_mask: True at real tokens.
        """
        visual = backbone.see(features)  # (B, N, W)
        visual = torch.where(visible[:, :, None], visual, self.mask_token.to(visual.dtype))
        return self.to_features(self._ask(backbone, visual, text, text_mask))

    def idle(self, backbone: Backbone) -> list[nn.Module]:
        """See `JointPredictor`."""
        return []

    def _ask(self, backbone: Backbone, visual: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        no_image = visual.new_zeros(len(visual), 0, backbone.visual_projection.in_features)
        return self.stack(visual, *backbone(no_image, text, text_mask))


class NoPredictor(nn.Module):
    """CLIP's way (arXiv 2103.00020, section 2.3), over a frozen image tower: the mean visual token, projected.

    The query is not read: without a predictor there is nothing that could combine the two.
    """

    def forward(self, backbone: Backbone, features: Tensor, query: Tensor, query_mask: Tensor) -> Tensor:
        """State (B, W)."""
        return masked_mean(backbone.see(features), query_mask.new_ones(features.shape[:2]))

    def idle(self, backbone: Backbone) -> list[nn.Module]:
        """See `JointPredictor`."""
        return [backbone.trunk, backbone.token_embedding]


Predictor = JointPredictor | CrossPredictor | NoPredictor


def build_predictor(config: PredictorConfig, trunk: TransformerConfig, feature_width: int) -> Predictor:
    """The predictor of a run; the joint one and none at all have no parameters of their own."""
    if config.kind == "cross-attention":
        return CrossPredictor(replace(trunk, depth=config.depth), feature_width, hides=config.reconstruction > 0)
    if config.kind == "none":
        return NoPredictor()
    return JointPredictor(causal=config.attention == "causal", conditioned=config.conditioned)

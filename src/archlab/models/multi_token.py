"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): a further module predicts one token further.

Shape legend: B samples, T tokens, n = T - k positions of the k-th module, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.layers.causal import causal_context
from archlab.layers.initialization import initialize
from archlab.layers.norms import RMSNorm
from archlab.models.deepseek import Deepseek, DeepseekConfig, make_block


class ExtraPrediction(nn.Module):
    """The k-th module: from the state at token i and the token i + k to the state that predicts token i + k + 1.

    Token table and output layer are the model's; the module adds a projection, a block with experts and three norms.

    Differs from the paper, as the released weights do: the embedding comes before the state in the concatenation of
    equation 21; and the paper leaves open that states are taken after a norm of their own, the model's final one or
    the previous module's.

    Args:
        config: of the model.
    """

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.embedding_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.state_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.projection = nn.Linear(2 * config.width, config.width, bias=False)
        self.block = make_block(config, max(config.depth, config.dense_layers))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        initialize(self, config.depth + 1)

    def forward(self, model: Deepseek, states: Tensor, tokens: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Equations 21 and 22; `model.head` of the result is equation 23.

        Args:
            model: whose table and rotary positions are shared.
            states: of `Deepseek.states` for the first module, of the previous module for the others, (B, n + 1, W).
            tokens: ids of the whole sequences, (B, T).
            mask: True at real tokens, (B, T), which stand side by side; None: all are real.

        Returns:
            (B, n, W).

        Raises:
            UserError: there are more tokens than the model reads, or the mask has another shape.
        """
        count = states.shape[1] - 1
        ahead = tokens[:, tokens.shape[1] - count :]  # token i + k of every position i
        if mask is not None:
            mask = mask[:, :count] & mask[:, mask.shape[1] - count :]  # both are real, and so are those between
        at = causal_context(ahead, mask=mask, cache=None, limit=model.config.context)
        both = [self.embedding_norm(model.token_embedding(ahead)), self.state_norm(states[:, :-1])]
        x = self.projection(torch.cat(both, -1))  # (B, n, W)
        return self.norm(self.block(x, mask=at.mask, rotation=model.rotary(at.positions)))

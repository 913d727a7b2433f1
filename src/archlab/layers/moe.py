"""Mixture of experts: a router sends every token to a few of many feed-forward layers. No token is ever dropped.

Shape legend: B samples, T tokens, N = B * T tokens in a row, W width, E experts, k experts per token, F hidden width of
an expert, G groups of neighbouring experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.layers.attention import Switchable
from archlab.layers.feedforward import GatedMLP
from archlab.layers.precision import FullPrecisionBuffers

Scores = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Routing:
    """Where one layer sends each token.

    Attributes:
        experts: the chosen ones, all different, (N, k).
        weights: of their outputs, (N, k).
        scores: of all experts, without correction, (N, E).
    """

    experts: Tensor
    weights: Tensor
    scores: Tensor

    def load(self, mask: Tensor | None = None) -> Tensor:
        """Tokens per expert, (E); those where `mask` (B, T) is False do not count."""
        chosen = self.experts if mask is None else self.experts[mask.flatten()]
        return torch.bincount(chosen.flatten(), minlength=self.scores.shape[1])


class Router(FullPrecisionBuffers):
    """Scores every expert for every token and chooses the best k.

    With "softmax" scores this is Mixtral's (arXiv 2401.04088, section 2.1), with "sigmoid", groups and a correction
    DeepSeek-V3's (arXiv 2412.19437, section 2.1.2, equations 12 to 16). Scores are computed in float32, as in Switch
    (arXiv 2101.03961, section 2.4).

    Differs from the paper: the score of a group is always the sum of its two best experts, as in the released code of
    DeepSeek-V3; the paper sums as many as each group has to give, k / chosen_groups, which is two in its model.

    Args:
        width: W.
        experts: E.
        chosen: k.
        scores: "softmax" over all experts, or "sigmoid" of each.
        renormalise: whether the weights of a token's experts add up to `scale`.
        scale: factor of the weights.
        groups: G.
        chosen_groups: only experts of the best so many groups can be chosen.
        corrected: whether there is a `correction` (E), added to the scores when experts are chosen but not when they
            are weighted; see `rebalance`. It stays in float32: rounded, it would choose other experts.

    Raises:
        UserError: the numbers of experts and groups do not fit together.
    """

    correction: Tensor | None

    def __init__(
        self,
        width: int,
        experts: int,
        chosen: int,
        *,
        scores: Scores = "softmax",
        renormalise: bool = True,
        scale: float = 1.0,
        groups: int = 1,
        chosen_groups: int = 1,
        corrected: bool = False,
    ) -> None:
        super().__init__()
        if experts % groups or (groups > 1 and experts // groups < 2):
            raise UserError(f"groups={groups}: must divide the {experts} experts, two or more in each")
        if chosen_groups > groups:
            raise UserError(f"chosen_groups={chosen_groups}: must be at most groups={groups}")
        if chosen > experts // groups * chosen_groups:
            raise UserError(
                f"chosen_experts={chosen}: must be at most the {experts // groups * chosen_groups} experts "
                f"that a token can reach"
            )
        self.chosen = chosen
        self.activation: Scores = scores
        self.renormalise = renormalise
        self.scale = scale
        self.groups = groups
        self.chosen_groups = chosen_groups
        self.weight = nn.Parameter(torch.empty(experts, width))
        nn.init.normal_(self.weight, std=width**-0.5)
        self.register_buffer("correction", torch.zeros(experts) if corrected else None)

    def forward(self, x: Tensor) -> Routing:
        """Route tokens (N, W)."""
        logits = F.linear(x.float(), self.weight.float())  # (N, E)
        scores = logits.softmax(-1) if self.activation == "softmax" else logits.sigmoid()
        preference = scores if self.correction is None else scores + self.correction
        if self.groups > 1:
            preference = self._within_best_groups(preference)
        experts = preference.topk(self.chosen, -1).indices  # (N, k)
        return Routing(experts, self.weigh(experts, scores, preference), scores)

    def weigh(self, experts: Tensor, scores: Tensor, preference: Tensor) -> Tensor:
        """Weights (N, k) of the chosen experts (N, k), from scores (N, E); `preference` (N, E) only chose them."""
        weights = scores.gather(1, experts)
        if self.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)  # sigmoids may all be zero
        return weights * self.scale

    def score_groups(self, preference: Tensor) -> Tensor:
        """Scores (N, G) of groups, of preferences (N, G, E / G)."""
        return preference.topk(2, -1).values.sum(-1)

    def _within_best_groups(self, preference: Tensor) -> Tensor:
        grouped = preference.unflatten(-1, (self.groups, -1))  # (N, G, E / G)
        best = self.score_groups(grouped).topk(self.chosen_groups, -1).indices  # (N, chosen_groups)
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)  # (N, G)
        return grouped.masked_fill(closed[..., None], -torch.inf).flatten(1)  # (N, E)

    @torch.no_grad()
    def rebalance(self, load: Tensor, rate: float) -> None:
        """Loss-free balancing (arXiv 2408.15664, algorithm 1): prefer experts with too few tokens a little more.

        Args:
            load: tokens per expert in the last batch, (E).
            rate: added to the correction of experts below the mean load, subtracted above.
        """
        assert self.correction is not None, "this router has no correction"
        load = load.to(self.correction.dtype)
        self.correction += rate * (load.mean() - load).sign()


class StackedLinear(nn.Module):
    """One linear map without bias per expert.

    Args:
        experts: E.
        inputs, outputs: widths.
    """

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        nn.init.normal_(self.weight, std=inputs**-0.5)


class MixtureOfExperts(Switchable):
    """Weighted sum of the outputs of a token's experts, each a `GatedMLP`, and of experts that every token shares.

    The readable implementation asks every expert about every token; the fused one sorts the tokens by expert and asks
    each expert about its own, or, compiled for inference, has few tokens read their experts. There is no capacity: no
    token is dropped, and none changes what happens to another.

    Args:
        width: W.
        hidden: F.
        router: chooses the experts; their number is its own.
        shared_hidden: hidden width of all shared experts together (DeepSeekMoE, arXiv 2401.06066, section 3.2); 0: none
            are shared.
    """

    def __init__(self, width: int, hidden: int, router: Router, *, shared_hidden: int = 0) -> None:
        super().__init__()
        experts = len(router.weight)
        self.router = router
        self.gate_proj = StackedLinear(experts, width, hidden)
        self.up_proj = StackedLinear(experts, width, hidden)
        self.down_proj = StackedLinear(experts, hidden, width)
        self.shared = GatedMLP(width, shared_hidden) if shared_hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        tokens = x.flatten(0, -2)  # (N, W)
        routing = self.router(tokens)
        mixed = self._mix(routing)(tokens, routing).to(x.dtype).view_as(x)
        return mixed if self.shared is None else mixed + self.shared(x)

    def _mix(self, routing: Routing) -> Callable[[Tensor, Routing], Tensor]:
        if self.implementation != "fused":
            return self._dense
        if torch.compiler.is_compiling() and not torch.is_grad_enabled():
            # The sizes of sorted groups are values of a tensor, and other sizes would be another program to compile.
            few = routing.experts.numel() <= len(self.router.weight)
            return self._chosen if few else self._dense
        return self._grouped

    def _dense(self, x: Tensor, routing: Routing) -> Tensor:
        """The definition: sum over experts of weight, zero where not chosen, times output."""
        out = torch.zeros_like(x)
        for number, (gate, up, down) in enumerate(self._experts()):
            weight = routing.weights.masked_fill(routing.experts != number, 0.0).sum(-1, keepdim=True)  # (N, 1)
            out = out + weight * F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
        return out

    def _grouped(self, x: Tensor, routing: Routing) -> Tensor:
        """Every expert reads its own tokens as one matrix; the sum is a gather, so that it is deterministic."""
        order = routing.experts.flatten().argsort(stable=True)  # (N k): place in experts.flatten(), expert by expert
        rows = x[order // routing.experts.shape[1]]  # (N k, W)
        parts = rows.split(routing.load().tolist())
        # An expert without tokens takes part all the same: its gradient is zero and not missing.
        out = torch.cat(
            [
                F.linear(F.silu(F.linear(part, gate)) * F.linear(part, up), down)
                for part, (gate, up, down) in zip(parts, self._experts(), strict=True)
            ]
        )
        out = out[order.argsort()].view(*routing.experts.shape, -1)  # (N, k, W)
        return (routing.weights[..., None] * out).sum(1)

    def _chosen(self, x: Tensor, routing: Routing) -> Tensor:
        """Every token reads the matrices of its experts: for few tokens, as in a step of decoding.

        Products and sums instead of matrix products, so that the compiler reads the matrices where they are; as they
        stand here they would be copied.
        """

        def times(stack: StackedLinear, inputs: Tensor) -> Tensor:
            return (stack.weight[routing.experts] * inputs[:, :, None]).sum(-1)  # (N, k, outputs)

        x = x[:, None]  # (N, 1, W)
        hidden = F.silu(times(self.gate_proj, x)) * times(self.up_proj, x)  # (N, k, F)
        return (routing.weights[..., None] * times(self.down_proj, hidden)).sum(1)

    def _experts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The three matrices of each expert; `unbind` collects their gradients in one step, indexing would not."""
        return zip(
            self.gate_proj.weight.unbind(), self.up_proj.weight.unbind(), self.down_proj.weight.unbind(), strict=True
        )


def load_balancing_loss(routings: Sequence[Routing], mask: Tensor | None = None) -> Tensor:
    """E * sum over experts of (tokens sent to it / tokens) * (its mean score) (Switch, equations 4 to 6).

    It is k where the load is even. All layers count as one, as in `transformers`. Of "sigmoid" scores each token's are
    first divided by their sum (DeepSeek-V3, equation 19).

    Args:
        routings: one per layer, of the same tokens; see `recorded_routings`.
        mask: True at real tokens, (B, T); None: all are real.

    Returns:
        Scalar, differentiable in the scores.
    """
    load = torch.stack([routing.load(mask) for routing in routings]).sum(0)  # (E)
    scores = torch.stack([routing.scores for routing in routings])  # (layers, N, E)
    if mask is not None:
        scores = scores[:, mask.flatten()]
    tokens = scores.shape[0] * scores.shape[1]
    shares = scores / scores.sum(-1, keepdim=True)
    return scores.shape[-1] * (load / tokens * shares.sum((0, 1)) / tokens).sum()


@contextmanager
def recorded_routings(model: nn.Module) -> Iterator[list[Routing]]:
    """Within the context, every router of the model appends to the list what it decides, layer after layer."""
    found: list[Routing] = []

    def keep(_: nn.Module, __: Any, routing: Routing) -> None:
        found.append(routing)

    hooks = [module.register_forward_hook(keep) for module in model.modules() if isinstance(module, Router)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()

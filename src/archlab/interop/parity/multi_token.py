"""Multi-token prediction against its equations, spelled out in loops over tokens, heads and experts.

The loops read weights alone and share no layer with the modules. They know the tiny configuration of DeepSeek-V3:
queries from a latent vector, groups of experts, weights that add up to one.

Shape legend: T tokens of one sequence, n = T - k positions of the k-th module, W width, D width of a head's part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.interop.parity.checks import first_failed, gradients_of, worst
from archlab.interop.parity.extra import Extra, Pair
from archlab.interop.parity.faults import find
from archlab.interop.parity.probes import PROBES
from archlab.interop.parity.results import GRADIENTS, STATES, Outcome
from archlab.interop.parity.twin import randomise
from archlab.layers.moe import Router
from archlab.models.deepseek import Deepseek, DeepseekConfig
from archlab.models.multi_token import ExtraPrediction

_MODULES = 2
_LATENT_EPS = 1e-6  # of the norms of latent vectors, whatever that of the others is


def build(config: DeepseekConfig) -> Pair:
    """A model and modules that predict ever further tokens, and a copy of both whose weights the loops read."""
    model, extras = Deepseek(config), [ExtraPrediction(config) for _ in range(_MODULES)]
    whole = nn.ModuleList([model, *extras]).eval()
    generator = torch.Generator().manual_seed(0)
    randomise(whole, generator)
    for router in find(extras, Router):
        assert router.correction is not None
        router.correction.normal_(std=0.3, generator=generator)
    weights: Any = copy.deepcopy(whole)

    def compare() -> Outcome:
        tokens: Tensor = PROBES["decoder"].inputs(config, torch.Generator().manual_seed(0))  # (B, T)
        with torch.no_grad():
            ours = theirs = model.states(tokens)  # (B, T, W)
        found = []
        for k, extra in enumerate(extras, 1):
            ours = extra(model, ours, tokens)  # (B, n, W)
            theirs = torch.stack([_module(config, weights, k, *one) for one in zip(theirs, tokens, strict=True)])
            found.append(worst({f"states of module {k}": (ours, theirs)}, STATES))
        upstream = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
        ours.backward(upstream)
        theirs.backward(upstream)
        mine, yours = gradients_of(whole), gradients_of(weights)
        return first_failed(
            [*found, worst({f"gradient of {name}": (mine[name], yours[name]) for name in yours}, GRADIENTS)]
        )

    return Pair(whole, extras, compare)


def _module(config: DeepseekConfig, weights: Any, k: int, states: Tensor, tokens: Tensor) -> Tensor:
    """Equations 21 and 22: states (n + 1, W) of the module before, tokens (T), to states (n, W)."""
    model, extra, eps, rows = weights[0], weights[k], config.norm_eps, []
    for i in range(len(tokens) - k):
        embedding = _rms(model.token_embedding.weight[tokens[i + k]], extra.embedding_norm.weight, eps)
        state = _rms(states[i], extra.state_norm.weight, eps)
        rows.append(extra.projection.weight @ torch.cat([embedding, state]))
    return torch.stack([_rms(x, extra.norm.weight, eps) for x in _block(config, extra.block, rows, model.rotary)])


def _block(config: DeepseekConfig, block: Any, rows: list[Tensor], rotary: Any) -> list[Tensor]:
    """One layer, token by token and head by head; states (W)."""
    attention, eps, out = block.attention, config.norm_eps, []
    normed = [_rms(x, block.attention_norm.weight, eps) for x in rows]
    matrices = attention.kv_proj.weight.view(config.heads, -1, config.key_value_latent)
    for t, x in enumerate(normed):
        query = _rms(attention.q_down.weight @ x, attention.q_norm.weight, _LATENT_EPS)
        heads = (attention.q_proj.weight @ query).view(config.heads, -1)
        mixed = []
        for h in range(config.heads):
            content, position = heads[h].split([config.head_width, config.rotary_width])
            to_key, to_value = matrices[h].split([config.head_width, config.value_width])
            scores, values = [], []
            for s in range(t + 1):
                down = attention.kv_down.weight @ normed[s]
                latent, key = down.split([config.key_value_latent, config.rotary_width])
                latent = _rms(latent, attention.kv_norm.weight, _LATENT_EPS)
                score = content @ (to_key @ latent) + _turn(position, t, rotary) @ _turn(key, s, rotary)
                scores.append(score * attention.scale)
                values.append(to_value @ latent)
            mixed.append(torch.stack(scores).softmax(0) @ torch.stack(values))
        y = rows[t] + attention.out_proj.weight @ torch.cat(mixed)
        out.append(y + _experts(config, block.feed_forward, _rms(y, block.feed_forward_norm.weight, eps)))
    return out


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean() + eps) ** 0.5 * weight


def _turn(x: Tensor, position: int, rotary: Any) -> Tensor:
    """Neighbouring features (D) as complex numbers (D / 2)."""
    size = torch.full_like(rotary.frequencies, rotary.scaling.attention_scale)
    pairs = torch.complex(x[0::2], x[1::2]) * torch.polar(size, position * rotary.frequencies)
    return torch.stack([pairs.real, pairs.imag], -1).flatten()


def _experts(config: DeepseekConfig, layer: Any, x: Tensor) -> Tensor:
    """The mixture of experts for one token (W)."""
    scores = (layer.router.weight @ x).sigmoid()
    preference = (scores + layer.router.correction).tolist()
    size = config.experts // config.groups
    groups = [preference[g * size : (g + 1) * size] for g in range(config.groups)]
    best = sorted(range(config.groups), key=lambda g: -sum(sorted(groups[g])[-2:]))[: config.chosen_groups]
    reach = [e for g in best for e in range(g * size, (g + 1) * size)]
    chosen = sorted(reach, key=lambda e: -preference[e])[: config.chosen_experts]

    def gated(gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return down @ (F.silu(gate @ x) * (up @ x))

    total = torch.stack([scores[e] for e in chosen]).sum()
    names = ("gate_proj", "up_proj", "down_proj")
    out = gated(*(getattr(layer.shared, name).weight for name in names))
    for e in chosen:
        expert = gated(*(getattr(layer, name).weight[e] for name in names))
        out = out + config.routed_scale * scores[e] / total * expert
    return out


def _swap_halves(_: nn.Module, extras: Sequence[nn.Module]) -> None:
    for extra in find(extras, ExtraPrediction):
        extra.projection.weight.data = extra.projection.weight.data.roll(extra.projection.out_features, 1)


def _swap_norms(_: nn.Module, extras: Sequence[nn.Module]) -> None:
    for extra in find(extras, ExtraPrediction):
        extra.embedding_norm, extra.state_norm = extra.state_norm, extra.embedding_norm


def _read_next_state(_: nn.Module, extras: Sequence[nn.Module]) -> None:
    for extra in extras:
        extra.register_forward_pre_hook(lambda _, given: (given[0], given[1].roll(-1, 1), *given[2:]))


EXTRAS = {
    "multi-token, loops": Extra(
        build=build,
        cause="the modules that predict tokens further ahead are wrong, not the model",
        faults={
            "state and embedding are concatenated in the other order": _swap_halves,
            "the norms of states and embeddings are swapped": _swap_norms,
            "a module reads the state of the token that it is told": _read_next_state,
        },
    )
}
"""Comparisons of the family by name."""

"""AdamW over parameter groups: what decays, what learns more slowly, and what is frozen and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from archlab.config import OptimizerConfig

# The second moment of the masked-autoencoder and GPT recipes: steadier than 0.999 in runs of a few thousand steps.
_BETAS = (0.9, 0.95)


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    scales: Mapping[str, float] | None = None,
    clipped_apart: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters of `module`, grouped by weight decay, learning-rate scale and gradient clipping.

    Only matrices decay: gains, biases and single vectors (class tokens, temperatures) do not.

    Args:
        scales: submodule name -> factor on its learning rate, as `{"target_encoder": 0.05}`.
        clipped_apart: names of submodules whose gradients are clipped by a norm of their own.

    Returns:
        Groups with the keys `params`, `weight_decay`, `scale` and `clip`. A shared parameter is in one group only.

    Raises:
        ValueError: a name in `scales` matches no parameter.
    """
    scales = scales or {}
    groups: dict[tuple[float, float, str], list[nn.Parameter]] = {}
    unused = set(scales) | set(clipped_apart)
    for name, parameter in module.named_parameters():
        prefix, clip = (
            next((prefix for prefix in names if name == prefix or name.startswith(f"{prefix}.")), "")
            for names in (scales, clipped_apart)
        )
        unused -= {prefix, clip}
        if not parameter.requires_grad:
            continue
        is_matrix = sum(size > 1 for size in parameter.shape) >= 2
        key = (weight_decay if is_matrix else 0.0, scales.get(prefix, 1.0), clip)
        groups.setdefault(key, []).append(parameter)
    if unused:
        raise ValueError(f"submodules {sorted(unused)}: match no parameter of {type(module).__name__}")
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale, "clip": clip}
        for (decay, scale, clip), parameters in groups.items()
    ]


def adamw(
    *modules: nn.Module,
    config: OptimizerConfig,
    scales: Mapping[str, float] | None = None,
    clipped_apart: Sequence[str] = (),
) -> torch.optim.AdamW:
    """AdamW over all trainable parameters of `modules`: the model first, then the objective if it has any.

    Args:
        scales, clipped_apart: of submodules of the first module; see `parameter_groups`.
    """
    model, *others = modules
    groups = parameter_groups(model, config.weight_decay, scales, clipped_apart)
    for other in others:
        groups += parameter_groups(other, config.weight_decay)
    # One kernel over all tensors: for small models the default loop spends longer on launches than on arithmetic.
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=_BETAS, fused=True)

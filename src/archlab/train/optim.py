"""AdamW and Muon over parameter groups: what decays, what learns more slowly, and what is frozen and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from archlab.config import OptimizerConfig
from archlab.errors import UserError

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
    return adamw_over(groups, config.learning_rate, _BETAS)


def adamw_over(groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW over groups of parameters; see `parameter_groups`."""
    # One kernel over all tensors: for small models the default loop spends longer on launches than on arithmetic.
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


class MuonWithAdamW:
    """Muon for the hidden matrices and convolution filters of a model, AdamW for everything else.

    Muon replaces the momentum of a matrix by the nearest orthogonal one (Jordan et al., 2024); a filter counts as the
    matrix from its input patches to its channels. Embeddings, heads, gains and biases are no maps from one hidden state
    to the next and stay with AdamW. Updates are scaled to the size of AdamW's (arXiv 2502.16982, section 2.2), so that
    both share one learning rate and one weight decay.

    Args:
        weight_decay: of matrices and filters.
        learning_rate: the first one; the loop sets it at every step.
        betas: of AdamW.
        hidden: parts of the names of the modules that hold them.

    Raises:
        UserError: the model has no such matrices, or PyTorch is too old.
    """

    def __init__(
        self,
        model: nn.Module,
        weight_decay: float,
        learning_rate: float,
        betas: tuple[float, float] = _BETAS,
        hidden: Sequence[str] = ("blocks.",),
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"optimizer='muon': PyTorch {torch.__version__} has none; install 2.9 or newer")
        chosen = {
            id(parameter)
            for name, parameter in model.named_parameters()
            if parameter.dim() in (2, 4) and any(part in name for part in hidden) and parameter.requires_grad
        }
        if not chosen:
            raise UserError(f"optimizer='muon': {type(model).__name__} has no blocks with matrices; use 'adamw'")
        orthogonal: list[dict[str, Any]] = []
        rest: list[dict[str, Any]] = []
        for group in parameter_groups(model, weight_decay):
            for groups, is_hidden in ((orthogonal, True), (rest, False)):
                if parameters := [one for one in group["params"] if (id(one) in chosen) == is_hidden]:
                    groups.append(group | {"params": parameters, "lr": learning_rate})
        self.param_groups = [*orthogonal, *rest]  # what the loop sets in them counts
        # PyTorch's Muon takes matrices only: it is given views that share the memory of what they show.
        views = [[nn.Parameter(one.detach().view(len(one), -1)) for one in group["params"]] for group in orthogonal]
        self._views = [
            pair
            for group, own in zip(orthogonal, views, strict=True)
            for pair in zip(group["params"], own, strict=True)
        ]
        self.muon = torch.optim.Muon(
            [group | {"params": own} for group, own in zip(orthogonal, views, strict=True)],
            lr=learning_rate,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = adamw_over([dict(group) for group in rest], learning_rate, betas)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not set_to_none:
                    parameter.grad.zero_()
                else:
                    parameter.grad = None

    def step(self) -> None:
        """One update of every parameter."""
        for group, own in zip(self.param_groups, [*self.muon.param_groups, *self.adamw.param_groups], strict=True):
            own["lr"] = group["lr"]
        for parameter, view in self._views:
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """States of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue from a saved state."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])

"""A tiny model of ours and its reference with the same random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from archlab.interop.weights import WeightMap
from archlab.models.families.family import Family


@dataclass(frozen=True)
class Twin:
    """Both models in evaluation mode, float32.

    Attributes:
        model: ours.
        reference: theirs, from `config_to_hf` of our configuration.
        weights: their names and ours.
    """

    family: Family
    config: Any
    model: nn.Module
    reference: PreTrainedModel
    weights: WeightMap


def build(family: Family, seed: int = 0) -> Twin:
    """Both models of the family's tiny configuration; ours gets the weights of the reference through the map."""
    config = family.config()
    interop = family.interop
    reference = interop.reference(interop.config_to_hf(config)).eval()
    # "eager" is the plain implementation, whatever the version's default is.
    reference.set_attn_implementation("eager")
    randomise(reference, torch.Generator().manual_seed(seed))
    model = family.model_class(config).eval()
    weights = interop.weights(config)
    copy_weights(reference, model, weights)
    return Twin(family, config, model, reference, weights)


def copy_weights(reference: PreTrainedModel, model: nn.Module, weights: WeightMap) -> None:
    """Give our model the weights of its reference, through the map as if they were read from a file."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights.from_hf(file_names(reference, reference.state_dict()), shapes), strict=True)


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter of a new model anew, gains and biases of norms too: as they start, they would hide mistakes.

    Gains stay near where they start: at 1, or at 0 where the norm adds one. Fixed tables, parameters without a
    gradient in some references, stay.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            gain = parameter.dim() == 1 and name.endswith("weight")
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_((parameter.mean() if gain else 0.0) + 0.2 * noise)


def file_names(reference: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a reference (weights or gradients) as its checkpoint files name and shape them.

    transformers 5 renames and fuses some parameters when it reads a file; this undoes it.
    """
    return dict(revert_weight_conversion(reference, dict(tensors)))

"""Models with 8-bit weights: PyTorch's dynamic quantisation, for ours and theirs alike."""

from __future__ import annotations

import copy
import warnings
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
_OUTPUT_LAYERS = ("head", "lm_head")


def quantise(model: Model) -> Model:
    """A copy whose linear layers have 8-bit weights and turn what they read into 8 bits as it comes.

    Output layers stay as they are: those that are token tables are no layers of their own in our models. The layers
    that GPT-2 has in `transformers` in place of linear ones are made linear first; there queries, keys and values are
    one matrix with one scale, in ours three.
    """
    model = copy.deepcopy(model)
    _make_linear(model)
    layers = quantisable(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is moving it to another package, torchao
        from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

        quantize_dynamic(model, dict.fromkeys(layers, default_dynamic_qconfig), torch.qint8, inplace=True)
    return model


def quantisable(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that `quantise` changes, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name not in _OUTPUT_LAYERS
    }


def _make_linear(model: nn.Module) -> None:
    from transformers.pytorch_utils import Conv1D

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            inputs, outputs = layer.weight.shape
            linear = nn.Linear(inputs, outputs)
            linear.weight.data, linear.bias.data = layer.weight.detach().T.contiguous(), layer.bias.detach()
            model.set_submodule(name, linear)

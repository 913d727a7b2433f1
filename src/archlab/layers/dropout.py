"""Dropout as a property of the training run: architectures do not mention it, and a trained model has none left.

It acts in training mode only. At probability zero nothing is installed and no random number is drawn.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from archlab.layers.attention import Attention
from archlab.layers.initialization import RESIDUAL_OUTPUTS


def set_dropout(model: nn.Module, probability: float, attention: float = 0.0) -> None:
    """Give a model dropout.

    Args:
        model: once only, and before its first step.
        probability: for the results that blocks add to the residual stream and for the embeddings that enter the first
            block of every stack ("Attention is all you need", section 5.4), for modules that are `nn.Dropout`, and
            between the layers of an LSTM.
        attention: for the weights of attention (GPT-2 and BERT have it, the paper has not).
    """
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            module.dropout = attention
        elif isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, nn.LSTM) and module.num_layers > 1:
            module.dropout = probability
        if not probability:
            continue
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in RESIDUAL_OUTPUTS:
            module.register_forward_hook(lambda module, _, out: F.dropout(out, probability, module.training))
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2].endswith("blocks"):
            module[0].register_forward_pre_hook(lambda module, args: _dropped(module, args, probability))


def _dropped(module: nn.Module, args: tuple[Tensor, ...], probability: float) -> tuple[Any, ...]:
    x, *others = args
    return F.dropout(x, probability, module.training), *others

"""How every model of the project is initialised."""

from __future__ import annotations

from torch import nn

from archlab.layers.norms import RMSNorm

RESIDUAL_OUTPUTS = ("out_proj", "down_proj")
"""Linear layers whose result is added to the residual stream."""


def initialize(model: nn.Module, depth: int, std: float = 0.02) -> None:
    """Draw every parameter anew (GPT-2, section 2.3, as in nanoGPT).

    Matrices and tables are normal with standard deviation `std`. The two layers of a block that write to the residual
    stream get `std / sqrt(2 * depth)`, so that the stream's variance does not grow with depth. Biases are zero and
    gains of norms are one, which is a weight of zero where the norm adds one to it. Convolutions keep PyTorch's own
    initialisation, which follows their fan-in.

    Args:
        depth: number of blocks whose outputs add up.
    """
    convolutions = {id(p) for one in model.modules() if isinstance(one, nn.Conv2d) for p in one.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in convolutions:
            continue
        if parameter.dim() > 1:
            residual = name.endswith(tuple(f"{layer}.weight" for layer in RESIDUAL_OUTPUTS))
            nn.init.normal_(parameter, std=std / (2 * depth) ** 0.5 if residual else std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)
    for module in model.modules():
        if isinstance(module, RMSNorm) and module.unit_offset:
            nn.init.zeros_(module.weight)

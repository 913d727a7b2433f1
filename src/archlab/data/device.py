"""Where tensors are: the device that a configuration names, and the way of a batch to it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from archlab.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]
Moved = TypeVar("Moved")


def find_device(name: DeviceName, key: str) -> torch.device:
    """The device that the configuration key `key` names: "auto" is a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}='cuda': PyTorch sees no GPU; use 'auto' or 'cpu'")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module are; without any it is at home everywhere."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def to_device(batch: Moved, device: torch.device) -> Moved:
    """The batch, a dataclass, with all its tensors on `device`, and those of the dataclasses that it lists.

    On their way to a GPU they are pinned, so that the copy does not stop the program.
    """
    values = {one.name: getattr(batch, one.name) for one in fields(batch)}  # type: ignore[arg-type]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if all(tensor.device == device for tensor in tensors.values()):
        return batch
    if device.type == "cuda":
        tensors = {name: tensor if tensor.is_cuda else tensor.pin_memory() for name, tensor in tensors.items()}
    moved: Any = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
    for name, value in values.items():
        if isinstance(value, list) and value and is_dataclass(value[0]):
            moved[name] = [to_device(one, device) for one in value]
    return replace(batch, **moved)  # type: ignore[type-var]

"""Values that a model needs in full precision, whatever the type of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import nn


class FullPrecisionBuffers(nn.Module):
    """A layer whose own buffers move with the model but are never rounded: `model.to(torch.bfloat16)` leaves them."""

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, after in self._buffers.items():
            kept = before[name]
            if kept is not None and after is not None and after.dtype != kept.dtype:
                self._buffers[name] = kept.to(after.device)
        return self

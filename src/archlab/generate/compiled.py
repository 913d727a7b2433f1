"""One decoding step as one compiled program: a small model spends most of a step between its operations.

Compiled with symbolic sizes, so that the cache may grow: one compilation serves every length.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from archlab.errors import UserError
from archlab.layers.cache import Cache
from archlab.models.protocols import Decoder

_COMPILERS = ("g++", "clang++")


class CompiledDecoder:
    """A decoder whose steps of one token are compiled; prompts, which come in many lengths, are not.

    The first step takes as long as the compilation, about a second per layer. The results are those of the decoder
    up to rounding. See `models.protocols.Decoder`.

    Args:
        model: a decoder that is a module.

    Raises:
        UserError: there is no C++ compiler for the processor's code.
    """

    def __init__(self, model: Decoder) -> None:
        assert isinstance(model, nn.Module)
        self.blocks: nn.ModuleList = model.blocks
        self.config = getattr(model, "config", None)
        if next(self.blocks.parameters()).device.type == "cpu" and not has_compiler():
            raise UserError(f"compile: needs a C++ compiler ({' or '.join(_COMPILERS)}); install one, or leave it out")
        self._model: Decoder = model
        self._step: Callable[..., Tensor] = torch.compile(model, dynamic=True)

    def __call__(
        self, tokens: Tensor, *, mask: Tensor | None = None, cache: Sequence[Cache] | None = None, keep: int = 0
    ) -> Tensor:
        """See `models.protocols.Decoder`."""
        # Sizes 0 and 1 are never symbolic: steps after fewer tokens would be compiled a second time.
        is_step = tokens.shape[1] == 1 and cache is not None and cache[0].length > 1
        run: Callable[..., Tensor] = self._step if is_step else self._model
        return run(tokens, mask=mask, cache=cache, keep=keep)

    def new_cache(self) -> Sequence[Cache]:
        """See `models.protocols.Decoder`."""
        return self._model.new_cache()


def has_compiler() -> bool:
    """Whether there is a C++ compiler: `CXX`, or one of the usual names."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS) if name)

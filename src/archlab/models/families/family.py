"""What an entry of the registry says.

Importing this imports no PyTorch; a family's modules are imported when they are asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from archlab.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from archlab.interop.family import Interop

Kind = Literal["decoder", "encoder", "encoder-decoder", "vision", "masked-vision", "clip", "image-text"]
"""What is read and given.

- decoder: tokens to next-token logits;
- encoder: tokens to hidden states;
- encoder-decoder: source tokens and target tokens to next-token logits of the target;
- vision: images to hidden states;
- masked-vision: images of any size, of which patches may be masked, to hidden states;
- clip: frames to hidden states, and those of some patches to those of others;
- image-text: both to logits of matches.
"""


@dataclass(frozen=True)
class Size:
    """A published model.

    Attributes:
        parameters: published count, tied tables counted once.
        source: where the count is published.
        options: how its configuration differs from the defaults.
    """

    parameters: int
    source: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """Options that the tiny configuration of a family leaves at another value.

    Attributes:
        options: how its configuration differs from the tiny one.
        without: comparisons of `interop.parity` that do not apply to it, by name -> why.
    """

    options: Mapping[str, Any]
    without: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: also of the modules `archlab.models.NAME` and `archlab.interop.NAME`.
        kind: what the model reads and gives.
        config_name, model_name: classes in `archlab.models.NAME`.
        model_types: values of `model_type` in the `config.json` of its checkpoints.
        tiny: options of a configuration for tests.
        sizes: the published models by name.
        variants: what `tiny` cannot show, by name; parity is proven of each.
    """

    name: str
    kind: Kind
    config_name: str
    model_name: str
    model_types: tuple[str, ...]
    tiny: Mapping[str, Any]
    sizes: Mapping[str, Size]
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def config_class(self) -> type[Any]:
        """The class of its configuration."""
        return getattr(import_module(f"archlab.models.{self.name}"), self.config_name)

    @property
    def model_class(self) -> type[nn.Module]:
        """The class of its model; made with a configuration."""
        return getattr(import_module(f"archlab.models.{self.name}"), self.model_name)

    @property
    def interop(self) -> Interop:
        """The module that knows its counterpart in `transformers`."""
        module: Any = import_module(f"archlab.interop.{self.name}")
        return module

    def config(self, size: str | None = None) -> Any:
        """The configuration of a published size, or the tiny one.

        Raises:
            UserError: no such size.
        """
        from archlab.config import build

        if size is not None and size not in self.sizes:
            raise UserError(unknown(f"size of {self.name}", size, self.sizes))
        return build(self.config_class, dict(self.tiny if size is None else self.sizes[size].options))

    def variant(self, name: str) -> Family:
        """The family with this variant as its tiny configuration."""
        return replace(self, tiny={**self.tiny, **self.variants[name].options}, variants={})


def unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    """The message about a name that is not known: the nearest one, and all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"{what} {name!r} is unknown; did you mean {near[0]!r}? (known: {', '.join(known)})"

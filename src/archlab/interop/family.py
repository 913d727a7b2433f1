"""What the interop module of a family offers; `models.registry` hands it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from archlab.interop.weights import WeightMap

if TYPE_CHECKING:
    from archlab.interop.parity.faults import Fault


@dataclass(frozen=True)
class Head:
    """A family's model with another output layer than that of the registry.

    Attributes:
        model: makes it of our configuration and theirs.
        weights: its map, of our configuration.
    """

    model: Callable[[Any, PretrainedConfig], nn.Module]
    weights: Callable[[Any], WeightMap]


class Interop(Protocol):
    """The module `archlab.interop.NAME`. One whose models have heads also lists them, `HEADS: dict[str, Head]`.

    Attributes:
        BLOCKS: where the layers are, ours and theirs, as paths of attributes; one pair per stack of layers.
        FAULTS: planted bugs that the family's parity must notice.
    """

    BLOCKS: tuple[tuple[str, str], ...]

    @property
    def FAULTS(self) -> tuple[Fault, ...]:
        """See the class."""
        ...

    def config_from_hf(self, theirs: PretrainedConfig) -> Any:
        """Our configuration of theirs.

        Raises:
            UserError: it asks for something that our model does not do.
        """
        ...

    def config_to_hf(self, config: Any) -> PretrainedConfig:
        """Their configuration of ours, dropout off.

        Raises:
            UserError: theirs cannot express it.
        """
        ...

    def weights(self, config: Any) -> WeightMap:
        """Our names and theirs (those of checkpoint files) of a model with this configuration."""
        ...

    def reference(self, theirs: Any) -> PreTrainedModel:
        """Their model with random weights."""
        ...

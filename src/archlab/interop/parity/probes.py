"""How models of each kind are asked and answer: one probe per kind.

Shape legend: B samples, T tokens, V vocabulary, C channels, H x W pixels, N patches, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from archlab.interop.parity.twin import Twin
from archlab.models.registry import Kind


class Probe(ABC):
    """The same question to ours and theirs.

    Attributes:
        causal: whether a token sees only earlier ones, so that the first sees itself alone.
    """

    causal: bool

    @abstractmethod
    def inputs(self, config: Any, generator: torch.Generator) -> Tensor:
        """Random inputs for a model with this configuration."""

    @abstractmethod
    def ours(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The answer of our model."""

    @abstractmethod
    def theirs(self, reference: PreTrainedModel, inputs: Tensor) -> Tensor:
        """The answer of the reference, of the same shape."""


class DecoderProbe(Probe):
    """Tokens (B, T) to logits (B, T, V)."""

    causal = True

    def inputs(self, config: Any, generator: torch.Generator) -> Tensor:
        """See `Probe`."""
        return torch.randint(config.vocab_size, (2, 12), generator=generator)

    def ours(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return model(inputs)

    def theirs(self, reference: PreTrainedModel, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return reference(input_ids=inputs, use_cache=False).logits


class VisionProbe(Probe):
    """Images (B, C, H, W) to states (B, N or 1 + N, D)."""

    causal = False

    def inputs(self, config: Any, generator: torch.Generator) -> Tensor:
        """See `Probe`."""
        return torch.randn(2, config.channels, config.image_size, config.image_size, generator=generator)

    def ours(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return model(inputs)

    def theirs(self, reference: PreTrainedModel, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return reference(pixel_values=inputs).last_hidden_state


PROBES: dict[Kind, Probe] = {"decoder": DecoderProbe(), "vision": VisionProbe()}


def questions(twin: Twin, seed: int = 0) -> Tensor:
    """The inputs on which a twin is compared."""
    return PROBES[twin.family.kind].inputs(twin.config, torch.Generator().manual_seed(seed))

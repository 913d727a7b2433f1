"""How models of each kind are asked and answer: one probe per kind.

Shape legend: B samples, S source tokens, T tokens, V vocabulary, W or D width, C channels, H x W pixels, N patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from archlab.interop.parity.twin import Twin
from archlab.models.protocols import Encoder
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


class EncoderProbe(Probe):
    """Tokens (B, T), of which the second half is of a second type, to states (B, T, W) and the pooled one (B, 1, W)."""

    causal = False

    def inputs(self, config: Any, generator: torch.Generator) -> Tensor:
        """See `Probe`."""
        return torch.randint(config.vocab_size, (2, 12), generator=generator)

    def ours(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return encode(cast(Encoder, model), inputs, None, token_types(inputs))

    def theirs(self, reference: PreTrainedModel, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        found = reference(input_ids=inputs, token_type_ids=token_types(inputs))
        return torch.cat([found.last_hidden_state, found.pooler_output[:, None]], 1)  # (B, T + 1, W)


class EncoderDecoderProbe(Probe):
    """Source and target tokens, one after the other (B, S + T), to logits of the target (B, T, V)."""

    causal = False

    def inputs(self, config: Any, generator: torch.Generator) -> Tensor:
        """See `Probe`."""
        return torch.randint(config.vocab_size, (2, _SOURCE + 9), generator=generator)

    def ours(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return model(*source_and_target(inputs))

    def theirs(self, reference: PreTrainedModel, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        source, target = source_and_target(inputs)
        return reference(input_ids=source, decoder_input_ids=target, use_cache=False).logits


_SOURCE = 12  # S


def source_and_target(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S) and (B, T) of the inputs of an encoder-decoder."""
    return inputs[:, :_SOURCE], inputs[:, _SOURCE:]


def encode(model: Encoder, tokens: Tensor, mask: Tensor | None, types: Tensor) -> Tensor:
    """States and, after them, the pooled one, (B, T + 1, W)."""
    states = model(tokens, mask=mask, token_types=types)
    return torch.cat([states, model.pool(states, mask)[:, None]], 1)


def token_types(tokens: Tensor) -> Tensor:
    """Zeros, then as many ones, (B, T)."""
    return (torch.arange(tokens.shape[1]) >= tokens.shape[1] // 2).long().expand_as(tokens)


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


PROBES: dict[Kind, Probe] = {
    "decoder": DecoderProbe(),
    "encoder": EncoderProbe(),
    "encoder-decoder": EncoderDecoderProbe(),
    "vision": VisionProbe(),
}


def questions(twin: Twin, seed: int = 0) -> Tensor:
    """The inputs on which a twin is compared."""
    return PROBES[twin.family.kind].inputs(twin.config, torch.Generator().manual_seed(seed))

"""How models of each kind are asked and answer: one probe per kind.

Shape legend: B samples, S source tokens, T tokens, V vocabulary, C channels, F frames, H x W pixels, N patches,
D or W width, E embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from archlab.interop.parity.twin import Twin
from archlab.models.families.family import Kind
from archlab.models.protocols import Encoder, ImageTextModel

Inputs: TypeAlias = Any
"""What a model reads: one tensor, or a tuple of them where it reads several."""


class Probe(ABC):
    """The same question to ours and theirs."""

    def causal(self, config: Any) -> bool:
        """Whether a token of this model sees only earlier ones, so that the first sees itself alone."""
        return False

    @abstractmethod
    def inputs(self, config: Any, generator: torch.Generator) -> Inputs:
        """Random inputs for a model with this configuration."""

    @abstractmethod
    def ours(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """The answer of our model."""

    @abstractmethod
    def theirs(self, reference: PreTrainedModel, inputs: Inputs) -> Tensor:
        """The answer of the reference, of the same shape."""


class DecoderProbe(Probe):
    """Tokens (B, T) to logits (B, T, V)."""

    def causal(self, config: Any) -> bool:
        """See `Probe`."""
        return not getattr(config, "bidirectional", False)

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
    """Source tokens (B, S) and target tokens (B, T) to logits of the target (B, T, V)."""

    def inputs(self, config: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Probe`."""
        source, target = torch.randint(config.vocab_size, (2, 12 + 9), generator=generator).split([12, 9], 1)
        return source, target

    def ours(self, model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        return model(*inputs)

    def theirs(self, reference: PreTrainedModel, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        source, target = inputs
        return reference(input_ids=source, decoder_input_ids=target, use_cache=False).logits


def encode(model: Encoder, tokens: Tensor, mask: Tensor | None, types: Tensor) -> Tensor:
    """States and, after them, the pooled one, (B, T + 1, W)."""
    states = model(tokens, mask=mask, token_types=types)
    return torch.cat([states, model.pool(states, mask)[:, None]], 1)


def token_types(tokens: Tensor) -> Tensor:
    """Zeros, then as many ones, (B, T)."""
    return (torch.arange(tokens.shape[1]) >= tokens.shape[1] // 2).long().expand_as(tokens)


class VisionProbe(Probe):
    """Images (B, C, H, W) to states (B, N or 1 + N, D)."""

    def inputs(self, config: Any, generator: torch.Generator) -> Tensor:
        """See `Probe`."""
        return torch.randn(2, config.channels, config.image_size, config.image_size, generator=generator)

    def ours(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return model(inputs)

    def theirs(self, reference: PreTrainedModel, inputs: Tensor) -> Tensor:
        """See `Probe`."""
        return reference(pixel_values=inputs).last_hidden_state


class ImageTextProbe(Probe):
    """Images (B, C, H, W) and texts (B, T) to logits and both embeddings side by side, (B, B + 2 E)."""

    def inputs(self, config: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Probe`; a text repeats the shuffled vocabulary, so that it has every id, and most of them twice."""
        side, text = config.image.image_size, config.text
        images = torch.randn(2, config.image.channels, side, side, generator=generator)
        shuffled = [torch.randperm(text.vocab_size, generator=generator) for _ in range(4)]
        return images, torch.stack([torch.cat(shuffled[:2]), torch.cat(shuffled[2:])])[:, : text.context]

    def ours(self, model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        images, tokens = inputs
        both = cast(ImageTextModel, model)
        of_images, of_texts = both.embed_images(images), both.embed_texts(tokens)
        return torch.cat([both.logits(of_images, of_texts), of_images, of_texts], 1)

    def theirs(self, reference: PreTrainedModel, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        images, tokens = inputs
        out = reference(pixel_values=images, input_ids=tokens)
        return torch.cat([out.logits_per_image, out.image_embeds, out.text_embeds], 1)


class MaskedVisionProbe(Probe):
    """Images (B, C, H, W) and masked patches (B, N) to states (B, 1 + R + N, D).

    The images are higher and narrower than those of the table of positions, which must be interpolated.
    """

    def inputs(self, config: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Probe`."""
        rows, columns = (config.image_size // config.patch_size + more for more in (2, -2))
        images = torch.randn(
            2, config.channels, rows * config.patch_size, columns * config.patch_size, generator=generator
        )
        return images, torch.rand(2, rows * columns, generator=generator) < 0.3

    def ours(self, model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        return model(*inputs)

    def theirs(self, reference: PreTrainedModel, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        images, masked = inputs
        return reference(pixel_values=images, bool_masked_pos=masked).last_hidden_state


class ClipProbe(Probe):
    """Clips (B, F, C, H, W), given and wanted patches to states of all and predicted states of the wanted, in a row.

    The wanted patches come after the given ones, since the reference sorts them: so every layer can be compared.
    """

    def inputs(self, config: Any, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Probe`."""
        side, frames = config.image_size, 3 * config.tubelet
        clips = torch.randn(2, frames, config.channels, side, side, generator=generator)
        count = 3 * config.grid[0] * config.grid[1]
        chosen = torch.rand(2, count, generator=generator).argsort(1)[:, : count * 3 // 4].sort(1).values
        given, wanted = chosen.tensor_split([count // 2], 1)
        return clips, given, wanted

    def ours(self, model: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        clips, given, wanted = inputs
        both: Any = model
        states = both.patch_states(clips)
        return torch.cat([states, both.predictor(states, given, wanted)], 1)

    def theirs(self, reference: PreTrainedModel, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """See `Probe`."""
        clips, given, wanted = inputs
        out = reference(pixel_values_videos=clips, context_mask=[given], target_mask=[wanted])
        return torch.cat([out.last_hidden_state, out.predictor_output.last_hidden_state], 1)


PROBES: dict[Kind, Probe] = {
    "decoder": DecoderProbe(),
    "encoder": EncoderProbe(),
    "encoder-decoder": EncoderDecoderProbe(),
    "vision": VisionProbe(),
    "masked-vision": MaskedVisionProbe(),
    "image-text": ImageTextProbe(),
    "clip": ClipProbe(),
}


def questions(twin: Twin, seed: int = 0) -> Inputs:
    """The inputs on which a twin is compared."""
    return PROBES[twin.family.kind].inputs(twin.config, torch.Generator().manual_seed(seed))

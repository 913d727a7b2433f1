"""The X-encoder of a plan: its tokens, its parameters and its operations; of a published one without its files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from archlab.compare.cost import parameter_counts
from archlab.compare.flops import counted_flops
from archlab.config import EncoderConfig
from archlab.interop.reference import published
from archlab.vl.clip_encoder import TIME, tokens_of
from archlab.vl.pretrained_encoder import as_clips, frames_of, only_what_sees, side_of
from archlab.vl.x_encoder import open_encoder

_DINOV2_SIZE = 224  # of its released preprocessing; its own size is that of its table of positions


@dataclass(frozen=True)
class EncoderNeeds:
    """What the frozen encoder is and costs.

    Attributes:
        tokens: visual tokens per image or clip.
        width: features of each.
        parameters: of the part that sees.
        flops: operations per image or clip.
    """

    tokens: int
    width: int
    parameters: int
    flops: int

    @property
    def cached_bytes(self) -> int:
        """Size of the cached features of one image or clip, float16."""
        return 2 * self.tokens * self.width


def encoder_needs(config: EncoderConfig, clip: int = 0) -> EncoderNeeds:
    """Measure an encoder.

    Args:
        clip: frames of the clips that it is to read; 0: images.

    Raises:
        UserError: it cannot be opened.
    """
    if published(config.weights) is not None:
        return _published(config, clip)
    encoder = open_encoder(replace(config, views=0), clip)
    image = torch.zeros(1, encoder.image_size, encoder.image_size, 3, dtype=torch.uint8)
    flops = counted_flops(lambda: encoder.encode(image))
    return EncoderNeeds(encoder.tokens, encoder.width, _parameters(encoder.model), flops)


def _published(config: EncoderConfig, clip: int) -> EncoderNeeds:
    known = published(config.weights)
    assert known is not None
    family, size = known
    shape = family.config(size)
    pixels = getattr(shape, "image", shape).image_size if family.name != "dinov2" else _DINOV2_SIZE
    with torch.device("meta"), torch.no_grad():
        model: Any = only_what_sees(family.model_class(shape), family.name)
        images = torch.empty(1, 3, pixels, pixels)
        still = frames_of(model, config)
        frames = clip if clip and still > 1 else still  # a model of images sees the frames one by one
        states: list[Any] = []
        flops = counted_flops(lambda: states.append(model.patch_states(as_clips(images, frames))))
    moments = frames // model.config.tubelet if frames > 1 else 1
    patches = states[0].shape[1] // moments
    if clip:
        apart = 1 if still > 1 else clip
        tokens = tokens_of(config) * moments * apart
        return EncoderNeeds(tokens, states[0].shape[2] + TIME, _parameters(model), flops * apart)
    return EncoderNeeds(side_of(config, math.isqrt(patches)) ** 2, states[0].shape[2], _parameters(model), flops)


def _parameters(model: torch.nn.Module) -> int:
    return int(parameter_counts(torch.nn.Module(), model)["parts"]["encoder_frozen"])

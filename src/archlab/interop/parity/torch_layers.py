"""The first Transformer against `torch.nn.Transformer`, which has norms in either place; Marian has only one."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from archlab.interop.parity import faults
from archlab.interop.parity.checks import first_failed, gradients_of, worst
from archlab.interop.parity.extra import Extra, Pair
from archlab.interop.parity.probes import PROBES
from archlab.interop.parity.results import GRADIENTS, STATES, Outcome
from archlab.interop.parity.states import side_by_side
from archlab.interop.parity.twin import randomise
from archlab.interop.torch_translator import torch_copy, weights
from archlab.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer

_BLOCKS = (("encoder_blocks", "stacks.encoder.layers"), ("decoder_blocks", "stacks.decoder.layers"))
_EPS = 1e-4  # Marian has only another


def build(config: EncoderDecoderConfig, *, pre_norm: bool) -> Pair:
    """Both with the same random weights.

    They are compared layer by layer, and, with a padded source, in logits and gradients of every parameter.
    """
    config = dataclasses.replace(config, pre_norm=pre_norm, norm_eps=_EPS)
    generator = torch.Generator().manual_seed(0)
    model = EncoderDecoderTransformer(config)
    randomise(model, generator)
    model.output_bias.normal_(generator=generator)
    # It stays in training mode, which without dropout changes nothing: in evaluation, PyTorch merges whole layers.
    reference = torch_copy(model)

    def compare() -> Outcome:
        source, target = PROBES["encoder-decoder"].inputs(config, torch.Generator().manual_seed(0))
        found = side_by_side(
            model, reference, _BLOCKS, lambda: model(source, target), lambda: reference(source, target)
        )
        real = torch.ones_like(source, dtype=torch.bool)
        real[1, -3:] = False
        ours, theirs = (either(source, target, source_mask=real) for either in (model, reference))
        upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
        ours.backward(upstream)
        theirs.backward(upstream)
        mine, yours = weights(config).to_hf(gradients_of(model)), gradients_of(reference)
        return first_failed(
            [
                *(state.outcome for state in found),
                worst({"logits of a padded source": (ours, theirs)}, STATES),
                worst({f"gradient of {name}": (mine[name], yours[name]) for name in mine}, GRADIENTS),
            ]
        )

    return Pair(model, [*model.encoder_blocks, *model.decoder_blocks], compare)


EXTRAS = {
    f"torch.nn, {place}": Extra(
        build=partial(build, pre_norm=pre_norm),
        cause=f"what Marian cannot show: {place}, epsilon, or the mask of a padded source",
        faults={fault.cause: fault.plant for fault in (faults.norm_place(), faults.missing_root())},
    )
    for place, pre_norm in (("post-norm", False), ("pre-norm", True))
}
"""Comparisons of the family by name."""

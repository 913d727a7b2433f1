"""Rotary positions in configurations of `transformers`: the dictionary `rope_parameters`, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.errors import UserError
from archlab.layers.rotary_scaling import (
    AnyRotaryScaling,
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RotaryScaling,
    YarnScaling,
)

_SCALINGS: dict[str, type[AnyRotaryScaling]] = {
    "linear": LinearScaling,
    "dynamic": DynamicNTKScaling,
    "yarn": YarnScaling,
    "llama3": Llama3Scaling,
}
# Ours -> theirs, for each of their types.
_OPTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_context": "original_max_position_embeddings",
        "fast_turns": "beta_fast",
        "slow_turns": "beta_slow",
        "truncate": "truncate",
        "attention_factor": "attention_factor",
        "magnitude": "mscale",
        "magnitude_all": "mscale_all_dim",
    },
    "llama3": {
        "factor": "factor",
        "low_frequency": "low_freq_factor",
        "high_frequency": "high_freq_factor",
        "original_context": "original_max_position_embeddings",
    },
}


def scaling_from_hf(
    rope: Mapping[str, Any], *, family: str, context: int, types: Sequence[str] = tuple(_OPTIONS)
) -> AnyRotaryScaling | None:
    """Our scaling of their `rope_parameters`; None leaves the frequencies as they are.

    Args:
        rope: their options, those of one kind of layer.
        family: for messages.
        context: their `max_position_embeddings`.
        types: values of `rope_type` that the family implements.

    Raises:
        UserError: the type or one of its options is not implemented.
    """
    kind = rope.get("rope_type", "default")
    if kind not in types:
        raise UserError(f"{family} option rope_type={kind!r}: only {', '.join(map(repr, types))} are implemented")
    options = _OPTIONS[kind]
    for name in sorted(rope.keys() - {"rope_type", "type", "rope_theta", *options.values()}):
        raise UserError(f"{family} option {name}={rope[name]!r} of rope_type={kind!r}: is not implemented")
    if kind == "default":
        return None
    values = {ours: rope[theirs] for ours, theirs in options.items() if rope.get(theirs) is not None}
    if kind == "dynamic":
        values["original_context"] = context
    if kind == "yarn" and "factor" not in values:
        values["factor"] = context / values["original_context"]
    return _SCALINGS[kind](**values)


def context_from_hf(scaling: RotaryScaling | None, context: int) -> int:
    """Our longest sequence, of their `max_position_embeddings`: under dynamic scaling that is where scaling begins."""
    return round(scaling.factor * context) if isinstance(scaling, DynamicNTKScaling) else context


def context_to_hf(scaling: RotaryScaling | None, context: int) -> int:
    """Their `max_position_embeddings` of our longest sequence.

    Raises:
        UserError: with dynamic scaling, it is not `factor` times the original context.
    """
    if not isinstance(scaling, DynamicNTKScaling):
        return context
    if context != context_from_hf(scaling, scaling.original_context):
        raise UserError(
            f"context={context}: with dynamic scaling transformers can express only factor x original_context, "
            f"{context_from_hf(scaling, scaling.original_context)}"
        )
    return scaling.original_context


def rope_to_hf(base: float, scaling: RotaryScaling | None) -> dict[str, Any]:
    """Their `rope_parameters`.

    Raises:
        UserError: they have no such scaling.
    """
    if isinstance(scaling, NTKScaling):
        raise UserError(
            "rotary_scaling of kind 'ntk': transformers has no such type; "
            "leave it out and multiply rotary_base by factor^(D / (D - 2)), D being the width of a head"
        )
    kind = next((kind for kind, known in _SCALINGS.items() if type(scaling) is known), "default")
    values = {theirs: getattr(scaling, ours) for ours, theirs in _OPTIONS[kind].items()}
    return {"rope_type": kind, "rope_theta": base} | {
        name: value for name, value in values.items() if value is not None
    }

"""What an arm costs beside its operations (`compare.flops`) and memory (`compare.memory`): parameters and money."""

from __future__ import annotations

from typing import Any

from torch import nn

PARTS = ("backbone", "head", "target_encoder", "decoder")
"""Submodules that an arm may have. The token arm's head is the token embedding, counted with the backbone."""
OF_VARIANTS = ("predictor", "writer")
"""Submodules with parameters that variants of the arms have: cross-attention to the query, and of a decoder."""


def parameter_counts(arm: nn.Module, encoder: nn.Module | None = None) -> dict[str, Any]:
    """Parameters of an arm, each counted once.

    Args:
        arm: with submodules named as in `PARTS` and `OF_VARIANTS`.
        encoder: the frozen X-encoder, which the arm reads through cached features.

    Returns:
        "parts": parameters of each of `PARTS`, zero where the arm has none, of those of `OF_VARIANTS` that it has, and
        "encoder_frozen";
        "trainable": those that training changes, the text decoder among them;
        "total": all, with the frozen encoder.
    """
    parts = {part: _count(getattr(arm, part, None)) for part in PARTS}
    parts |= {part: count for part in OF_VARIANTS if (count := _count(getattr(arm, part, None)))}
    trainable = _count(arm, trainable=True)
    assert sum(parts.values()) == _count(arm), f"{type(arm).__name__} has parameters outside {PARTS + OF_VARIANTS}"
    parts["encoder_frozen"] = _count(encoder)
    return {"trainable": trainable, "total": sum(parts.values()), "parts": parts}


def cost_per_1000_requests(throughput_per_s: float, price_per_hour: float) -> float:
    """Money for 1,000 requests on a machine that is busy all the time, in the currency of `price_per_hour`."""
    return 1000 / throughput_per_s / 3600 * price_per_hour


def _count(module: nn.Module | None, trainable: bool = False) -> int:
    if module is None:
        return 0
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)

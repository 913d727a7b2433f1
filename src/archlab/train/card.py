"""What the card of a run says of its weights: how they were made, and what the monitors complained of at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.config import CompressionConfig, PretrainConfig, RunConfig

VARIANT = "**Variant:**"
"""What the sentence begins with; a card without it is older than the sentence."""


def alarm_line(metrics: Mapping[str, Any]) -> str:
    """What the monitors last complained of, in bold; empty where all was well or nothing was watched."""
    alarm = metrics.get("monitor", {}).get("alarm")
    return f"**Alarm:** {alarm}." if alarm else ""


def variant_line(config: RunConfig | PretrainConfig) -> str:
    """The sentence, of a run or of a pretrained encoder, of which there are no variants."""
    return f"{VARIANT} {describe(config)}."


def describe(config: RunConfig | PretrainConfig) -> str:
    """The method and what it left, in a few words."""
    made = config.compression if isinstance(config, RunConfig) else CompressionConfig()
    if made.method == "bfloat16":
        return "weights in bfloat16"
    if made.method == "magnitude":
        return f"magnitude pruning, {made.recipe['sparsity']:.0%} of the linear layers' entries are zero"
    if made.method == "structured":
        return f"structured pruning, {made.heads} heads and {made.feed_forward} channels left in each block"
    if made.method == "distillation":
        trunk = made.recipe["trunk"]
        return f"distilled into a trunk of {trunk['depth']} blocks, width {trunk['width']}"
    products = config.optimizer.precision  # the weights are in float32 whatever these are in; see `train.loop`
    return f"float32, as it was trained{'' if products == 'float32' else f', with matrix products in {products}'}"

"""A model of the registry twice: ours and that of `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from archlab.config import build
from archlab.models.registry import find


def pair(family_name: str, options: Mapping[str, Any], seed: int = 0) -> tuple[Any, Any]:
    """Our model and theirs with the same random weights, in float32, for evaluation.

    Args:
        family_name: of the model.
        options: of its configuration, where they differ from the defaults.
    """
    from transformers.utils import logging

    from archlab.interop.parity.twin import copy_weights

    logging.set_verbosity_error()
    family = find(family_name)
    config = build(family.config_class, dict(options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = family.interop.reference(family.interop.config_to_hf(config)).eval()
    ours: Any = family.model_class(config).eval()
    copy_weights(theirs, ours, family.interop.weights(config))
    return ours, theirs

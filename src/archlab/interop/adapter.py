"""Models of `transformers` as they are, for families that have no counterpart here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archlab.errors import UserError


def load_adapted(folder: Path, reads: str) -> Any:
    """The model of a checkpoint, in evaluation mode, float32.

    Args:
        reads: its main input must be "input_ids" or "pixel_values"; of models with two towers, that of the tower of
            images may be.

    Raises:
        UserError: `transformers` does not read it, weights are missing, or it reads something else.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is an error below; the table of it would hide that line
    try:
        model, report = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # the library raises errors of many classes, about files and configurations alike
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"neither our families nor transformers read it ({reason})") from None
    finally:
        logging.set_verbosity(shown)
    if missing := sorted(
        name for name in report["missing_keys"] if "pooler" not in name
    ):  # states are not pooled by it
        raise UserError(f"weights are missing: {missing[0]} and {len(missing) - 1} more; download it again")
    model = getattr(model, "vision_model", model) if reads == "pixel_values" else model
    if model.main_input_name != reads or getattr(model.config, "is_encoder_decoder", False):
        kind = {"pixel_values": "vision model", "input_ids": "encoder of text"}[reads]
        raise UserError(f"a {model.config.model_type} is no {kind}; give one")
    return model.float().eval()

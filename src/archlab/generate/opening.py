"""From a folder or a hub id to a model that writes text: a checkpoint of `transformers`, or a run of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from archlab.errors import UserError
from archlab.generate.codec import Codec
from archlab.generate.layout import lay_out
from archlab.interop.checkpoint import load_pretrained, locate, model_type_of
from archlab.interop.text import Text, check_fits, load_text
from archlab.models.families.family import Kind
from archlab.models.registry import FAMILIES, find_by_model_type
from archlab.train.recipes import recipe_of

Precision = Literal["float32", "bfloat16", "float16"]
GENERATES: tuple[Kind, ...] = ("decoder", "encoder-decoder")

_OTHER_RUNS = {  # recipes whose models write no text from text -> what to do with such a run
    "arm": "looks at images: archlab generate {run} --image FILE",
    "comparison": "is a comparison of arms, which look at images: archlab generate {run}/runs/NAME --image FILE",
    "pretrain": "is a vision encoder: train an arm with encoder.weights={run}",
    "sentiment": "judges texts and writes none: archlab serve {run}",
}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model that writes text, and what it reads and writes with.

    Attributes:
        model: a decoder, or an encoder-decoder, in evaluation mode.
        text: tokenizer, special tokens and rules; `start` begins the targets of an encoder-decoder, and is None of a
            decoder.
    """

    model: Any
    text: Text

    @property
    def tokenizer(self) -> Codec:
        """Of the text."""
        assert self.text.tokenizer is not None, "what writes text has a tokenizer"
        return self.text.tokenizer


def open_model(
    source: str,
    device: torch.device,
    precision: Precision = "float32",
    kinds: Sequence[Kind] = GENERATES,
    sequences: int = 1,
) -> Opened:
    """Open what continues a text, or writes the target of a source.

    Args:
        source: folder of a checkpoint or of a run, or a hub id.
        device: where it is to compute.
        precision: type of its parameters.
        kinds: what it may be.
        sequences: that it is to continue side by side.

    Raises:
        UserError: there is no such model, it cannot be read, or it is of another kind.
    """
    folder = locate(source)
    recipe = None if (folder / "config.json").exists() else recipe_of(folder)
    if recipe is None:
        opened = _open_checkpoint(source, folder, getattr(torch, precision), kinds)
    else:
        opened = _open_run(source, folder, recipe, kinds)
    opened.model.to(device, getattr(torch, precision))
    lay_out(opened.model, sequences)
    return opened


def _open_checkpoint(source: str, folder: Path, dtype: torch.dtype, kinds: Sequence[Kind]) -> Opened:
    _check_generates(source, folder, kinds)
    text = load_text(folder)
    if text.tokenizer is None:
        raise UserError(
            f"checkpoint {source}: holds no tokenizer.json, nor a SentencePiece model of T5 or Marian; "
            f"save the tokenizer in the same folder"
        )
    if find_by_model_type(model_type_of(folder)).kind == "decoder":
        text = replace(text, start=None)
    elif text.start is None:
        text = replace(text, start=text.bos)  # as in `transformers`
        if text.start is None:
            raise UserError(f"checkpoint {source}: names no decoder_start_token_id; add it to generation_config.json")
    model = load_pretrained(folder, dtype=dtype)
    if getattr(model.config, "bidirectional", False):
        raise _does_not_continue(source, "a bidirectional model, which", kinds)
    try:
        check_fits(text, model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    except UserError as error:
        raise UserError(f"checkpoint {source}: {error}") from None
    return Opened(model=model, text=text)


def _check_generates(source: str, folder: Path, kinds: Sequence[Kind]) -> None:
    """Refuse a checkpoint whose family does not write text, or not in one of these ways."""
    model_type = model_type_of(folder)
    if not any(model_type in family.model_types for family in FAMILIES.values() if family.kind in kinds):
        raise _does_not_continue(source, f"model_type {model_type!r}", kinds)


def _does_not_continue(source: str, what: str, kinds: Sequence[Kind]) -> UserError:
    generates = ", ".join(name for name, family in FAMILIES.items() if family.kind in kinds)
    return UserError(f"checkpoint {source}: {what} does not continue text here; the families that do: {generates}")


def _open_run(source: str, folder: Path, recipe: str, kinds: Sequence[Kind]) -> Opened:
    if recipe in _OTHER_RUNS:
        raise UserError(f"run {source}: {_OTHER_RUNS[recipe].format(run=source)}")
    if recipe == "characters":
        from archlab.train.text.characters import open_characters

        model, symbols = open_characters(folder)
        return Opened(model=model, text=Text(tokenizer=symbols, bos=symbols.get_vocab().get("\n")))
    if "encoder-decoder" not in kinds:
        raise UserError(f"run {source}: translates, and continues no text; give a run of characters, or a checkpoint")
    from archlab.train.text.translation import open_translator

    _, translator, tokenizer = open_translator(folder)
    text = Text(tokenizer=tokenizer.framed(), eos=(tokenizer.eos_id,), start=tokenizer.bos_id)
    return Opened(model=translator, text=text)

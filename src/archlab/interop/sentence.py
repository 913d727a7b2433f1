"""Encoders of text with their own tokenizer and pooling, as `sentence_transformers` saves them.

A checkpoint's `modules.json` lists what follows the Transformer: pooling, linear layers, normalisation. A plain
checkpoint of `transformers` has none of it, and the mean of its states is taken.

Shape legend: B texts, T tokens, W width of the Transformer, D of the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.errors import UserError
from archlab.interop.adapter import load_adapted
from archlab.interop.checkpoint import load_pretrained, locate, model_type_of, read_json
from archlab.interop.text import Text, check_fits, load_text
from archlab.layers.pooling import masked_mean
from archlab.models.bert import Bert
from archlab.models.gemma import Gemma

Pooling = Literal["mean", "cls", "last"]
# What configurations call them: one key with a name, or, before version 5.2, one flag for each.
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS: dict[str, type[nn.Module]] = {"Identity": nn.Identity, "Tanh": nn.Tanh, "GELU": nn.GELU, "ReLU": nn.ReLU}
_CONTEXT = 512  # of adapted models whose positions have no limit
_OURS = ("bert", "gemma3_text")


class SentenceEncoder(nn.Module):
    """Texts to one vector each.

    Args:
        model: of tokens; one of ours, or `Adapted`.
        width: W.
        context: most tokens of a text that are read.
        tokenizer: its own; None where only the shape matters.
        pooling: what of the states of a text is taken.
        layers: what follows, of width D at its end.
    """

    def __init__(
        self,
        model: nn.Module,
        width: int,
        context: int,
        tokenizer: Tokenizer | None = None,
        pooling: Pooling = "mean",
        layers: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.model, self.context, self.tokenizer, self.pooling = model, context, tokenizer, pooling
        self.layers = nn.Sequential(*layers)
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.width = linear[-1].out_features if linear else width

    @property
    def implementation(self) -> str:
        """ "archlab", or "transformers" where the family is not one of ours."""
        return "transformers" if isinstance(self.model, Adapted) else "archlab"

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Vectors (B, D) of ids (B, T) with mask (B, T), True at real tokens; their features have unit variance."""
        states = self.model.states if isinstance(self.model, Gemma) else self.model
        vectors = self.layers(pooled(states(tokens, mask=mask), mask, self.pooling))
        return F.normalize(vectors, dim=-1) * self.width**0.5

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, T), with the special tokens of the checkpoint and padding on the right, and mask (B, T)."""
        assert self.tokenizer is not None, "only the shape of this encoder was opened"
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.tensor([token for row in rows for token in row])
        return ids, mask


class Adapted(nn.Module):
    """An encoder of text of `transformers` that has no counterpart here."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.adapted = model

    def forward(self, tokens: Tensor, *, mask: Tensor) -> Tensor:
        """(B, T) -> (B, T, W)."""
        states: Tensor = self.adapted(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return states


def load_sentence_encoder(source: str) -> SentenceEncoder:
    """Open a checkpoint with its tokenizer and pooling, in evaluation mode.

    Args:
        source: as of `checkpoint.load_pretrained`.

    Raises:
        UserError: there is none, it is damaged or reads no text, or its pooling is not implemented.
    """
    folder = locate(source)
    try:
        pooling, layers = _modules(folder)
        tokenizer = load_text(folder).tokenizer
        if not isinstance(tokenizer, Tokenizer):
            raise UserError("tokenizer.json is missing; save the tokenizer in the format of the tokenizers library")
        model, width, context = _text_model(folder, tokenizer)
    except UserError as error:
        raise UserError(f"checkpoint {source}: {str(error).removeprefix(f'checkpoint {folder}: ')}") from None
    tokenizer.encode_special_tokens = True  # as text: a caption's "[SEP]" must not end it
    tokenizer.enable_truncation(context)
    return SentenceEncoder(model, width, context, tokenizer, pooling, layers).eval()


def without_unused(model: nn.Module) -> nn.Module:
    """The model without the layer that next-sentence prediction has taught: sentence encoders pool states."""
    if isinstance(model, Bert):
        del model.pooler
    return model


def pooled(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One state (B, W) of states (B, T, W) with mask (B, T): the mean, or the first or last real one."""
    if pooling == "mean":
        return masked_mean(states, mask)
    places = torch.arange(mask.shape[1], device=mask.device)
    chosen = mask.long().argmax(1) if pooling == "cls" else (places * mask).argmax(1)
    return states[torch.arange(len(states), device=mask.device), chosen]


def _text_model(folder: Path, tokenizer: Tokenizer) -> tuple[nn.Module, int, int]:
    """The Transformer, its width and its context."""
    if model_type_of(folder) in _OURS:
        model = without_unused(load_pretrained(folder))
        config: Any = model.config
        check_fits(Text(tokenizer=tokenizer), config.vocab_size)
        return model, config.width, config.context
    theirs = load_adapted(folder, "input_ids")
    found = theirs.config
    return Adapted(theirs), found.hidden_size, getattr(found, "max_position_embeddings", _CONTEXT)


def _modules(folder: Path) -> tuple[Pooling, list[nn.Module]]:
    """What follows the Transformer."""
    pooling: Pooling = "mean"
    layers: list[nn.Module] = []
    for module in _listed(folder):
        kind, place = str(module.get("type", "")).rpartition(".")[2], folder / str(module.get("path", ""))
        if kind == "Pooling":
            pooling = _pooling(read_json(place / "config.json"))
        elif kind == "Dense":
            layers += _dense(place)
        elif kind not in ("Transformer", "Normalize"):  # vectors are normalised in any case
            raise UserError(f"modules.json: module {kind!r} is not implemented; use another checkpoint")
    return pooling, layers


def _listed(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.exists():
        return []
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise UserError("modules.json is damaged; download it again")
    return listed


def _pooling(config: dict[str, Any]) -> Pooling:
    flags = [name for flag, name in _FLAGS.items() if config.get(flag)]
    given = config.get("pooling_mode", flags[0] if len(flags) == 1 else flags)
    if not isinstance(given, str) or given not in _POOLINGS:
        raise UserError(f"pooling {given!r}: only {', '.join(_POOLINGS)} are implemented; use another checkpoint")
    return _POOLINGS[given]


def _dense(folder: Path) -> list[nn.Module]:
    config = read_json(folder / "config.json")
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS or config.get("use_residual"):
        raise UserError(f"{folder.name}: activation {name!r} or a residual is not implemented; use another checkpoint")
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    try:
        found = {name.removeprefix("linear."): value for name, value in load_file(folder / "model.safetensors").items()}
        linear.load_state_dict(found)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder.name}/model.safetensors cannot be read ({str(error).splitlines()[0]})") from None
    return [linear, _ACTIVATIONS[name]()]

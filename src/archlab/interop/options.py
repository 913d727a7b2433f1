"""The options of a configuration of `transformers`: copied, fixed, or ignored on purpose; any other is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from transformers import PretrainedConfig

from archlab.errors import UserError

# Of the options that every configuration has, those that change what a model computes: they must have their defaults
# where a family does not read them.
_ESSENTIAL = {"is_encoder_decoder", "tie_word_embeddings"}
# Written by other versions and classes; they change nothing that a model computes.
_HARMLESS = {
    "torch_dtype",
    "transformers_version",
    "model_type",
    "use_cache",
    "initializer_range",
    "task_specific_params",
    "gradient_checkpointing",
    "_num_labels",
}
# Written into every configuration by versions before 5; they change nothing with these values.
_LEGACY: dict[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "diversity_penalty": 0.0,
    "finetuning_task": None,
    "is_decoder": False,
    "num_beam_groups": 1,
    "prefix": None,
    "pruned_heads": {},
    "sep_token_id": None,
    "tie_encoder_decoder": False,
    "tokenizer_class": None,
    "torchscript": False,
    "use_bfloat16": False,
}
_TOKENS = {"bos_token_id", "eos_token_id", "pad_token_id"}


@dataclass(frozen=True)
class Options:
    """How the options of one family are read and written.

    Attributes:
        copied: our name -> theirs, for values that are the same.
        fixed: theirs -> the only value that our model implements.
        obsolete: the same, of options that only old files have; they are never written.
        handled: theirs that the family's own code reads and writes.
        ignored: theirs without influence on what a model computes after training, such as dropout.
    """

    copied: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    obsolete: Mapping[str, Any] = field(default_factory=dict)
    handled: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def read(self, theirs: PretrainedConfig) -> dict[str, Any]:
        """Our name -> value, of the copied options.

        Raises:
            UserError: an option has a value that is not implemented, or is unknown.
        """
        given = theirs.to_dict()
        fixed = {**self.fixed, **self.obsolete}
        for name, only in fixed.items():
            if given.get(name, only) != only:
                raise UserError(
                    f"{theirs.model_type} option {name}={given[name]!r}: only {only!r} is implemented; "
                    f"use another checkpoint"
                )
        known = {*self.copied.values(), *fixed, *self.handled, *self.ignored, *_HARMLESS, *_TOKENS}
        for name, value in given.items():
            if name in known or (name in _common() and (name not in _ESSENTIAL or value == _common()[name])):
                continue
            if name in _LEGACY and value == _LEGACY[name]:
                continue
            raise UserError(
                f"{theirs.model_type} option {name}={value!r}: is not implemented; "
                f"remove it from config.json only if it changes nothing"
            )
        return {ours: given[name] for ours, name in self.copied.items()}

    def write(self, config: Any) -> dict[str, Any]:
        """Theirs -> value, of the copied and the fixed options.

        Special tokens are written as absent: they belong to the tokenizer, and the defaults of `transformers` are those
        of one checkpoint.
        """
        copied = {name: getattr(config, ours) for ours, name in self.copied.items()}
        return copied | dict(self.fixed) | dict.fromkeys(sorted(_TOKENS))


def require_squares(theirs: PretrainedConfig, *names: str) -> None:
    """Check that sizes of images or patches are given by one number, for both sides.

    Raises:
        UserError: one is not.
    """
    for name in names:
        value = getattr(theirs, name)
        if not isinstance(value, int):
            raise UserError(
                f"{theirs.model_type} option {name}={value!r}: only squares, given by one number, are implemented"
            )


def require_derived_head_width(theirs: PretrainedConfig) -> None:
    """Check that the heads share the width, if their own width is given at all.

    Raises:
        UserError: they do not.
    """
    head_dim = theirs.head_dim
    if head_dim is not None and head_dim * theirs.num_attention_heads != theirs.hidden_size:
        raise UserError(
            f"{theirs.model_type} option head_dim={head_dim}: only hidden_size / num_attention_heads is implemented; "
            f"use another checkpoint"
        )


@cache
def _common() -> dict[str, Any]:
    return PretrainedConfig().to_dict()

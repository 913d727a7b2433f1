"""What `archlab compress` makes of a run: named variants, each by one method, in one YAML file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from archlab.config import Section, TransformerConfig, build, read_yaml, to_dict
from archlab.errors import UserError
from archlab.rules import NAMED, Count, InnerShare, Natural, Positive, Share, at_least, each

DENSE = "float32"
"""Name of the run itself among its variants."""

Runtime = Literal["torch", "onnx", "onnx-int8"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

_BUILT_IN = Path(__file__).parent / "standard.yaml"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Variant(Section):
    """One way to make a run smaller."""

    method: Literal["bfloat16", "magnitude", "structured", "distillation"] = "bfloat16"
    """"bfloat16": all weights rounded; "magnitude": the smallest entries of the linear layers become zero;
    "structured": whole heads and channels of the trunk go; "distillation": a smaller trunk learns from the run."""
    sparsity: InnerShare = 0.5
    """Of "magnitude": share of the entries that become zero."""
    kept: InnerShare = 0.5
    """Of "structured": share of the heads and of the channels that stays in each block, rounded up."""
    examples: Count = 1024
    """Of "structured": training examples that tell which heads and channels matter."""
    trunk: TransformerConfig = field(default_factory=lambda: TransformerConfig(depth=2))
    """Of "distillation": size of the student's trunk."""
    temperature: Positive = 2.0
    """Of "distillation" of the token arm: what both logits are divided by."""
    teacher: Share = 0.5
    """Of "distillation": weight of the teacher against the data."""
    steps: Natural = 0
    """Training steps afterwards, or of the student; 0 for none."""
    learning_rate: Positive = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "distillation" and not self.steps:
            raise UserError("steps=0: a student has to learn; give at least 1")
        if self.method == "bfloat16" and self.steps:
            raise UserError(f"steps={self.steps}: weights in bfloat16 are not trained; leave it at 0")

    def relevant(self) -> dict[str, Any]:
        """The options that the method reads, as they are recorded."""
        return {name: value for name, value in to_dict(self).items() if name in _READ[self.method]}


_READ: dict[str, tuple[str, ...]] = {
    "bfloat16": (),
    "magnitude": ("sparsity", "steps", "learning_rate"),
    "structured": ("kept", "examples", "steps", "learning_rate"),
    "distillation": ("trunk", "temperature", "teacher", "steps", "learning_rate"),
}


@dataclass(frozen=True, kw_only=True)
class CompressConfig(Section):
    """Variants, and how they are measured."""

    variants: dict[str, Any] = field(default_factory=dict)
    """Name -> `Variant`."""
    runtimes: Annotated[list[Runtime], each(NAMED, least=1)] = field(default_factory=lambda: [*RUNTIMES])
    """What every variant is measured in; "torch" among them, to which the others are compared."""
    latency_batches: Annotated[list[int], each(at_least(1), least=1)] = field(default_factory=lambda: [1, 8])
    """Images per request."""
    latency_rounds: Count = 50
    """Timed requests of every kind; in each round all variants take their turn."""
    bootstrap_samples: Annotated[int, at_least(100)] = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        if "torch" not in self.runtimes:
            raise UserError(f"runtimes={self.runtimes}: must hold 'torch', to which the others are compared")

    def named(self) -> dict[str, Variant]:
        """The variants.

        Raises:
            UserError: one is wrong; the message says which.
        """
        found = {}
        for name, raw in self.variants.items():
            if not _NAME.fullmatch(name) or name == DENSE:
                raise UserError(
                    f"variants.{name}: must be lower-case words joined by '-', other than {DENSE!r}, the run itself"
                )
            if not isinstance(raw, dict):
                raise UserError(f"variants.{name}={raw!r}: must be a section of keys")
            try:
                found[name] = build(Variant, raw)
            except UserError as error:
                raise UserError(f"variants.{name}: {error}") from None
        if not found:
            raise UserError("variants: names none; give at least one, as variants.half.method=structured")
        return found


def load_compress(path: Path | None, overrides: list[str]) -> CompressConfig:
    """Read a recipe, by default the built-in one, and check it.

    Raises:
        UserError: it cannot be read, or something in it is wrong.
    """
    config = build(CompressConfig, read_yaml(path or _BUILT_IN), overrides)
    config.named()
    return config

"""Graphics processors by name, from an editable file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dacite import DaciteError

from archlab.config import Section, build, read_yaml
from archlab.errors import UserError
from archlab.rules import Named, Positive

GPUS = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True, kw_only=True)
class Gpu(Section):
    """One graphics processor."""

    name: Named
    memory: Positive
    """GiB."""
    bfloat16: Positive
    """Peak of matrix products without sparsity, TFLOP/s."""
    float32: Positive

    def peak(self, precision: Literal["float32", "bfloat16"]) -> float:
        """Operations per second."""
        return 1e12 * (self.bfloat16 if precision == "bfloat16" else self.float32)


def find_gpu(name: str, file: Path = GPUS) -> Gpu:
    """The processor of this name in a file.

    Raises:
        UserError: the file cannot be read or breaks a rule, or knows no such name.
    """
    known = read_yaml(file)
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"--gpu {name!r}: is unknown; {hint}(known: {', '.join(known)}; add yours to {file})")
    entry = known[name.lower()]
    if not isinstance(entry, dict):
        raise UserError(f"{file}: {name.lower()}: must be a mapping of name, memory, bfloat16 and float32")
    try:
        return build(Gpu, entry)
    except (UserError, DaciteError) as error:
        raise UserError(f"{file}: {name.lower()}: {error}") from None

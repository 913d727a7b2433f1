"""The families of models by name, and how to find the one of a checkpoint or of a model.

Importing this imports no PyTorch.

To add a family:
 1. `models/NAME.py`: a configuration (`config.Section`; rules for new names go to `config._RULES_OF_NAMES`), the block,
    the model. A decoder follows `models.protocols.Decoder`. Extend a layer where one is missing; do not copy it.
 2. `interop/NAME.py`: what `interop.family.Interop` lists: options and weights of `transformers`, the reference, and at
    least two faults that parity must notice (shared ones are in `interop.parity.faults`).
 3. An entry in `models/families/`, in the module of its kind: configuration, class, a tiny shape for tests, the
    published sizes. Its `tiny` shape should exercise every option (more heads than key-value heads, unequal widths);
    what excludes each other goes to `variants`, each of which parity is proven of too.
 4. Only if the family reads or gives something new: a kind, with one probe in `interop.parity.probes`.
 5. Only if it has a part that `transformers` lacks: a reference of its own, as an `interop.parity.extra.Extra`.
Every test in `tests/models/test_families.py` and `tests/interop/` then covers it, as does `archlab parity NAME`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from archlab.errors import UserError
from archlab.models.families.decoders import DECODERS
from archlab.models.families.encoder_decoders import ENCODER_DECODERS
from archlab.models.families.encoders import ENCODERS
from archlab.models.families.family import Family, unknown
from archlab.models.families.vision import VISION

if TYPE_CHECKING:
    from torch import nn

FAMILIES: dict[str, Family] = {family.name: family for family in (*DECODERS, *ENCODERS, *ENCODER_DECODERS, *VISION)}


def find(name: str) -> Family:
    """The family with this name.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    if name not in FAMILIES:
        raise UserError(unknown("family", name, FAMILIES))
    return FAMILIES[name]


def find_by_model_type(model_type: str) -> Family:
    """The family whose checkpoints have this `model_type`.

    Raises:
        UserError: no family reads it; the nearest is suggested.
    """
    by_type = {known: family for family in FAMILIES.values() for known in family.model_types}
    if model_type not in by_type:
        raise UserError(unknown("model_type", model_type, by_type))
    return by_type[model_type]


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        UserError: it belongs to none.
    """
    for family in FAMILIES.values():
        if type(model).__name__ == family.model_name and type(model) is family.model_class:
            return family
    raise UserError(f"model of class {type(model).__name__}: belongs to no family; known are {', '.join(FAMILIES)}")

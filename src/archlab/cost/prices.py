"""The price list: machines and what an hour of each costs, in a YAML file that everybody edits for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml

from archlab.config import Section, build
from archlab.errors import UserError
from archlab.rules import Count, Named, Positive

Device = Literal["cpu", "gpu"]
HOURS_PER_MONTH = 730.0
"""24 hours times 365 days over 12 months."""


@dataclass(frozen=True, kw_only=True)
class Machine(Section):
    """One entry of the list.

    Attributes:
        device: what computes.
        cores: of the machine, for the reader to compare with what was measured.
        price_per_hour: in the list's currency.
        source: where the price comes from.
        date: when it was looked up, YYYY-MM-DD.
    """

    device: Device
    cores: Count
    price_per_hour: Positive
    source: Named
    date: Named

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise UserError(f"date={self.date!r}: must be a day, as 2026-11-21") from None


@dataclass(frozen=True)
class PriceList:
    """The file.

    Attributes:
        currency: of all prices.
        machines: by name, in the order of the file.
    """

    currency: str
    machines: dict[str, Machine]

    def first(self, device: Device, name: str | None = None) -> tuple[str, Machine] | None:
        """The machine of a name, or the first of a device; None where the list has none of it.

        Raises:
            UserError: the named one is missing, or is none of this device.
        """
        own = {key: machine for key, machine in self.machines.items() if machine.device == device}
        if name is None:
            return next(iter(own.items()), None)
        if name not in own:
            raise UserError(
                f"--{device} {name}: the price list has no {device} of that name; it has {', '.join(own) or 'none'}"
            )
        return name, own[name]


def read_prices(path: Path) -> PriceList:
    """Read a price list.

    Raises:
        UserError: it cannot be read, or an entry breaks a rule.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"price list {path}: {error.strerror}; name one with --prices FILE") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"price list {path}: is no YAML ({' '.join(str(error).split())}); correct it") from None
    shape = isinstance(raw, dict) and isinstance(raw.get("machines"), dict) and isinstance(raw.get("currency"), str)
    if not shape or not raw["machines"] or set(raw) != {"currency", "machines"}:
        raise UserError(f"price list {path}: must have the keys currency, a text, and machines, entries by name")
    machines = {}
    for name, entry in raw["machines"].items():
        try:
            # YAML reads an unquoted day as a date.
            own = {key: str(value) if isinstance(value, date) else value for key, value in entry.items()}
            machines[str(name)] = build(Machine, own)
        except (AttributeError, UserError) as error:
            rule = error if isinstance(error, UserError) else "must be entries of the form key: value"
            raise UserError(f"price list {path}, machine {name}: {rule}") from None
    return PriceList(raw["currency"], machines)

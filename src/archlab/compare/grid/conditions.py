"""What a trained run is asked on: a test split, its images corrupted or not, with or without what a control removes.

Conditions train nothing. Those that every cell has are read from it; the others (corrupted images, captions in unseen
syntax, controls of other splits) are measured by a cell of their own, which opens the finished run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from archlab.compare.trial import BLIND, add_small_gallery, blind_controls
from archlab.config import CompareConfig
from archlab.data.corruptions import corrupted
from archlab.data.example import Split
from archlab.data.scenes.syntax import SYNTAX, in_new_syntax
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement
from archlab.train.run import Run, measure_arm
from archlab.train.setup import Setup

TEST = "test"
SPLIT, CORRUPTION, SEVERITY = "split", "corruption", "severity"
"""Keys of the factors that turn what is asked, and not what is trained."""
KEYS = (SPLIT, CORRUPTION, SEVERITY)
MAJORITY = "majority"
"""The control that no run is asked for."""


@dataclass(frozen=True)
class Condition:
    """Where a score is read.

    Attributes:
        split: a test split, or `SYNTAX`.
        corruption: one of `data.corruptions`. severity: 0 leaves the images as they are.
        control: one of `trial.BLIND`, `MAJORITY`, or "".
        name: under which a cell keeps the scores.
    """

    split: str = TEST
    corruption: str = ""
    severity: int = 0
    control: str = ""
    name: str = field(init=False)

    def __post_init__(self) -> None:
        damage = f"{self.corruption}-{self.severity}" if self.severity else ""
        split = self.split if self.split != TEST or not (damage or self.control) else ""
        object.__setattr__(self, "name", "/".join(filter(None, [split, damage, self.control])))

    @property
    def usual(self) -> bool:
        """Whether every cell has it: a test split as it is, and the controls of "test"."""
        return not self.severity and self.split != SYNTAX and (not self.control or self.split == TEST)

    @property
    def family(self) -> str:
        """Conditions of one family are measured together: one corruption at all severities, or all others."""
        return self.corruption if self.severity else ""


@dataclass(frozen=True)
class Asked:
    """What was found under a condition.

    Attributes:
        measurement: of the items. features_digest: of what was read.
        images: name of the images, as they were before they were corrupted: the scenes behind them are the same.
    """

    measurement: Measurement
    features_digest: str
    images: str


def measure_conditions(
    conditions: Iterable[Condition], run: Run, setup: Setup, count: int, captions: int | None = None
) -> Mapping[str, Asked]:
    """Ask a run under every condition, by its name.

    Args:
        count, captions: of each; see `Items.first`.

    Raises:
        UserError: the data have no such split.
    """
    found = {}
    for one in conditions:
        under, split = _asked(setup, one)
        control = blind_controls(len(split.images))[one.control] if one.control else None
        measured = measure_arm(run.arm, under, run.config, split.name, count, control, captions)
        if one.split == SYNTAX and not one.control:
            gallery = Items.first(split, count, captions).captions[: CompareConfig().pmi_gallery]
            add_small_gallery(measured, run, under, split.name, gallery)
        images = setup.dataset.splits.get(one.split, setup.dataset[TEST]).image_digest
        found[one.name] = Asked(measured, under.features(split.name).digest, images)
    return found


def check_control(control: Any) -> None:
    """Refuse a control that there is not."""
    if control not in BLIND:
        raise UserError(f"control={control!r}: must be one of {', '.join(BLIND)}")


def _asked(setup: Setup, one: Condition) -> tuple[Setup, Split]:
    """The split of a condition, and the setup with it among its data."""
    splits = setup.dataset.splits
    if one.split not in (*splits, SYNTAX):
        known = ", ".join(name for name in (*splits, SYNTAX) if name.startswith(TEST))
        raise UserError(f"split {one.split!r}: the data have none of that name; they have {known}")
    split = in_new_syntax(splits[TEST]) if one.split == SYNTAX else splits[one.split]
    if one.severity:
        worse = corrupted(split, one.corruption, one.severity, setup.config.data)
        split = replace(worse, name=replace(one, control="").name)
    if split.name in splits:
        return setup, split
    dataset = replace(setup.dataset, splits={**splits, split.name: split})
    return replace(setup, dataset=dataset), split

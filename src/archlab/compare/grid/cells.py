"""From a protocol to cells: every run once, under a name that says what it is made of.

A cell's key is the hash of its configuration, of the data, of the encoder and of the checkpoints that it begins with.
Where runs are asked on more than every cell is, another cell opens the finished run (`grid.conditions`).
Only what differs from the defaults is hashed, so that a new option, whose default is what was done before, leaves the
keys of finished cells as they are. What a default was is kept in the cell's results, and checked when they are read
(`results.load_cell`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from archlab.compare.grid.conditions import Condition
from archlab.compare.grid.protocol import BUDGET, Config, Levels, Protocol, Tuning
from archlab.config import (
    ContrastiveConfig,
    EmbeddingArmConfig,
    LatentPredictionConfig,
    LeJEPAConfig,
    MaskedAutoencoderConfig,
    PretrainConfig,
    RunConfig,
    SIGRegConfig,
    StartConfig,
    TokenArmConfig,
    VICRegConfig,
    flatten,
    to_dict,
)
from archlab.data import corruptions
from archlab.errors import UserError

CELL = "cell:"
"""How `start.run` names another cell, by its key."""


@dataclass(frozen=True)
class Cell:
    """A run and what is measured of it.

    Attributes:
        config: of the run; `start.run` names another cell by its key.
        test_items: scored per test split; 0 leaves the test splits alone, as tuning must.
        digests: of the data, of the encoder and of pretrained parts.
        parent: the cell that it begins with.
        conditions: what it asks the run of its parent on, and trains nothing; none: it is a run of its own.
        test_captions: scored per test split, and open-vocabulary questions beside `test_items` others.
        key: its name.
    """

    config: Config
    test_items: int
    digests: tuple[str, ...]
    parent: Cell | None = None
    conditions: tuple[Condition, ...] = ()
    test_captions: int = 0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        plain = flatten(to_dict(type(self.config)()))
        given = {key: value for key, value in flatten(to_dict(self.config)).items() if value != plain.get(key)}
        asked = [corruptions.RULE, *(one.name for one in self.conditions)] if self.conditions else []
        content = json.dumps([given, self.test_items, self.test_captions, self.digests, *asked], sort_keys=True)
        object.__setattr__(self, "key", hashlib.sha256(content.encode()).hexdigest()[:16])


@dataclass(frozen=True)
class Row:
    """A place in the protocol's table, and where in the cell its scores are; several places may have one cell."""

    arm: str
    levels: Levels
    seed: int
    cell: Cell
    condition: Condition = field(default_factory=Condition)

    @cached_property
    def place(self) -> str:
        """Of its levels, to look up by."""
        return place(self.levels)

    @property
    def name(self) -> str:
        """For a reader: "vljepa, K=4, seed 0"."""
        return ", ".join([self.arm, *(f"{name}={level}" for name, level in self.levels.items()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Inputs:
    """What expansion must know beside the protocol.

    Attributes:
        digests: of the data, the encoder and the pretrained parts that a run reads.
        budgeted: a run under a budget, by its name.
    """

    digests: Callable[[Config], tuple[str, ...]]
    budgeted: Callable[[str, Config], Config]


def tuning_rows(protocol: Protocol, inputs: Inputs) -> list[Row]:
    """The short runs that choose the learning rates; their levels hold the learning rate too."""
    rows: dict[tuple[str, str, float], Row] = {}
    protocol = protocol.trained()
    for levels in protocol.combinations():
        tuned_at = levels | protocol.tuning.at
        for arm in protocol.arms:
            for rate in protocol.tuning.learning_rates:
                config = _budgeted(protocol, arm, tuned_at, protocol.seeds[0], inputs)
                short = _trial(config, rate, protocol.tuning)
                if "after" in protocol.arms[arm]:
                    raise UserError(f"arm {arm!r}: cannot be tuned, because it begins after another; leave tuning out")
                cell = Cell(relevant(short), 0, inputs.digests(short))
                row = Row(arm, tuned_at | {"learning_rate": rate}, protocol.seeds[0], cell)
                rows.setdefault((arm, place(tuned_at), rate), row)
    return list(rows.values())


def main_rows(protocol: Protocol, inputs: Inputs, tuned: Mapping[tuple[str, str], float]) -> list[Row]:
    """The table of the protocol, seed by seed, so that what is interrupted early is a whole screening.

    Args:
        tuned: (arm, levels as text) -> learning rate; see `place`.
    """
    trained, rows = protocol.trained(), list[Row]()
    asked = {arm: _unusual(protocol, arm) for arm in trained.arms}
    for seed in protocol.seeds:
        runs = {place(levels): _runs(trained, levels, seed, inputs, tuned) for levels in trained.combinations()}
        for levels in protocol.combinations():
            of_arm = runs[place({name: levels[name] for name in trained.factors})]
            for arm in protocol.arms:
                condition, run = protocol.condition(arm, levels), protocol.run_of(arm)
                cell = of_arm[run]
                if not condition.usual:
                    cell = replace(cell, parent=cell, conditions=asked[run][condition.family])
                rows.append(Row(arm, levels, seed, cell, condition))
    return rows


def _runs(
    trained: Protocol, levels: Levels, seed: int, inputs: Inputs, tuned: Mapping[tuple[str, str], float]
) -> dict[str, Cell]:
    """Arm -> its run at these levels under this seed."""
    of_arm: dict[str, Cell] = {}
    for arm in sorted(trained.arms, key=lambda arm: "after" in trained.arms[arm]):  # a stable sort
        config = _budgeted(trained, arm, levels, seed, inputs)
        rate = tuned.get((arm, place(levels | trained.tuning.at)), config.optimizer.learning_rate)
        config = relevant(replace(config, optimizer=replace(config.optimizer, learning_rate=rate)))
        parent = of_arm.get(trained.arms[arm].get("after", ""))
        if parent is not None:
            assert isinstance(config, RunConfig)  # as the protocol was checked
            config = replace(config, start=replace(config.start, run=f"{CELL}{parent.key}"))
        digests = inputs.digests(config)
        of_arm[arm] = Cell(config, trained.test_items, digests, parent, test_captions=trained.test_captions)
    return of_arm


def _unusual(protocol: Protocol, run: str) -> dict[str, tuple[Condition, ...]]:
    """Family -> all conditions that only cells of their own are asked on, of a run and its controls."""
    arms = [arm for arm in protocol.arms if protocol.run_of(arm) == run]
    found: dict[str, dict[Condition, None]] = {}
    for levels in protocol.combinations():
        for condition in (protocol.condition(arm, levels) for arm in arms):
            if not condition.usual:
                found.setdefault(condition.family, {})[condition] = None
    return {family: tuple(ones) for family, ones in found.items()}


def place(levels: Levels) -> str:
    """Levels as text, to look up by."""
    return json.dumps(levels, sort_keys=True)


def unique_cells(rows: Sequence[Row]) -> list[Cell]:
    """Every cell once, in the order of the rows; those that others begin with come before them."""
    cells: dict[str, Cell] = {}

    def add(cell: Cell | None) -> None:
        if cell is not None and cell.key not in cells:
            add(cell.parent)
            cells[cell.key] = cell

    for row in rows:
        add(row.cell)
    return list(cells.values())


def relevant(config: Config) -> Config:
    """The configuration without what its arm or method does not read, so that equal runs have equal keys."""
    if isinstance(config, PretrainConfig):
        if config.method != "mae":
            config = replace(config, mae=MaskedAutoencoderConfig())
        if config.method != "lejepa":
            config = replace(config, lejepa=LeJEPAConfig())
        return config if config.method in ("ijepa", "vjepa") else replace(config, jepa=LatentPredictionConfig())
    if not config.start.run or config.arm == "hybrid":
        config = replace(config, start=StartConfig(run=config.start.run))
    if config.arm in ("token", "supervised"):
        config = replace(config, vljepa=EmbeddingArmConfig())
    if config.arm != "token":
        config = replace(config, token=TokenArmConfig())
    own = config.vljepa
    if own.objective != "info-nce":
        own = replace(own, loss=ContrastiveConfig())
    if own.objective != "sigreg":
        own = replace(own, sigreg=SIGRegConfig())
    if own.objective != "vicreg":
        own = replace(own, vicreg=VICRegConfig())
    return replace(config, vljepa=own)


def _trial(config: Config, rate: float, tuning: Tuning) -> Config:
    """A short run at a learning rate, scored once, at its end."""
    steps = min(tuning.steps, config.optimizer.steps)
    optimizer = replace(config.optimizer, learning_rate=rate, steps=steps)
    if isinstance(config, PretrainConfig):
        return replace(config, optimizer=optimizer, probe_every=steps)
    evaluation = replace(config.evaluation, checkpoints=1, first_checkpoint=steps, items=tuning.items)
    return replace(config, optimizer=optimizer, evaluation=evaluation)


def _budgeted(protocol: Protocol, arm: str, levels: Levels, seed: int, inputs: Inputs) -> Config:
    config = protocol.config(arm, levels, seed)
    for name, level in levels.items():
        if protocol.factors[name].key == BUDGET:
            config = inputs.budgeted(level, config)
    return config

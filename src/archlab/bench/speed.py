"""What the benchmarks were to show beside what they showed, between the markers of a document.

python -m archlab.bench.speed DOCUMENT RESULTS [--check]

RESULTS holds what `archlab bench attention | generate | train --out` wrote: `bench-attention/*.json` and so on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.bench.attention import OURS as FUSED
from archlab.bench.train import OURS
from archlab.compare import formatting as show
from archlab.documents import StrPath, block_command, escape, table, write_block

BLOCK = "speed"
LONG_ENOUGH = 256
"""Tokens from which fused attention is to be as fast as PyTorch's function."""
WITHIN = 1.03
SMALL, LARGE = "10M", "124M"
GOALS = {SMALL: 1.5, LARGE: 1.0}
"""Tokens per second over those of `transformers`, by size."""
OF_LIMIT = 0.9
"""Of one sequence at the larger size: the share of its own products with matrices, and of what reading every weight,
key and value once per token at the speed of one long product allows."""


@dataclass(frozen=True)
class Row:
    """One measured ratio; `low` and `high` are its 95 % interval, equal to it where none was measured."""

    what: str
    goal: float
    at_most: bool
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Decided by the whole interval."""
        low, high = (self.low, self.high) if self.at_most else (-self.high, -self.low)
        goal = self.goal if self.at_most else -self.goal
        return "reached" if high <= goal else "missed" if low > goal else "undecided"

    def cells(self) -> list[str]:
        """As a row of the table."""
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if self.high > self.low else ""
        goal = f"{'at most' if self.at_most else 'at least'} {self.goal:g}"
        return [escape(self.what), goal, f"{self.value:.2f}{interval}", self.verdict]


def attention_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """Time over that of `scaled_dot_product_attention`: the worst length of each mask and pass."""
    for section in results["sections"]:
        long = [shape for shape in section["shapes"] if shape["tokens"] >= LONG_ENOUGH]
        worst = max(long, key=lambda shape: shape["contenders"][FUSED]["ratio"]["value"])
        mask = "causal" if section["causal"] else "bidirectional"
        what = f"attention, {mask}, {section['pass']}: time over PyTorch's, worst of {len(long)} lengths"
        yield _row(f"{what} ({worst['tokens']} tokens)", WITHIN, worst["contenders"][FUSED]["ratio"], at_most=True)


def generate_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """Tokens per second over those of `transformers`, and the share of the limit."""
    for size, shape in results["shapes"].items():
        for batch, precisions in shape["batches"].items():
            for precision, codes in precisions.items():
                for code, measured in codes.items():
                    if "ratio" not in measured:
                        continue
                    compiled = "" if code == OURS else f", {code}"
                    what = f"generation, {size}, {batch} at once, {precision}{compiled}"
                    yield _row(f"{what}: tokens/s over transformers'", GOALS[size], measured["ratio"], at_most=False)
                    if size == LARGE and "share_of_limit" in measured:
                        products, share = measured["share_of_products"], measured["share_of_limit"]
                        yield _row(f"{what}: share of its matrix-vector products", OF_LIMIT, products, at_most=False)
                        yield Row(f"{what}: share of the memory's limit", OF_LIMIT, False, share, share, share)


def train_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """Time of a training step over that of each peer."""
    for name, shape in results["shapes"].items():
        for peer, measured in shape["contenders"].items():
            if "ratio" in measured:
                what = f"training step, {name}, {results['precision']}: time over that of {peer}"
                yield _row(what, 1.0, measured["ratio"], at_most=True)


_BENCHMARKS = {"bench-attention": attention_rows, "bench-generate": generate_rows, "bench-train": train_rows}


def speed_markdown(folder: Path) -> str:
    """Every ratio beside its goal, and where each was measured."""
    rows: list[Row] = []
    origins: list[str] = []
    for name, read in _BENCHMARKS.items():
        for path in sorted((folder / name).glob("*.json")):
            results = json.loads(path.read_text(encoding="utf-8"))
            rows += read(results)
            origins.append(
                f"`{name}/{path.name}`: commit `{show.commit(results['git'])}`, {results['threads']} threads"
            )
    reached = sum(row.verdict == "reached" for row in rows)
    return "\n\n".join(
        [
            f"{reached} of {len(rows)} reached, with the whole of the 95 % interval.",
            table(["what", "goal", "measured", "verdict"], [row.cells() for row in rows]),
            "; ".join(origins) + ".",
        ]
    )


def _row(what: str, goal: float, ratio: Mapping[str, float], *, at_most: bool) -> Row:
    return Row(what, goal, at_most, ratio["value"], ratio["low"], ratio["high"])


def write_speed(document: StrPath, folder: StrPath, check: bool = False) -> bool:
    """Put the table between the markers of a document, or with `check` only look; whether it was up to date."""
    return write_block(document, BLOCK, speed_markdown(Path(folder)), check=check)


if __name__ == "__main__":
    raise SystemExit(block_command("archlab.bench.speed", write_speed, "the speeds"))

"""The table of smaller models in a document: generated from committed results, never typed.

python -m archlab.compress.document 06-production/smaller-models.md 06-production/compression/results.json [--check]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.scores import NAMES
from archlab.compress.results import BASES, CIDER, QUESTIONS, at_smallest
from archlab.documents import StrPath, block_command, code, escape, table, write_block
from archlab.errors import UserError
from archlab.export.manifest import MOST_LOST, POINT

BLOCK = "compression"
FIGURE = "accuracy-latency.png"

_MEGABYTE = 1e6


def load_compression(path: StrPath) -> dict[str, Any]:
    """Read what `archlab compress` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"results {path}: cannot be read ({error}); make them with: archlab compress RUN...") from None
    if not isinstance(found, dict) or "rows" not in found:
        raise UserError(f"results {path}: are not those of archlab compress; give its results.json")
    return found


def compression_markdown(results: Mapping[str, Any], figure: str) -> str:
    """The figure, one table per arm, what is recommended, the encoder's share, and where all of it comes from.

    Args:
        figure: where it lies, seen from the document.
    """
    parts = [f"![Questions answered over latency; a marker's area is the arm's size]({figure})"]
    for arm, name in NAMES.items():
        if rows := [row for row in results["rows"] if row["arm"] == arm]:
            parts += [f"**{name}**", _table(rows), _recommended(results["chosen"][arm], rows)]
    return "\n\n".join([*parts, _variants(results), _encoders(results), _provenance(results)])


def write_compression_block(document: StrPath, results: StrPath, check: bool = False) -> bool:
    """Put the block into a document, or with `check` only look; whether it was up to date."""
    figure = os.path.relpath(Path(results).parent / FIGURE, Path(document).parent)
    return write_block(document, BLOCK, compression_markdown(load_compression(results), figure), check=check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the block; returns the exit code, 1 where a check finds it out of date."""
    return block_command("archlab.compress.document", write_compression_block, "the table", arguments)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = [
        "variant", "runtime", "questions", "against float32", "captions, CIDEr-D", "choose", "of torch", "of ONNX",
        "caption", "of torch", "size", "compressed", "peak memory",
    ]  # fmt: skip
    return table(header, [[escape(cell) for cell in _cells(row)] for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    scores, change, size = row["scores"]["test"], row["change"]["test"], row["footprint"]
    choose, caption = (at_smallest(row["latency"].get(mode, {})) for mode in ("choose", "caption"))
    return [
        row["variant"],
        row["runtime"],
        show.score(scores.get(QUESTIONS)),
        show.difference(change.get(QUESTIONS), "accuracy"),
        show.score(scores.get(CIDER)),
        show.milliseconds(choose.get("p50_ms")),
        *(_ratio(choose.get(f"times_{base}")) for base in BASES),
        show.milliseconds(caption.get("p50_ms")),
        _ratio(caption.get("times_torch")),
        _megabytes(size["bytes"]),
        _megabytes(size["compressed_bytes"]),
        show.mebibytes(size["peak_memory_mib"]),
    ]


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return show.NOT_MEASURED
    value, low, high = (show.significant(ratio[key]) for key in ("ratio", "low", "high"))
    return f"{value} [{low}, {high}]"


def _megabytes(count: int) -> str:
    return f"{show.significant(count / _MEGABYTE)} MB"


def _recommended(chosen: str | None, rows: Sequence[Mapping[str, Any]]) -> str:
    points = f"{MOST_LOST / POINT:g} points"
    if chosen is None:
        return f"No variant keeps the questions of the validation split within {points}."
    row = next(row for row in rows if row["name"] == chosen)
    change = show.difference(row["change"]["validation"][QUESTIONS], "accuracy")
    return (
        f"Fastest to choose among those that lose at most {points} on the questions of the validation split: "
        f"**{escape(row['variant'])} in {escape(row['runtime'])}** ({escape(change)} there)."
    )


def _variants(results: Mapping[str, Any]) -> str:
    seen: dict[str, str] = {}
    for row in results["rows"]:
        steps = row["recipe"].get("steps", 0)
        trained = f", {steps} training steps after the parent's" if steps else ""
        seen.setdefault(row["variant"], f"- `{code(row['variant'])}`: {escape(row['what'])}{trained}")
    return "\n".join(seen.values())


def _encoders(results: Mapping[str, Any]) -> str:
    times = "; ".join(
        f"{runtime} {show.milliseconds(at_smallest(batches)['p50_ms'])}"
        for runtime, batches in results["encoders"].items()
    )
    return f"The frozen encoder, which no variant changes but int8, is part of every request: {times}."


def _provenance(results: Mapping[str, Any]) -> str:
    batch, rounds = min(results["recipe"]["latency_batches"]), results["recipe"]["latency_rounds"]
    parents = ", ".join(f"{arm} `{code(parent['digest'][:12])}`" for arm, parent in results["parents"].items())
    computer, thread = results["machine"], results["threads"]
    return (
        f"Scores are those of the test split, with 95 % intervals over its images; times are medians of requests with "
        f"{batch} image{'s' * (batch != 1)}, from the image to the answer, in {rounds} rounds in which every row took "
        f"its turn, on {thread} thread{'s' * (thread != 1)}, with paired ratios to the run itself in torch and in ONNX "
        f"Runtime; a caption takes the time of the text that the variant writes. Sizes are the arm's, without the "
        f"encoder; memory is that of a whole process. Generated from "
        f"`{code(results['command'])}`, {escape(computer['cpu'])}, torch {escape(computer['torch'])}, "
        f"{escape(str(results['created'])[:10])}, commit `{code(show.commit(results['git']))}`; parents: {parents}."
    )


if __name__ == "__main__":
    raise SystemExit(main())

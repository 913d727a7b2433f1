"""The table of models: generated from the registry and the last parity run, never typed.

python -m archlab.interop.table 02-transformer-impl/README.md parity.json [--check]
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from archlab.compare import formatting as show
from archlab.documents import StrPath, block_command, code, escape, table, write_block
from archlab.errors import UserError
from archlab.models.families.family import Family
from archlab.models.registry import FAMILIES

BLOCK = "models"
_Results = Mapping[str, Any]


def models_markdown(results: _Results, families: Mapping[str, Family] = FAMILIES) -> str:
    """One row per family: what it is, its published sizes, its variants, and how far it is from its reference.

    Args:
        results: what `archlab parity --out FILE` wrote.

    Raises:
        UserError: the results lack a family or a variant.
    """
    rows = [_row(family, _found(results, family)) for family in families.values()]
    header = [
        "family",
        "model",
        "what it is",
        "published sizes",
        "variants",
        "comparisons equal",
        "largest error: outputs",
        "gradients",
        "planted bugs noticed",
    ]
    versions = results["versions"]
    return "\n\n".join(
        [
            table(header, rows),
            "Errors are those of tiny random models in float32, ours minus `transformers`, the largest of all variants "
            "and both implementations of attention; comparisons and planted bugs are counted in each. The number of "
            "parameters of every published size is tested; those of the first Transformer, printed as 65 and 213 M in "
            "its paper, against `torch.nn.Transformer`, with 37,000 tokens in one table. "
            f"From `archlab parity --out FILE`: transformers {escape(versions['transformers'])}, torch "
            f"{escape(versions['torch'])}, commit `{code(show.commit(results['git']))}`.",
        ]
    )


def write_models(document: StrPath, results: StrPath, check: bool = False) -> bool:
    """Put the table between the markers of a document, or with `check` only look; whether it was up to date.

    Raises:
        UserError: a file cannot be read, the markers are missing, or the results lack a family.
    """
    return write_block(document, BLOCK, models_markdown(_read(Path(results))), check=check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the table; returns the exit code, 1 where a check finds it out of date."""
    return block_command("archlab.interop.table", write_models, "the models", arguments)


def _read(path: Path) -> _Results:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"results {path}: {error.strerror}; name a file that archlab parity --out wrote") from None
    except ValueError:
        read = None
    if not isinstance(read, dict) or not read.keys() >= {"versions", "git", "families"}:
        raise UserError(f"results {path}: are not those of archlab parity --out; name another file")
    return read


def _found(results: _Results, family: Family) -> list[dict[str, Any]]:
    """Results of the family and of each of its variants."""
    found = {one["variant"]: one for one in results["families"] if one["family"] == family.name}
    for variant in ("", *family.variants):
        if variant not in found:
            raise UserError(
                f"results: hold nothing about {family.name} {variant}".rstrip()
                + "; run archlab parity --out FILE again"
            )
    return [found[variant] for variant in ("", *family.variants)]


def _row(family: Family, found: Sequence[Mapping[str, Any]]) -> list[str]:
    name, summary = _described(family)
    checks = [check for one in found for check in one["checks"]]
    controls = [control for one in found for control in one["controls"]]
    equal, noticed = sum(check["passed"] for check in checks), sum(control["noticed"] for control in controls)
    return [
        f"`{family.name}`",
        name,
        summary,
        ", ".join(f"{size} ({_parameters(known.parameters)})" for size, known in family.sizes.items()),
        escape("; ".join(family.variants)) or "–",
        f"{equal}/{len(checks)}",
        *(
            f"{max(check['error'] for check in checks if check['name'] == name):.1e}"
            for name in ("output", "gradients")
        ),
        f"{noticed}/{len(controls)}",
    ]


def _parameters(count: int) -> str:
    rounded = float(f"{count:.3g}")
    return f"{show.significant(rounded / 1e9)} B" if rounded >= 1e9 else f"{show.significant(rounded / 1e6)} M"


def _described(family: Family) -> tuple[str, str]:
    """Name with its paper, and what it is: both stand in the first sentence of the model's module."""
    module = import_module(f"archlab.models.{family.name}")
    first = " ".join((module.__doc__ or "").partition("\n\n")[0].split()).removesuffix(".")
    name, colon, summary = first.partition(": ")
    if not (colon and "(" in name):
        raise ValueError(
            f'{module.__name__}: must begin with \'"""NAME (PAPER): what it is.\', for the table of models'
        )
    return _linked(escape(name)), _linked(escape(summary))


def _linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


if __name__ == "__main__":
    raise SystemExit(main())

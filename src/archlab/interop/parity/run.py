"""Parity of whole families, as a table and as JSON: what `archlab parity` does."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
import transformers
from rich import box
from rich.console import Console
from rich.table import Table

from archlab import __version__, machine
from archlab.errors import UserError
from archlab.interop.parity import checks, decoding, encoder_decoding, encoding, multi_token, torch_layers
from archlab.interop.parity.explain import Explanation, explain
from archlab.interop.parity.extra import Extra
from archlab.interop.parity.results import Check, Control, FamilyResult, Outcome
from archlab.interop.parity.states import blocks, middle, states
from archlab.interop.parity.twin import Twin, build, copy_weights
from archlab.layers.attention import Implementation, set_implementation
from archlab.models.families.family import Family, Kind
from archlab.models.registry import FAMILIES, find
from archlab.progress import track
from archlab.train.folder import write_text

_COMMON: dict[str, Callable[[Twin], Outcome]] = {
    "hidden states": checks.hidden_states,
    "output": checks.output,
    "gradients": checks.gradients,
    "round trip": checks.round_trip,
}
CHECKS: dict[Kind, dict[str, Callable[[Twin], Outcome]]] = {
    "decoder": _COMMON
    | {
        "cached decoding": decoding.cached_decoding,
        "padding invariance": decoding.padding_invariance,
        "generation": decoding.generation,
    },
    "encoder": _COMMON | {"padding invariance": encoding.padding_invariance},
    "encoder-decoder": _COMMON
    | {
        "cached decoding": encoder_decoding.cached_decoding,
        "padding invariance": encoder_decoding.padding_invariance,
        "generation": encoder_decoding.generation,
    },
    "vision": _COMMON,
    "masked-vision": _COMMON,
    "image-text": _COMMON,
    "clip": _COMMON,
}
"""The comparisons of each kind of model by name."""
EXTRAS: dict[str, dict[str, Extra]] = {"encoder_decoder": torch_layers.EXTRAS, "deepseek": multi_token.EXTRAS}
"""Those of one family alone by name."""


def run_parity(name: str | None, *, show_causes: bool, out: Path | None) -> bool:
    """Compare one family, or all, and their variants with their references; print a table.

    Args:
        name: of the family; None runs all.
        show_causes: also print why what differs does, planted bugs included.
        out: JSON file for the results.

    Returns:
        Whether everything is equal and every planted bug was noticed.

    Raises:
        UserError: the family is unknown.
    """
    families = list(FAMILIES.values()) if name is None else [find(name)]
    cases = [(family, variant) for family in families for variant in ("", *family.variants)]
    results = []
    with track("parity", len(cases)) as progress:
        for family, variant in cases:
            results.append(family_parity(family, variant))
            progress.advance()
    print_table(results)
    if show_causes:
        print_causes(results)
    if out is not None:
        versions = {"archlab": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
        written = {
            "versions": versions,
            "git": machine.git_commit(),
            "families": [result.to_dict() for result in results],
        }
        write_text(out, json.dumps(written, indent=2) + "\n")
    return all(result.passed for result in results)


def family_parity(family: Family, variant: str = "") -> FamilyResult:
    """Every comparison that applies, and every planted bug; of a variant, the one that its options are not read."""
    twin = build(family.variant(variant) if variant else family)
    extras = {} if variant else EXTRAS.get(family.name, {})
    measured = compare(twin, extras, without=family.variants[variant].without if variant else ())
    return FamilyResult(
        family=family.name,
        variant=variant,
        checks=tuple(measured),
        controls=tuple(unread_options(family, twin) if variant else controls(twin, extras)),
        explanation=explanation(twin, extras, measured),
    )


def compare(twin: Twin, extras: Mapping[str, Extra], without: Collection[str] = ()) -> list[Check]:
    """Every comparison of the family's kind, and its own, with both implementations of attention.

    Args:
        extras: its own.
        without: names of those to leave out.
    """
    found = []
    for attention in get_args(Implementation):
        set_implementation(twin.model, attention)
        outcomes = {name: check(twin) for name, check in CHECKS[twin.family.kind].items() if name not in without}
        outcomes |= {name: extra.compare(twin.config, attention) for name, extra in extras.items()}
        for name, (error, passed, where) in outcomes.items():
            found.append(Check(name=name, attention=attention, error=error, passed=passed, where=where))
    return found


def explanation(twin: Twin, extras: Mapping[str, Extra], measured: Sequence[Check]) -> str:
    """Why comparisons fail, in each implementation of attention in which one does; empty if none does."""
    found: dict[str, str] = {}
    for attention in get_args(Implementation):
        failed = next((check for check in measured if check.attention == attention and not check.passed), None)
        if failed is None:
            continue
        set_implementation(twin.model, attention)
        why = explain(twin, failed.name)
        if not why.first and failed.name in extras:
            why = Explanation(failed.where, extras[failed.name].cause)
        found[attention] = f"{why.first or 'no layer'} diverges first; likely cause: {why.cause}"
    if len(found) == len(get_args(Implementation)) and len({*found.values()}) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{attention} implementation: {text}" for attention, text in found.items())


def controls(twin: Twin, extras: Mapping[str, Extra]) -> list[Control]:
    """Plant each bug of the family in the middle layer of a copy, and see whether the comparison notices."""
    found = []
    for attention in get_args(Implementation):
        for fault in twin.family.interop.FAULTS:
            faulty = dataclasses.replace(twin, model=copy.deepcopy(twin.model))
            set_implementation(faulty.model, attention)
            fault.plant(faulty.model, middle(blocks(faulty)))
            found.append(_control(fault.cause, attention, explain(faulty)))
        for name, extra in extras.items():
            for cause in extra.faults:
                _, passed, where = extra.compare(twin.config, attention, cause)
                why = Explanation("" if passed else where, extra.cause)
                found.append(_control(f"{cause} ({name})", attention, why))
    return found


def unread_options(family: Family, variant: Twin) -> list[Control]:
    """Give the weights of a variant to the model of the tiny configuration: it must refuse them or differ."""
    fault, config = "the options of this variant are not read", family.config()
    plain = Twin(family, config, family.model_class(config).eval(), variant.reference, family.interop.weights(config))
    refused = ""
    try:
        copy_weights(plain.reference, plain.model, plain.weights)
    except UserError as error:
        refused = str(error)
    found = []
    for attention in get_args(Implementation):
        set_implementation(plain.model, attention)
        if refused:
            why = Explanation("the loading of the weights", refused)
        else:
            first = next((state.place for state in states(plain) if not state.equal), "")
            why = Explanation(first, fault)
        found.append(_control(fault, attention, why))
    return found


def _control(fault: str, attention: Implementation, why: Explanation) -> Control:
    return Control(fault=fault, attention=attention, noticed=bool(why.first), first=why.first, cause=why.cause)


def print_table(results: Sequence[FamilyResult]) -> None:
    """Print the largest errors, one row per family and comparison, and one per variant."""
    table = Table(
        title=f"Largest difference from transformers {transformers.__version__}, or from the reference that is named, "
        "float32, tiny random models",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("family")  # the only one that wraps: names of variants are long, and figures must stay whole
    table.add_column("comparison", no_wrap=True)
    for header in get_args(Implementation):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for result in results:
        groups: dict[str, list[Check]] = {}
        for check in result.checks:
            groups.setdefault("all comparisons" if result.variant else check.name, []).append(check)
        for row, (name, same) in enumerate(groups.items()):
            largest = [
                max(check.error for check in same if check.attention == attention)
                for attention in get_args(Implementation)
            ]
            failed = [check for check in same if not check.passed]
            verdict = f"differs: {failed[0].where}" if failed else "equal"
            errors = [f"{error:.1e}" if error else "0" for error in largest]
            table.add_row("" if row else result.label, name, *errors, verdict)
        planted = [
            [control.noticed for control in result.controls if control.attention == attention]
            for attention in get_args(Implementation)
        ]
        table.add_row("", "planted bugs noticed", *(f"{sum(noticed)}/{len(noticed)}" for noticed in planted), "")
        table.add_section()
    Console().print(table)


def print_causes(results: Sequence[FamilyResult]) -> None:
    """Print why what differs does, and what is said of each planted bug."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for result in results:
        say(f"{result.label}: {result.explanation or 'equal to the reference'}")
        alike: dict[tuple[str, str, str], list[str]] = {}
        for control in result.controls:
            alike.setdefault((control.fault, control.first, control.cause), []).append(control.attention)
        for (fault, first, cause), attentions in alike.items():
            alone = "" if len(attentions) == len(get_args(Implementation)) else f" ({attentions[0]} implementation)"
            say(f"  planted{alone}: {fault}")
            say(f"    found: {first or 'nothing'} diverges first; likely cause: {cause}")

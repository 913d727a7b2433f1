"""`report.html`: the comparison as one file that opens from disk, without network and without JavaScript."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.caveats import caveats
from archlab.compare.findings import key_findings, summary, verdict_label, when_to_use
from archlab.compare.report import conditions, quality
from archlab.compare.scores import NAMES, Results
from archlab.train.folder import write_text

_TEMPLATE = Path(__file__).with_name("template.html")
_BEFORE_EXAMPLES = (
    quality.headline,
    quality.learning,
    quality.efficiency,
    quality.kinds,
    quality.captions,
    quality.retrieval,
    quality.probes,
    conditions.inference,
    conditions.size,
    conditions.budget,
    quality.confusions,
)
_AFTER_EXAMPLES = (conditions.data, conditions.provenance, conditions.limits)
_NO_BREAK = "\N{NO-BREAK SPACE}"
_PNG = b"\x89PNG\r\n\x1a\n"


def write_report(results: dict[str, Any], out: Path) -> Path:
    """Write `report.html`, atomically, from the content of `results.json`.

    Args:
        results: as `load_results` reads them; sections whose numbers are absent say so.
        out: folder of the report.

    Returns:
        the path of the report.
    """
    path = out / "report.html"
    write_text(path, render_report(results))
    return path


def render_report(results: Results) -> str:
    """The page as text."""
    # Autoescape: questions, answers and file names come from anybody's data.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    findings = key_findings(results)
    topics = list(dict.fromkeys(finding.topic for finding in findings))
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        results=results,
        introduction=introduction(results),
        names=NAMES,
        one_seed=scores.ONE_SEED if scores.one_seed(results) else "",
        summary=summary(results, findings),
        caveats=caveats(results),
        advice=when_to_use(findings),
        topics=[(topic, [finding for finding in findings if finding.topic == topic]) for topic in topics],
        verdict=verdict_label,
        before=[build(results) for build in _BEFORE_EXAMPLES],
        after=[build(results) for build in _AFTER_EXAMPLES],
        examples=[_checked(example) for example in results.get("examples") or ()],
        no_examples=scores.untested(results, "examples", default="the run kept no examples"),
        created=str(results.get("created", "unknown"))[:10],
        commit=show.commit((results.get("provenance") or {}).get("git")),
        nobreak=_nobreak,
        svg=Markup,  # figures are our own drawings; their labels were escaped when they were drawn
    )


def introduction(results: Results) -> Sequence[str]:
    """What was compared, in two sentences."""
    data, budget = results.get("data") or {}, results.get("budget") or {}
    seeds = len(results.get("seeds") or ())
    steps = {arm: (results["arms"][arm].get("training") or {}).get("steps") for arm in NAMES}
    length = f"{show.count(steps['token'])} steps"
    if steps["token"] != steps["vljepa"]:
        length = " and ".join(f"{show.count(own)} steps of {NAMES[arm]}" for arm, own in steps.items())
    images = ((data.get("splits") or {}).get("train") or {}).get("images")
    return (
        "A model that generates its answer token by token and a VL-JEPA, which predicts the answer's embedding, were "
        f"trained on {data.get('name', 'unknown')} ({show.count(images)} training images) with one frozen vision "
        "encoder, on the same batches in the same order.",
        f"Budget “{budget.get('name', 'unknown')}”, {length}, {seeds} seed{'s' * (seeds != 1)}.",
    )


def _nobreak(text: str) -> str:
    """Keep numbers with their units and intervals on one line."""
    text = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", _NO_BREAK), text)
    return re.sub(r"(?<=\d) (?=%|\[|points|samples|times)", _NO_BREAK, text)


def _checked(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example whose image is a PNG, or none: nothing else goes into an address."""
    image = str(example.get("image_png_base64") or "")
    try:
        valid = base64.b64decode(image, validate=True).startswith(_PNG)
    except (binascii.Error, ValueError):
        valid = False
    return {**example, "image": image if valid else "", "caption": example.get("kind") == "caption"}

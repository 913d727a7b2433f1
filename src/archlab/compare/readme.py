"""The README's Key Findings: generated from committed results, never typed.

python -m archlab.compare.readme README.md results.json [--check]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.caveats import caveats
from archlab.compare.findings import Finding, key_findings, summary, unit_of, verdict_label, when_to_use
from archlab.compare.scores import ARMS, NAMES, Results
from archlab.errors import UserError
from archlab.train.folder import write_text

START, END = "<!-- key-findings:start -->", "<!-- key-findings:end -->"


def findings_markdown(results: Results) -> str:
    """The block between the markers: summary, advice, findings, the table of scores and where they come from."""
    findings = key_findings(results)
    heads = caveats(results) | summary(results, findings)
    parts = [
        f"**{scores.ONE_SEED}**" if scores.one_seed(results) else "",
        "\n".join(f"- **{head}:** {_escape('; '.join(own))}." for head, own in heads.items()),
        _table(
            ["Test split", *(NAMES[arm] for arm in ARMS), "VL-JEPA minus token", "verdict"],
            [_row(results, metric) for metric in scores.HEADLINE if metric in scores.metrics_of(results)],
        ),
        _table(
            ["When you need", "use", "because"],
            [[row.need, NAMES.get(row.verdict, row.verdict), row.reason] for row in when_to_use(findings)],
        ),
        "<details><summary>Every finding with its evidence</summary>",
        "\n".join(_topic(topic, findings) for topic in dict.fromkeys(finding.topic for finding in findings)),
        "</details>",
        provenance(results),
    ]
    return "\n\n".join(part for part in parts if part)


def provenance(results: Results) -> str:
    """Command, preset, seeds, date and commit, in one sentence of Markdown."""
    seeds = len(results.get("seeds") or ())
    commit = show.commit((results.get("provenance") or {}).get("git"))
    return (
        f"Intervals are 95 %, over test images{' and seeds' if seeds > 1 else ' only'}. Generated from the results of "
        f"`{_code(results.get('command', 'unknown'))}`: preset {_escape(results.get('preset', 'unknown'))}, budget "
        f"{_escape((results.get('budget') or {}).get('name', 'unknown'))}, data "
        f"{_escape((results.get('data') or {}).get('name', 'unknown'))}, {seeds} seed{'s' * (seeds != 1)}, "
        f"{_escape(str(results.get('created', 'unknown'))[:10])}, commit `{_code(commit)}`."
    )


def write_readme_block(readme: str | os.PathLike[str], results: str | os.PathLike[str], check: bool = False) -> bool:
    """Put the findings of `results` between the markers of `readme`.

    Args:
        readme: a Markdown file with both markers.
        results: a `results.json`.
        check: only compare; write nothing.

    Returns:
        whether the block was up to date already.

    Raises:
        UserError: a file cannot be read, or the markers are missing or out of order.
    """
    path = Path(readme)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"readme {path}: {error.strerror}; name an existing Markdown file") from None
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise UserError(
            f"readme {path}: needs the lines {START} and {END}, in this order; add them where the block goes"
        )
    new = f"{before}{START}\n{findings_markdown(scores.load_results(results))}\n{END}{after}"
    if new != text and not check:
        write_text(path, new)
    return new == text


def main(arguments: list[str] | None = None) -> int:
    """Write or check the block; returns the exit code, 1 where a check finds it out of date."""
    parser = argparse.ArgumentParser(prog="python -m archlab.compare.readme", description=main.__doc__)
    parser.add_argument("readme")
    parser.add_argument("results")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the block is out of date")
    options = parser.parse_args(arguments)
    try:
        current = write_readme_block(options.readme, options.results, options.check)
    except UserError as error:
        parser.error(str(error))
    if options.check and not current:
        print(f"{options.readme}: its findings do not match {options.results}; run this again without --check")
        return 1
    return 0


def _topic(topic: str, findings: Sequence[Finding]) -> str:
    own = [
        f"  - {_escape(f'{finding.statement} {finding.conclusion}'.strip())}"
        for finding in findings
        if finding.topic == topic
    ]
    return "\n".join([f"- **{_capital(topic)}**", *own])


def _row(results: Results, metric: str) -> list[str]:
    unit = unit_of(results, metric)
    return [
        scores.metric_label(metric),
        *(show.score(scores.score_of(results, arm, metric)) for arm in ARMS),
        show.difference(scores.paired_of(results, metric), unit),
        verdict_label(scores.decide(results, metric)[0]),
    ]


def _table(header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: object) -> str:
    """Text of the results as Markdown text: no tag, no table cell, no new line."""
    clean = " ".join(str(text).split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        clean = clean.replace(sign, safe)
    return clean.replace("[", "\\[").replace("]", "\\]") if "](" in clean else clean


def _code(text: object) -> str:
    return " ".join(str(text).replace("`", "'").split())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    raise SystemExit(main())

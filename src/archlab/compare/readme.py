"""The README's Key Findings and its picture: generated from committed results, never typed.

python -m archlab.compare.readme README.md results.json [--check]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.caveats import caveats
from archlab.compare.findings import Finding, key_findings, summary, unit_of, verdict_label, when_to_use
from archlab.compare.plots import write_hero
from archlab.compare.scores import ARMS, NAMES, Results
from archlab.documents import StrPath, block_command, code, escape, table, write_block

BLOCK = "key-findings"


def findings_markdown(results: Results) -> str:
    """The block between the markers: summary, advice, findings, the table of scores and where they come from."""
    findings = key_findings(results)
    heads = caveats(results) | summary(results, findings)
    parts = [
        f"**{scores.ONE_SEED}**" if scores.one_seed(results) else "",
        "\n".join(f"- **{head}:** {escape('; '.join(own))}." for head, own in heads.items()),
        _table(
            ["Test split", *(NAMES[arm] for arm in ARMS), "VL-JEPA minus token", "verdict"],
            [
                _row(results, metric)
                for metric in (*scores.HEADLINE, *scores.by_likelihood(results))
                if metric in scores.metrics_of(results)
            ],
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
    work = results.get("training_seconds")
    swept = any(arm.get("sweep") for arm in results["arms"].values())
    trials = ", the trials of the learning-rate sweep not counted" if swept else ""
    spent = f" Its runs trained for {show.seconds(work)} in all, one after another{trials}." if work else ""
    return (
        f"Intervals are 95 %, over test images{' and seeds' if seeds > 1 else ' only'}. Generated from the results of "
        f"`{code(results.get('command', 'unknown'))}`: preset {escape(results.get('preset', 'unknown'))}, budget "
        f"{escape((results.get('budget') or {}).get('name', 'unknown'))}, data "
        f"{escape((results.get('data') or {}).get('name', 'unknown'))}, {seeds} seed{'s' * (seeds != 1)}, "
        f"{escape(str(results.get('created', 'unknown'))[:10])}, commit `{code(commit)}`.{spent}"
    )


def write_readme_block(readme: StrPath, results: StrPath, check: bool = False) -> bool:
    """Put the findings of `results` between the markers of `readme`, or with `check` only look.

    Args:
        readme: a Markdown file with both markers.
        results: a `results.json`.

    Returns:
        whether the block was up to date already.

    Raises:
        UserError: a file cannot be read, or the markers are missing or out of order.
    """
    return write_block(readme, BLOCK, findings_markdown(scores.load_results(results)), check=check)


def write_readme(readme: StrPath, results: StrPath, check: bool = False) -> bool:
    """As `write_readme_block`; and draw the picture that the README shows, beside the results.

    The picture is not checked: its bytes depend on the fonts of the machine.
    """
    current = write_readme_block(readme, results, check)
    if not check:
        write_hero(scores.load_results(results), Path(results).parent)
    return current


def main(arguments: Sequence[str] | None = None) -> int:
    """Write block and picture, or check the block; returns the exit code, 1 where a check finds it out of date."""
    return block_command("archlab.compare.readme", write_readme, "the findings", arguments)


def _topic(topic: str, findings: Sequence[Finding]) -> str:
    own = [
        f"  - {escape(f'{finding.statement} {finding.conclusion}'.strip())}"
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
    return table(header, [[escape(cell) for cell in row] for row in rows]) if rows else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    raise SystemExit(main())

"""The report of a measurement of selective decoding, generated from its `results.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.grid.figures import Series, lines
from archlab.compare.grid.report import Report, write_pages
from archlab.compare.grid.summary import Estimate
from archlab.compare.plots import Panel
from archlab.compare.report.blocks import Section, Table, capital, rate, section
from archlab.compare.scores import metric_label
from archlab.compare.selective.policies import LABELS, LIVE, peers
from archlab.compare.selective.protocol import BASE
from archlab.compare.selective.scoring import CIDER, READINGS, TOLERANCE
from archlab.compare.selective.timing import MODEL_PARTS
from archlab.evaluate.measure import unit_of

Results = Mapping[str, Any]

_DRAWN = {
    "paired": ("uniform", "uniform-pooled", "random", "ward", "ward-features", "trigger-settled", "oracle"),
    "dense": ("periodic", "uniform", "ward", "trigger", "trigger-features", "oracle-live", "oracle"),
}
_READING = {
    "paired": "each annotation with the decode nearest in time",
    "dense": "every frame with what was said last",
}
_SWEPT = {
    "paired": ("uniform-pooled", "oracle", "ward", "ward-features", "trigger-settled"),
    "dense": ("periodic", "oracle-live", "trigger-features", "trigger"),
}
_ONLINE = {"paired": "trigger-settled", "dense": "trigger"}
"""Reading -> the trigger that is made for it: one that waits says more, one that does not says it sooner."""

_TIMED = (*MODEL_PARTS, "decide")
_AXIS = "decodes per event (log)"


def write_selective_report(results: Results, out: Path) -> Path:
    """Write `report.md`, `report.html` and an SVG of every figure.

    Args:
        results: the content of `results.json`.
        out: folder of the report.

    Returns:
        path of `report.html`.
    """
    return write_pages(make_report(results), out)


def make_report(results: Results) -> Report:
    """Everything that the results say."""
    protocol = results["protocol"]
    head = {
        "Question": protocol["question"],
        "Hypothesis": protocol["hypothesis"],
        "Decision rule": protocol["decision"],
        "Primary metric": f"{metric_label(results['facts'])} (`{results['facts']}`) at one decode per event, the "
        "oracle's number",
    }
    sections = [
        _decision(results),
        _curves(results),
        _at_one(results),
        _boundaries(results),
        _sweep(results),
        _time(results),
        _controls(results),
        _thresholds(results),
        _provenance(results),
    ]
    kept = [one for one in sections if one.tables or one.figures or one.lines]
    return Report(protocol["name"], head, results["conclusion"], kept)


def _decision(results: Results) -> Section:
    rows = []
    for verdict in results["verdicts"]:
        found, unit = verdict["found"], verdict["found"]["unit"]
        share = unit == "share"
        text = show.score(found) if share else show.difference(found, unit)
        seeds = [show.scalar(value, unit) if share else show.difference({"difference": value}, unit)
                 for value in found["per_seed"]]  # fmt: skip
        rows.append([verdict["what"], text, ", ".join(seeds), verdict["outcome"], verdict["why"]])
    lead = "What was predicted before the run, and what was found. Intervals are 95 %, over streams and seeds."
    columns = ["predicted", "found", "by seed", "outcome", "because"]
    return section("decision", "Predictions", lead, tables=[Table("Predictions", columns, rows)])


def _curves(results: Results) -> Section:
    figures = []
    base = results["conditions"][BASE]
    marks = results["protocol"]["budgets"]
    for reading in READINGS:
        panels: list[Panel] = []
        for metric in (results["facts"], CIDER):
            series: Series = {
                LABELS[policy]: [
                    (point["decodes"]["value"], _estimate(point[reading][metric], results["seeds"]))
                    for point in base["policies"][policy]["curve"]
                ]
                for policy in _DRAWN[reading]
            }
            title = f"{capital(metric_label(metric))}, {reading}"
            panels.append(lines(f"{reading}-{metric}", title, series, unit_of(metric), _AXIS, marks))
        figures.append((f"{capital(reading)}: {_READING[reading]}. Bands are 95 % over streams and seeds.", panels))
    lead = f"Quality against the number of decodes, {_rate_of(base)}. Who knows the true events decodes once for each."
    return section("curves", "Quality against decodes", lead, figures=figures)


def _at_one(results: Results) -> Section:
    base, facts = results["conditions"][BASE], results["facts"]
    tables = []
    for reading in READINGS:
        rows = []
        for policy in sorted(LABELS, key=LIVE.__contains__):
            if reading == "paired" and policy == "oracle-live":
                continue
            found, baseline = base["policies"][policy], peers(policy, reading).baseline
            rows.append(
                [
                    LABELS[policy],
                    f"live, after {rate(found['waited'])} frames" if policy in LIVE else "offline",
                    *(show.score(found["at_one"][reading][metric]) for metric in (facts, CIDER)),
                    LABELS[baseline],
                    "–" if policy == baseline else _share(found, reading),
                    _times(found["fewer"][reading]),
                ]
            )
        columns = [
            "policy", "speaks", metric_label(facts), metric_label(CIDER),
            "baseline", "share of the oracle's gain over it",
            f"decodes per event that it needs for the same facts, {_rate_of(base)}",
        ]  # fmt: skip
        note = (
            f"{capital(_READING[reading])}. {' '.join(_gains(base, reading, facts))} Offline policies know the number "
            "of events of each stream, live ones do not."
        )
        tables.append(Table(f"{capital(reading)}, one decode per event", columns, rows, note))
    lead = "All policies at the oracle's number of decodes, interpolated where a tuned threshold hits it only nearly."
    return section("at-one", "At the oracle's number of decodes", lead, tables=tables)


def _boundaries(results: Results) -> Section:
    base, rows = results["conditions"][BASE], []
    for policy in sorted(LABELS, key=LIVE.__contains__):
        found = base["policies"][policy]
        late = found["delay"] if policy in LIVE else None
        shares = [show.score(one) if one["value"] is not None else "–" for one in found["boundaries"].values()]
        rows.append([LABELS[policy], *shares, "–" if late is None else f"{rate(late)} frames"])
    columns = ["policy", "precision", "recall", "F1", "from an event to its text"]
    note = (
        f"A cut within {TOLERANCE} frames of an event has found it, each cut one event. At one decode per event; tuned "
        "triggers decode nearly as often. The delay is that of the events found, and of live policies."
    )
    lead = "Whether a text is right is one question, whether it comes where something happened another: this one."
    return section("boundaries", "Where they cut", lead, tables=[Table("Cuts against events", columns, rows, note)])


def _sweep(results: Results) -> Section:
    facts, unit, tables = results["facts"], unit_of(results["facts"]), []
    for reading, compared in _SWEPT.items():
        rows = []
        for name, one in results["conditions"].items():
            at_one = {policy: one["policies"][policy]["at_one"][reading][facts]["value"] for policy in compared}
            online = one["policies"][_ONLINE[reading]]
            rows.append(
                [
                    name,
                    rate(one["frames_per_event"]),
                    *(show.scalar(value, unit) for value in at_one.values()),
                    show.difference(online["gain"][reading], unit),
                    _share(online, reading),
                    _times(online["fewer"][reading]),
                ]
            )
        columns = [
            "streams", "frames per event", *(LABELS[policy] for policy in compared), "oracle's gain",
            "trigger's share of it",
            f"decodes per event that {LABELS[peers(_ONLINE[reading], reading).baseline]} needs to match it",
        ]  # fmt: skip
        note = (
            "A number of decodes saved says as much about how rare events are as about the policy: it belongs to the "
            "frames per event in its row. Scores of different streams are different tasks."
        )
        tables.append(Table(f"{capital(reading)}: {metric_label(facts)} at one decode per event", columns, rows, note))
    panels = [_swept_panel(results, key) for key in results["protocol"]["sweep"] if _numbers(results, key)]
    figures = [("At one decode per event, paired. Bands are 95 % over streams and seeds.", panels)] if panels else []
    lead = "Event rate, contrast of events and changes that must not be said, one at a time."
    return section("sweep", "Sweep", lead, figures=figures, tables=tables)


def _numbers(results: Results, key: str) -> list[float]:
    """Positive values of a swept key, the base's among them; empty for one that is no number."""
    values = {one["streams"][key] for one in results["conditions"].values()}
    numbers = sorted(value for value in values if show.is_number(value) and value > 0)
    return numbers if len(numbers) > 1 else []


def _swept_panel(results: Results, key: str) -> Panel:
    facts = results["facts"]
    values = {name: one["streams"][key] for name, one in results["conditions"].items()}
    names = sorted(
        (name for name in values if name == BASE or name.startswith(f"{key}=")), key=lambda name: values[name]
    )
    series: Series = {
        LABELS[policy]: [
            (
                values[name],
                _estimate(results["conditions"][name]["policies"][policy]["at_one"]["paired"][facts], results["seeds"]),
            )
            for name in names
            if values[name] > 0
        ]
        for policy in _SWEPT["paired"]
    }
    return lines(f"sweep-{key}", f"By {key}", series, unit_of(facts), f"{key} (log)", _numbers(results, key))


def _time(results: Results) -> Section:
    base, timing = results["conditions"][BASE], list(results["timing"].values())
    rows, per_event, decoding = [], {}, {}
    for policy, label in LABELS.items():
        events = sum(one[policy]["events"] for one in timing)
        decodes = sum(one[policy]["decodes"] for one in timing)
        parts = [sum(one[policy][key] for one in timing) / events for key in _TIMED]
        per_event[policy], decoding[policy] = sum(parts), parts[_TIMED.index("decoder")]
        rows.append([label, rate(decodes / events), *map(show.seconds, parts), show.seconds(sum(parts))])
    lines_ = []
    online = _ONLINE["paired"]
    same = f"The same facts as the {LABELS[online]} at one decode per event, {_rate_of(base)}: "
    if (needed := base["policies"][online]["fewer"]["paired"]["value"]) is not None:
        baseline = peers(online, "paired").baseline
        seconds = per_event[baseline] + (needed - 1) * decoding[baseline]
        lines_.append(
            f"{same}{LABELS[baseline]} needs {show.significant(needed)} decodes per event and about "
            f"{show.seconds(seconds)} per event; the trigger, which encodes every frame too, takes "
            f"{show.seconds(per_event[online])}."
        )
    if (needed := base["policies"][online]["unseen"]["value"]) is not None:
        lines_.append(
            f"{same}{LABELS['uniform']} needs {show.significant(needed)} decodes per event and, as it need not encode "
            f"the frames in between, about {show.seconds(needed * per_event['uniform'])} per event."
        )
    columns = ["policy", "decodes per event", "X-encoder", "predictor", "Y-decoder", "deciding", "in all"]
    note = (
        "Per event, frame by frame and text by text as in a live stream, policies in turns. What is offline cannot run "
        "before its stream is over."
    )
    lead = f"End-to-end time at about one decode per event, {_rate_of(base)}. Drawing the frames is not counted."
    return section("time", "Time", lead, tables=[Table("Time per event", columns, rows, note)], lines=lines_)


def _controls(results: Results) -> Section:
    metrics = (results["facts"], CIDER)
    rows = [
        [f"{name}: {control}", *(show.score(found[reading][metric]) for reading in READINGS for metric in metrics)]
        for name, one in results["conditions"].items()
        for control, found in one["controls"].items()
    ]
    columns = ["control", *(f"{metric_label(metric)}, {reading}" for reading in READINGS for metric in metrics)]
    lead = (
        "What a text is worth that was said of another stream (facts are shared by chance), and what the decoder makes "
        "of the embeddings of the true captions. CIDEr-D compares within one kind of streams only."
    )
    return section("controls", "Controls", lead, tables=[Table("Controls", columns, rows)])


def _thresholds(results: Results) -> Section:
    rows = []
    for name, one in results["conditions"].items():
        tuned = [of_seed["trigger"]["1"] for of_seed in one["tuned"].values()]
        point = next(point for point in one["policies"]["trigger"]["curve"] if point["budget"] == 1.0)
        thresholds, rates = (", ".join(rate(found[key]) for found in tuned) for key in ("threshold", "rate"))
        rows.append([name, thresholds, rates, show.score(point["decodes"])])
    columns = ["streams", "threshold, by seed", "decodes per event, validation", "decodes per event, test"]
    lead = "The trigger is tuned on validation streams to a number of decodes, without looking at what is said."
    return section("thresholds", "Thresholds", lead, tables=[Table("Online trigger, tuned to one", columns, rows)])


def _provenance(results: Results) -> Section:
    protocol, base = results["protocol"], results["conditions"][BASE]
    seeds = results["seeds"]
    lines_ = [
        f"{len(seeds)} run{'s' * (len(seeds) != 1)} (seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}); "
        f"{protocol['test_streams']} test and {protocol['validation_streams']} validation streams of each kind, "
        f"{show.count(base['annotations'])} test annotations in the base.",
        f"Base streams: {', '.join(f'{key} {value}' for key, value in base['streams'].items())}.",
        f"Commit {show.commit(results['git'])}, {str(results['created'])[:10]}, {results['machine'].get('cpu')}.",
    ]
    return section("provenance", "Made of", "What these numbers come from.", lines=lines_)


def _gains(condition: Mapping[str, Any], reading: str, facts: str) -> list[str]:
    """What each oracle of a reading gains over its baseline, in words."""
    among = {peers(policy, reading): policy for policy in LABELS}
    return [
        f"{capital(LABELS[one.oracle])} gain {show.difference(gain, unit_of(facts))} over {LABELS[one.baseline]}."
        for one, policy in among.items()
        for gain in [condition["policies"][policy]["gain"][reading]]
    ]


def _share(found: Mapping[str, Any], reading: str) -> str:
    """Of a gain that is not clearly above zero there are no shares."""
    low = found["gain"][reading]["low"]
    return show.score(found["share"][reading]) if low and low > 0 else "no gain to share"


def _rate_of(condition: Mapping[str, Any]) -> str:
    return f"at one event in {rate(condition['frames_per_event'])} frames"


def _times(found: Mapping[str, Any]) -> str:
    """A number of decodes per event with its interval; what is not reached has none."""
    if found["value"] is None:
        return "not reached"
    ends = [show.significant(end) if end is not None else "∞" for end in (found["low"], found["high"])]
    return f"{show.significant(found['value'])} [{', '.join(ends)}]"


def _estimate(found: Mapping[str, Any], seeds: Sequence[int]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"], dict(zip(seeds, found["per_seed"], strict=True)))

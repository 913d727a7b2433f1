"""Key findings: what the numbers of a run say, in sentences, and which arm to use when.

Every finding quotes measured numbers with their intervals. Its verdict comes from the paired differences in the results
(`compare.scores.decide`); where there are none, or they do not exclude zero, it says "undecided".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.scores import ARMS, NAMES, ONE_SEED, Results, Verdict

TRAINING, INFERENCE, TRANSFER = "training efficiency", "inference performance", "zero-shot transfer"
TEXT, IMAGES, RETRIEVAL = "text generation", "multimodal input", "retrieval"
REPRESENTATION, TEXT_ONLY = "representation quality", "text-only tasks"
NEEDS = {
    TEXT: TEXT,
    IMAGES: IMAGES,
    RETRIEVAL: RETRIEVAL,
    TRAINING: TRAINING,
    "inference speed": INFERENCE,
    REPRESENTATION: REPRESENTATION,
    TRANSFER: TRANSFER,
    TEXT_ONLY: TEXT_ONLY,
}
"""What a reader may need -> the topic whose findings answer it."""

MODES = {
    "choose": "choosing an answer",
    "caption": "writing a caption",
    "embed": "embedding an image",
    "encode": "encoding an image",
}
"""What is timed, in words."""
PROBES = {"linear": "linear", "knn": "nearest-neighbour"}
UNSEEN = {
    "test_combinations": (scores.CLASSIFICATION, scores.VQA),
    "test_held_out_keywords": (scores.TO_TEXT, scores.TO_IMAGE),
}
"""Splits of what training never had, and the metrics that say whether an arm carries over to it."""


@dataclass(frozen=True)
class Number:
    """A measured number behind a finding.

    Attributes:
        name: what it is, with the arm.
        value: as measured.
        low, high: its interval, where there is one.
        unit: "accuracy", "CIDEr-D", "samples", "ratio", ...
    """

    name: str
    value: float
    low: float | None
    high: float | None
    unit: str


@dataclass(frozen=True)
class Finding:
    """One comparison within a topic.

    Attributes:
        topic: one of those in `NEEDS`.
        subject: what was compared, in a few words.
        statement: sentences with every number that the verdict rests on.
        evidence: these numbers.
        verdict: the better arm, "undecided" or "untested".
        why: the reason for the verdict.
    """

    topic: str
    subject: str
    statement: str
    evidence: tuple[Number, ...]
    verdict: Verdict
    why: str

    @property
    def conclusion(self) -> str:
        """Verdict and reason: "VL-JEPA wins: interval excludes zero ..."."""
        return f"{_capital(verdict_label(self.verdict))}: {_sentence(self.why)}"


@dataclass(frozen=True)
class Advice:
    """A row of "when to use what": the need, the verdict over all findings of its topic, and the reason."""

    need: str
    verdict: Verdict
    reason: str


def key_findings(results: Results) -> list[Finding]:
    """All findings, topic by topic; a topic without numbers has one finding that says why."""
    found = [
        *_training(results),
        *_inference(results),
        *_metrics(results, TEXT, (scores.CIDER, scores.SLOTS)),
        *_metrics(results, IMAGES, (scores.VQA, scores.CLASSIFICATION)),
        *_metrics(results, RETRIEVAL, (scores.TO_TEXT, scores.TO_IMAGE)),
        *(_compared(results, RETRIEVAL, metric, scores.TEST) for metric in scores.by_likelihood(results)),
        *_representation(results),
        *(one for split, metrics in UNSEEN.items() for one in _metrics(results, TRANSFER, metrics, split)),
    ]
    topics = list(dict.fromkeys(NEEDS.values()))
    for topic in topics:
        if not any(finding.topic == topic for finding in found):
            reason = scores.untested(results, topic, *_aliases(topic), default=scores.NO_NUMBERS)
            found.append(Finding(topic, topic, "", (), "untested", reason))
    order = [TRAINING, INFERENCE, *(topic for topic in topics if topic not in (TRAINING, INFERENCE))]
    return sorted(found, key=lambda finding: order.index(finding.topic))


def when_to_use(findings: Sequence[Finding]) -> list[Advice]:
    """Which arm to take for which need; an arm is named only if it wins every comparison that was tested."""
    rows = []
    for need, topic in NEEDS.items():
        own = [finding for finding in findings if finding.topic == topic]
        verdict = _combine([finding.verdict for finding in own])
        reasons = list(dict.fromkeys(finding.why for finding in own if finding.verdict == verdict))
        if verdict in ARMS:
            reasons = [f"wins {_list(finding.subject for finding in own if finding.verdict == verdict)}"]
        elif verdict == "undecided":
            won = [f"{verdict_label(one.verdict)} {one.subject}" for one in own if one.verdict in ARMS]
            reasons = won + ([f"{'the rest: ' if won else ''}{_list(reasons)}"] if reasons else [])
        rows.append(Advice(need, verdict, "; ".join(reasons)))
    return rows


def summary(results: Results, findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Where each arm wins, where the evidence does not decide and what was not tested: heading -> subjects.

    With one seed only what was not tested: nothing else can be said.
    """
    headings: dict[Verdict, str] = {
        "token": "Where tokens win",
        "vljepa": "Where VL-JEPA wins",
        "undecided": "Where the evidence does not decide",
        "untested": "Untested",
    }
    if scores.one_seed(results):
        headings = {"untested": headings["untested"]}
    found = {verdict: [one.subject for one in findings if one.verdict == verdict] for verdict in headings}
    return {
        heading: found[verdict] or ["nothing in this run"]
        for verdict, heading in headings.items()
        if found[verdict] or verdict in ARMS
    }


def verdict_label(verdict: Verdict) -> str:
    """A verdict in words: "VL-JEPA wins", "undecided"."""
    return f"{NAMES[verdict]} wins" if verdict in NAMES else verdict


def _training(results: Results) -> list[Finding]:
    """One finding for each task, at the highest threshold: samples bracketed by the checkpoints around the crossing."""
    rows = {row["metric"]: row for row in sorted(results.get("efficiency") or (), key=lambda row: row["threshold"])}
    return [_training_on(results, metric, rows[metric]) for metric in scores.HEADLINE if metric in rows]


def _training_on(results: Results, metric: str, row: dict[str, Any]) -> Finding:
    costs = {arm: row.get(arm) for arm in ARMS}
    evidence = [
        Number(f"samples, {NAMES[arm]}", cost["samples"], cost.get("samples_before"), cost["samples"], "samples")
        for arm, cost in costs.items()
        if cost
    ]
    goal = show.threshold(row["threshold"], unit_of(results, metric))
    reached = " and ".join(f"{NAMES[arm]} {samples_to(cost)}" for arm, cost in costs.items())
    text = f"To reach {goal} on {scores.metric_label(metric)} (validation): {reached}."
    if costs["token"] and costs["vljepa"]:
        ratio = show.times(costs["token"]["seconds"], costs["vljepa"]["seconds"])
        text += f" In this run token took {ratio} the seconds of VL-JEPA to get there."
    paired = scores.paired_of(results, metric, "curves")
    if paired:
        unit = unit_of(results, metric)
        text += f" Mean over the learning curve, VL-JEPA minus token: {show.difference(paired, unit)}."
        evidence.append(Number("curve, VL-JEPA minus token", paired["difference"], paired["low"], paired["high"], unit))
        verdict, why = scores.decide(results, metric, "curves")
    else:
        verdict = "undecided"
        why = ONE_SEED if scores.one_seed(results) else "samples to a threshold have no paired interval"
    subject = f"learning curve of {scores.metric_label(metric)}"
    return Finding(TRAINING, subject, text, tuple(evidence), verdict, why)


def _inference(results: Results) -> list[Finding]:
    """One finding for each thing that both arms can be asked, over all batch sizes."""
    arms = results["arms"]
    modes = [
        mode
        for mode in arms["token"].get("inference") or {}
        if set(arms["token"]["inference"][mode]) & set((arms["vljepa"].get("inference") or {}).get(mode) or ())
    ]
    return [_inference_of(results, mode) for mode in modes]


def _inference_of(results: Results, mode: str) -> Finding:
    timings = {arm: results["arms"][arm]["inference"][mode] for arm in ARMS}
    batches = [batch for batch in sorted(timings["token"], key=int) if batch in timings["vljepa"]]
    texts, evidence, verdicts, whys = [], [], [], []
    for batch in batches:
        token, vljepa = (timings[arm][batch] for arm in ARMS)
        paired = scores.paired_of(results, f"{mode}/{batch}", "inference") or {}
        ratio = paired.get("ratio", token["p50_ms"] / vljepa["p50_ms"])
        low, high = paired.get("low"), paired.get("high")
        bounds = f" [{show.significant(low)}, {show.significant(high)}]" if low and high else ""
        texts.append(
            f"{show.significant(ratio)} times{bounds} at batch {batch} "
            f"(throughput {show.times(token['throughput_per_s'], vljepa['throughput_per_s'])})"
        )
        evidence.append(Number(f"p50 token / VL-JEPA, batch {batch}", ratio, low, high, "ratio"))
        if paired:
            verdict, why = scores.decide(results, f"{mode}/{batch}", "inference")
        else:
            verdict, why = "undecided", ONE_SEED if scores.one_seed(results) else "the ratio has no interval"
        verdicts.append(verdict)
        whys.append(why)
    subject = MODES.get(mode, mode)
    text = (
        f"{_capital(subject)}: median latency of token as a multiple of VL-JEPA's, timed alternately in "
        f"one run: {'; '.join(texts)}."
    )
    steps = [results["arms"][arm].get("decode_steps") for arm in ARMS]
    if mode == "caption" and all(show.is_number(one) for one in steps):
        text += f" Decoding steps a caption: token {show.significant(steps[0])}, VL-JEPA {show.significant(steps[1])}."
        evidence += [
            Number(f"decoding steps, {NAMES[arm]}", one, None, None, "steps")
            for arm, one in zip(ARMS, steps, strict=True)
        ]
    token_cost, vljepa_cost = (cost_of(results, arm, mode) for arm in ARMS)
    if token_cost and vljepa_cost:
        ratio = show.times(token_cost["seconds"], vljepa_cost["seconds"])
        text += f" 1,000 requests at each arm's best batch size cost token {ratio} what they cost VL-JEPA."
    verdict = _combine(verdicts)
    if verdict == "undecided" and "undecided" not in verdicts:
        why = "the arms win at different batch sizes"
    else:
        why = whys[verdicts.index(verdict)]
    return Finding(INFERENCE, f"time for {subject}", text, tuple(evidence), verdict, why)


def _metrics(results: Results, topic: str, metrics: Sequence[str], split: str = scores.TEST) -> list[Finding]:
    """What was measured on both arms; and of test, if anything was, what was not and why."""
    compared = [metric for metric in metrics if scores.measured(results, metric, split)]
    found = [_compared(results, topic, metric, split) for metric in compared]
    if found and split == scores.TEST:
        found += [_missing(results, topic, metric) for metric in metrics if metric not in compared]
    return found


def _missing(results: Results, topic: str, metric: str) -> Finding:
    subject = scores.metric_label(metric)
    return Finding(topic, subject, f"{_capital(subject)}.", (), "untested", scores.why_missing(results, metric))


def _compared(results: Results, topic: str, metric: str, split: str) -> Finding:
    """Both arms on one metric, with the controls without which the scores say little."""
    pair = {arm: scores.score_of(results, arm, metric, split) for arm in ARMS}
    unit = unit_of(results, metric)
    evidence = [Number(NAMES[arm], one["value"], one["low"], one["high"], unit) for arm, one in pair.items() if one]
    subject = scores.metric_label(metric)
    if split != scores.TEST:
        subject += f" on {scores.split_label(split)}"
    if topic == RETRIEVAL and pair["token"]:
        subject += f" of {show.count(pair['token'].get('n'))}"
    text = f"{_capital(subject)}: {_both(pair)}"
    paired = scores.paired_of(results, metric, split)
    if paired:
        text += f"; VL-JEPA minus token {show.difference(paired, unit)}"
        evidence.append(Number("VL-JEPA minus token", paired["difference"], paired["low"], paired["high"], unit))
    text += "."
    if split == scores.TEST:
        controls, weak = _controls(results, metric)
        text += controls
        evidence += weak
    verdict, why = scores.decide(results, metric, split)
    return Finding(topic, subject, text, tuple(evidence), verdict, why)


def _controls(results: Results, metric: str) -> tuple[str, list[Number]]:
    """The best blind control of each arm, chance where there is none, and whether the arm beats it."""
    parts, evidence, weak = [], [], []
    for arm in ARMS:
        score, blind = scores.score_of(results, arm, metric), scores.best_blind(results, arm, metric)
        if score is None or blind is None:
            continue
        name, one = scores.control_label(blind.name), blind.score
        unit = unit_of(results, metric)
        parts.append(f"{NAMES[arm]} {show.score(one)} ({name})")
        evidence.append(Number(f"{name}, {NAMES[arm]}", one["value"], one.get("low"), one.get("high"), unit))
        if not scores.clearly_above(score, one):
            weak.append(
                f" The {NAMES[arm]} arm is not clearly above its blind control: nothing shows that it uses "
                f"{scores.unused(blind.name)}."
            )
    if parts:
        return f" Best blind control: {', '.join(parts)}." + "".join(weak), evidence
    chance = (scores.score_of(results, "token", metric) or {}).get("chance")
    if chance is None:
        return " No blind control was measured.", []
    unit = unit_of(results, metric)
    return f" Chance: {show.scalar(chance, unit)}.", [Number("chance", chance, None, None, unit)]


def _representation(results: Results) -> list[Finding]:
    """One finding for each probe method, over all targets."""
    found = []
    for method, targets in probes_of(results).items():
        texts, evidence, verdicts = [], [], []
        for target, row in targets.items():
            if not all(row.get(arm) for arm in ARMS):
                continue
            verdict, _ = scores.decide(results, f"probe/{method}/{target}")
            verdicts.append(verdict)
            said = "" if scores.one_seed(results) or verdict == "untested" else f" ({verdict_label(verdict)})"
            frozen = (
                f", frozen features without the question {show.score(row['features'])}" if row.get("features") else ""
            )
            texts.append(f"{target.replace('_', ' ')} {_both(row)}{frozen}{said}")
            evidence += [
                Number(f"{target}, {NAMES[arm]}", row[arm]["value"], row[arm]["low"], row[arm]["high"], "accuracy")
                for arm in ARMS
            ]
        if verdicts:
            verdict = _combine(verdicts)
            if scores.one_seed(results):
                verdict, why = "undecided", ONE_SEED
            elif verdict == "untested":
                verdict, why = "undecided", "no paired difference of the probes"
            else:
                why = "all targets agree" if verdict in ARMS else "not every target is won by one arm"
            subject = f"{PROBES[method]} probes"
            text = f"{_capital(subject)} of the pooled trunk states: {'; '.join(texts)}."
            found.append(Finding(REPRESENTATION, subject, text, tuple(evidence), verdict, why))
    return found


def probes_of(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Probes of the test split: method -> target -> {arm or "features": score}; empty where none were made."""
    probes = results.get("probes") or {}
    probes = probes.get(scores.TEST) or probes
    return {method: probes[method] for method in PROBES if probes.get(method)}


def cost_of(results: Results, arm: str, mode: str) -> dict[str, Any] | None:
    """Cost of 1,000 requests, {"seconds", "price"}; the price is None where the machine's was not given."""
    cost = (results["arms"][arm].get("cost") or {}).get(mode)
    return {"seconds": cost["seconds_per_1000"], "price": cost.get("cost_per_1000")} if cost else None


def unit_of(results: Results, metric: str) -> str:
    """Unit of a metric, from any score of it."""
    every = [split.get(metric) for arm in ARMS for split in (results["arms"][arm].get("test") or {}).values()]
    return next((str(one["unit"]) for one in every if one and "unit" in one), "accuracy")


def samples_to(cost: dict[str, Any] | None) -> str:
    """Samples to a threshold, bracketed by the checkpoint before: "between 3,200 and 6,400 samples"."""
    if not cost:
        return "did not reach it"
    before = cost.get("samples_before")
    if not before:
        return f"at most {show.count(cost['samples'])} samples"
    return f"between {show.count(before)} and {show.count(cost['samples'])} samples"


def _both(pair: Mapping[Any, Any]) -> str:
    return ", ".join(f"{NAMES[arm]} {show.score(pair[arm])}" for arm in ARMS)


def _combine(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict over several comparisons: an arm must win all that were tested."""
    tested = {verdict for verdict in verdicts if verdict != "untested"}
    if not tested:
        return "untested"
    return tested.pop() if len(tested) == 1 else "undecided"


def _list(items: Iterable[str]) -> str:
    return "; ".join(items)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _aliases(topic: str) -> list[str]:
    """Other names under which a run may say why the topic is untested."""
    if topic == IMAGES:
        return ["questions"]
    if topic == REPRESENTATION:
        return ["probes"]
    return [need for need, other in NEEDS.items() if other == topic and need != topic]

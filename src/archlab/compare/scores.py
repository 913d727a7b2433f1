"""Reading `results.json`: scores, controls, paired differences and what they decide.

Nothing here recomputes a comparison: a winner is the one that the paired statistics named when the run was scored
(`evaluate.statistics`), and it can only be taken back, by a single seed or by a blind control that scores as high.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archlab.errors import UserError

Results = Mapping[str, Any]
Score = Mapping[str, Any]
Verdict = Literal["token", "vljepa", "undecided", "untested"]

ARMS: tuple[Literal["token"], Literal["vljepa"]] = ("token", "vljepa")
NAMES = {"token": "token", "vljepa": "VL-JEPA"}
ONE_SEED = "one seed: no winner"
NO_NUMBERS = "this run has no such numbers"
TEST = "test"

VQA, CLASSIFICATION = "vqa/accuracy", "classification/accuracy"
CIDER, SLOTS = "caption/cider_d", "caption/slots"
TO_TEXT, TO_IMAGE = "retrieval/image_to_text_r1", "retrieval/text_to_image_r1"
AT_10 = ("retrieval/image_to_text_r10", "retrieval/text_to_image_r10")
BY_LIKELIHOOD = ("retrieval_pmi/image_to_text_r1", "retrieval_pmi/text_to_image_r1")
"""Retrieval among few captions by the token arm's likelihood, and by VL-JEPA's embeddings."""
PROBE_CURVES = ("probe/linear/answers", "probe/knn/answers")
"""What the trunk's states give away at each checkpoint."""
HEADLINE = (VQA, CLASSIFICATION, CIDER, SLOTS, TO_TEXT, TO_IMAGE)
"""The tasks, one metric each (two for captions: how it reads and whether it is true)."""

_LABELS = {
    VQA: "questions about the image",
    CLASSIFICATION: "open-vocabulary classification",
    "classification/top5": "open-vocabulary classification, top 5",
    CIDER: "captions, CIDEr-D",
    SLOTS: "captions, facts right",
    "caption/exact": "captions, all facts right",
}
_PROBED = {
    "pooled": "linear probe of the mean token",
    "tokens": "linear probe of all tokens",
    "dense": "linear probe of single patches",
    "knn": "nearest neighbours",
    "pixels": "linear probe of gradients and colours, without the encoder",
}
"""Families of the probes of an encoder; see `evaluate.encoder_probes` and `evaluate.set_probes`."""
_REASONS = {VQA: "questions", CIDER: "text generation", SLOTS: "slots", TO_TEXT: "retrieval", TO_IMAGE: "retrieval"}
"""Task -> name under which a run says why it was not measured, where that is not the task's own."""
_SPLITS = {
    TEST: "test",
    "test_combinations": "unseen attribute combinations",
    "test_backgrounds": "unseen backgrounds",
    "test_forms": "unseen wordings",
    "test_keywords": "keywords",
    "test_held_out_keywords": "keywords never trained on",
}
_CONTROLS = {
    "shuffled_image": "shuffled image",
    "no_query": "no query",
    "majority": "majority answer",
    "trained_blind": "trained blind, one seed",
    "nearest_caption": "nearest training caption",
    "decoder_ceiling": "decoder ceiling",
    "supervised_head": "supervised head",
    "end_to_end": "network trained end to end",
    "retrieval_floor": "regression from gradients and colours to words",
    "image_floor": "regression from gradients and colours to classes",
    "question_floor": "classifier of the question alone",
}
_IMAGE_BLIND = ("shuffled_image", "majority", "question_floor", "trained_blind")
_QUERY_BLIND = ("no_query",)  # says something only where queries differ: captions all have the same one


@dataclass(frozen=True)
class Control:
    """A named control with its score."""

    name: str
    score: Score


def load_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `results.json`.

    Raises:
        UserError: the file is missing, is not JSON, or has no scores of both arms.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"results {path}: {error.strerror}; 'archlab compare' writes them") from None
    except ValueError as error:
        raise UserError(f"results {path}: not valid JSON ({error}); run 'archlab compare' again") from None
    return _of_both_arms(results, path)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a folder -> content of its `results.json`, of whatever command wrote it.

    Raises:
        UserError: a file is not JSON.
    """
    found = {}
    for path in sorted(folder.glob("*/results.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"results {path}: not valid JSON ({error}); make the report again") from None
        if isinstance(content, dict):
            found[path.parent.name] = content
    return found


def comparisons(folder: Path) -> dict[str, Results]:
    """Of `read_results`, what `archlab compare` wrote."""
    return {
        name: _of_both_arms(found, folder / name / "results.json")
        for name, found in read_results(folder).items()
        if "arms" in found and "conclusion" not in found
    }


def _of_both_arms(results: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    arms = results.get("arms") if isinstance(results, dict) else None
    missing = [arm for arm in ARMS if not isinstance(arms, dict) or arm not in arms]
    if missing:
        raise UserError(f"results {path}: no arm {missing[0]!r}; a comparison holds both; run 'archlab compare' again")
    return dict(results)


def metric_label(metric: str) -> str:
    """A metric in words: "retrieval/image_to_text_r5" -> "image to text, R@5"."""
    if metric in _LABELS:
        return _LABELS[metric]
    family, _, rest = metric.partition("/")
    if family.startswith("retrieval"):
        direction, _, k = rest.rpartition("_r")
        how = ", token by likelihood (PMI)" if family.startswith("retrieval_pmi") else ""
        how += ", own item only" if family.endswith("_strict") else ""
        return f"{direction.replace('_', ' ')}{how}, R@{k}"
    if family == "curve":
        return f"{metric_label(rest)}, mean over the learning curve"
    if family == "monitor":
        return f"the monitor's {rest.replace('_', ' ')}"
    if family in _PROBED:
        return f"{rest}, {_PROBED[family]}"
    if family == "probe":
        method, _, target = rest.partition("/")
        return f"{method} probe: {target.replace('_', ' ')}"
    return rest.replace("_", " ") or family


def split_label(split: str) -> str:
    """A split in words."""
    return _SPLITS.get(split, split.replace("_", " "))


def control_label(name: str) -> str:
    """A control in words."""
    return _CONTROLS.get(name, name.replace("_", " "))


def score_of(results: Results, arm: str, metric: str, split: str = TEST) -> Score | None:
    """The score of an arm, None where it was not measured."""
    return _get(results, "arms", arm, "test", split, metric)


def measured(results: Results, metric: str, split: str = TEST) -> bool:
    """Whether both arms have the metric."""
    return all(score_of(results, arm, metric, split) for arm in ARMS)


def metrics_of(results: Results, split: str = TEST) -> list[str]:
    """All metrics that either arm has on a split, in the order of the file."""
    return list(dict.fromkeys(metric for arm in ARMS for metric in _get(results, "arms", arm, "test", split) or {}))


def by_likelihood(results: Results) -> list[str]:
    """Retrieval by the token arm's likelihood, where both arms were scored on the same few captions."""
    return [metric for metric in BY_LIKELIHOOD if measured(results, metric)]


def kinds_of(results: Results) -> dict[str, str]:
    """Metric -> name of every question kind that both arms were scored on."""
    metrics = [metric for metric in metrics_of(results) if metric.startswith("vqa/") and metric != VQA]
    return {metric: metric_label(metric) for metric in metrics if measured(results, metric)}


def control_of(results: Results, name: str, arm: str, metric: str) -> Score | None:
    """The score of a control; one that does not depend on the arm is found for either."""
    controls = _get(results, "controls", name) or {}
    return _get(controls, arm, metric) or _get(controls, "both", metric)


def best_blind(results: Results, arm: str, metric: str) -> Control | None:
    """The control without image, or for questions without query, that scores highest; measured on the test split."""
    names = _IMAGE_BLIND + (_QUERY_BLIND if metric.startswith("vqa") else ())
    found = [Control(name, one) for name in names if (one := control_of(results, name, arm, metric))]
    return max(found, key=lambda control: control.score["value"], default=None)


def strongest_blind(results: Results, metric: str) -> Control | None:
    """The blind control of either arm that scores highest."""
    found = [one for arm in ARMS if (one := best_blind(results, arm, metric))]
    return max(found, key=lambda control: control.score["value"], default=None)


def unused(control: str) -> str:
    """What an arm has not shown to use that is not above a control: "the image", "the question"."""
    return "the question" if control in _QUERY_BLIND else "the image"


def clearly_above(score: Score, control: Score) -> bool:
    """Whether the interval of the score lies above the control's."""
    return bool(score.get("low", score["value"]) > control.get("high", control["value"]))


def paired_of(results: Results, metric: str, split: str = TEST) -> Mapping[str, Any] | None:
    """The paired difference VL-JEPA minus token, None where there is none."""
    return _get(results, "paired", split, metric)


def one_seed(results: Results) -> bool:
    """Whether the run says nothing about another training run."""
    return len(results.get("seeds") or ()) < 2


def decide(results: Results, metric: str, split: str = TEST) -> tuple[Verdict, str]:
    """Who wins, and why, in words.

    The winner is that of the paired difference, unless there is only one seed or the winner does not clearly beat its
    own blind control.
    """
    paired = paired_of(results, metric, split)
    if paired is None:
        return "untested", "not measured on both arms"
    if one_seed(results):
        return "undecided", ONE_SEED
    why = str(paired.get("why", ""))
    for arm in ARMS:
        if paired.get("winner") == arm:
            score, blind = score_of(results, arm, metric, split), best_blind(results, arm, metric)
            if split == TEST and score and blind and not clearly_above(score, blind.score):
                return "undecided", f"{NAMES[arm]} is not clearly above its blind control"
            return arm, why
    return "undecided", why or "the run named no winner"


def untested(results: Results, *names: str, default: str) -> str:
    """Why something has no number: the run's own reason under one of `names`, else `default`."""
    reasons = results.get("untested") or {}
    return next((str(reasons[name]) for name in names if reasons.get(name)), default)


def why_missing(results: Results, metric: str) -> str:
    """Why a task was not measured on both arms."""
    return untested(results, metric_label(metric), _REASONS.get(metric, metric), default=NO_NUMBERS)


def _get(mapping: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(mapping, Mapping):
            return None
        mapping = mapping.get(key)
    return mapping

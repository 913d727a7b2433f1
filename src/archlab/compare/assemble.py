"""From runs and trials to `results.json`: every number with interval, seeds and provenance."""

from __future__ import annotations

import base64
import io
import math
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import archlab
from archlab import machine
from archlab.compare.budgets import Budget
from archlab.compare.cost import cost_per_1000_requests, parameter_counts
from archlab.compare.findings import UNSEEN
from archlab.compare.floor import RETRIEVAL, floors_of, why_no_floor
from archlab.compare.flops import BatchShape, Sizes, training_flops
from archlab.compare.latency import paired_ratio
from archlab.compare.probing import Right, probe_trunks
from archlab.compare.scores import ARMS, VQA, control_label, metric_label
from archlab.compare.trial import Trial, majority
from archlab.config import CompareConfig, to_dict
from archlab.data.device import to_device
from archlab.evaluate.collapse import diagnose
from archlab.evaluate.efficiency import converged_step, efficiency
from archlab.evaluate.measure import OPEN_VOCABULARY, Items, Measurement, scores_of
from archlab.evaluate.monitor import what_keeps_apart
from archlab.evaluate.statistics import paired_difference, score
from archlab.evaluate.trunk_probes import FEWEST, MOST_ANSWERS
from archlab.evaluate.vqa import confusion
from archlab.train.run import Run, retrieval_gap, validation_file, watch
from archlab.train.setup import Setup

if TYPE_CHECKING:
    from archlab.compare.experiment import Runs

_BOOTSTRAP_SEED = 0
_EXAMPLES = 12
_FRAME_MS = 125  # of clips among them
_CURVES = ("vqa/", "classification/", "caption/", "retrieval/", "probe/")
_EFFICIENCY = (
    "vqa/accuracy",
    "classification/accuracy",
    "caption/cider_d",
    "caption/slots",
    "retrieval/image_to_text_r1",
    "retrieval/image_to_text_r10",
)
_CONTROLS = ("shuffled_image", "no_query", "decoder_ceiling", "nearest_caption")
"""Names in a `Trial` that are controls on the test split."""


def assemble(
    config: CompareConfig,
    preset: str,
    setup: Setup,
    budget: Budget,
    differs: dict[str, list[Any]],
    sweep: Mapping[str, Any],
    runs: Runs,
    sizes: Sizes,
    shapes: Sequence[BatchShape],
    inference: Mapping[str, Any],
    memory: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        differs: dotted key -> values of both arms, where the budget lets them differ.
        sweep: arm -> learning-rate trials.
        shapes: of every training batch of the first seed.
        inference: of `compare.inference.measure_inference`. memory: arm -> peak while training.
    """
    trials = {arm: [trial for _, trial in pairs] for arm, pairs in runs.arms.items()}
    finished = {arm: [run for run, _ in pairs] for arm, pairs in runs.arms.items()}
    curves = {arm: _curves(finished[arm], sizes, shapes, config) for arm in finished}
    splits = [name for name in setup.dataset.splits if name.startswith("test")]
    right, probed_images = probe_trunks(finished, setup, config)
    paired = {split: _paired(trials, split, config) for split in splits}
    paired["test"] |= _paired_probes(right, probed_images, config)
    compared = [metric for metric in curves["token"] if metric in _EFFICIENCY and metric in curves["vljepa"]]
    controls = _controls(runs, trials, setup, config)
    return {
        "archlab": archlab.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["archlab", *sys.argv[1:]]),
        "preset": preset,
        "machine": machine.describe() | {"system": platform.platform()},
        "config": to_dict(config),
        "provenance": {
            "git": machine.git_commit(),
            "data_digest": setup.dataset.digest(),
            "features_digest": setup.features("train").digest,
            "order_digest": {str(run.config.seed): run.metrics["order_digest"] for run in finished["token"]},
            "encoder": {
                "name": config.run.encoder.weights,
                "implementation": setup.encoder.implementation,
                "digest": setup.encoder.digest,
                "probe": setup.encoder.metrics.get("probes", {}),
            },
        },
        "data": _data(setup, config),
        "seeds": config.seeds,
        "training_seconds": _training_seconds(runs),
        "budget": {
            "name": budget.name,
            "rule": budget.rule,
            "may_differ": sorted(budget.may_differ),
            "differs": differs,
        },
        "arms": {
            arm: {
                "parameters": parameter_counts(finished[arm][0].arm, setup.encoder.model),
                "training": _training(finished[arm], sizes, shapes) | memory[arm],
                "sweep": sweep[arm],
                "curves": curves[arm],
                "test": {
                    split: scores_of([trial[split] for trial in trials[arm]], config.bootstrap_samples)
                    for split in splits
                },
                "inference": _summary(inference["inference"][arm]),
                "tokens_per_second": inference["tokens_per_second"].get(arm),
                "embeddings_per_second": inference["embeddings_per_second"].get(arm),
                "decode_steps": inference["decode_steps"].get(arm),
                "cost": _cost(inference["inference"][arm], config.machine_price_per_hour),
            }
            for arm in finished
        },
        "x_encoder": {"inference": _summary(inference["inference"]["x_encoder"])},
        "controls": controls,
        "paired": paired
        | {
            "curves": {metric: _paired_curves(finished, metric, config) for metric in compared},
            "inference": _paired_inference(inference["inference"], config),
        },
        "efficiency": [
            row
            for metric in compared
            for row in efficiency(
                metric, {arm: curves[arm][metric] for arm in curves}, curves["token"][metric][-1]["chance"]
            )
        ],
        "convergence": {arm: {metric: converged_step(curves[arm][metric]) for metric in compared} for arm in curves},
        "probes": _probes(right, probed_images, config),
        "collapse": _collapse(finished["vljepa"][0], setup),
        "monitor": [run.metrics["monitor"] for run in finished["vljepa"] if "monitor" in run.metrics],
        "confusion": _confusion(trials, setup, config),
        "examples": _examples(trials, setup),
        "untested": _untested(config, setup, probed=bool(right), measured=controls),
    }


def _paired(trials: Mapping[str, Sequence[Trial]], split: str, config: CompareConfig) -> dict[str, Any]:
    token, vljepa = ([trial[split] for trial in trials[arm]] for arm in ARMS)
    return {
        metric: _difference(
            [one.values[metric] for one in token], [one.values[metric] for one in vljepa], clusters, config
        )
        for metric, clusters in token[0].clusters.items()
        if metric in vljepa[0].values
    }


def _paired_probes(right: Right, images: Mapping[str, np.ndarray], config: CompareConfig) -> dict[str, Any]:
    return {
        f"probe/{name}": _difference(sources["token"], sources["vljepa"], images[name.split("/", 1)[1]], config)
        for name, sources in right.items()
    }


def _paired_curves(finished: Mapping[str, Sequence[Run]], metric: str, config: CompareConfig) -> dict[str, Any] | None:
    """The difference of the arms averaged over the scored checkpoints: who learns faster.

    None where a budget gave the arms different numbers of steps: an average over equal steps would say nothing of what
    the budget holds equal.
    """
    steps, *others = ({point["step"] for point in runs[0].metrics["curve"]} for runs in finished.values())
    if any(other != steps for other in others):
        return None
    means: dict[str, list[np.ndarray]] = {}
    clusters = np.zeros(0)
    for arm, runs in finished.items():
        for run in runs:
            points = [Measurement.load(validation_file(run.folder, step), run.folder) for step in sorted(steps)]
            means.setdefault(arm, []).append(np.mean([point.values[metric] for point in points], axis=0))
            clusters = points[0].clusters[metric]
    return _difference(means["token"], means["vljepa"], clusters, config)


def _paired_inference(inference: Mapping[str, Any], config: CompareConfig) -> dict[str, Any]:
    """Time of the token arm over that of VL-JEPA, mode by mode and batch by batch, from calls made in turns."""
    ratios: dict[str, Any] = {}
    for mode in inference["token"].keys() & inference["vljepa"].keys():
        for size, token in inference["token"][mode].items():
            ratio = paired_ratio(
                token["seconds"],
                inference["vljepa"][mode][size]["seconds"],
                samples=config.bootstrap_samples,
                seed=_BOOTSTRAP_SEED,
            )
            winner = {"first": "token", "second": "vljepa", "undecided": "undecided"}[ratio.pop("faster")]
            why = "interval includes 1" if winner == "undecided" else "interval excludes 1"
            ratios[f"{mode}/{size}"] = ratio | {"winner": winner, "why": f"{why}, calls made in turns"}
    return ratios


def _summary(modes: Mapping[str, Any]) -> dict[str, Any]:
    """Latencies without the single calls."""
    return {
        mode: {size: {key: value for key, value in row.items() if key != "seconds"} for size, row in batches.items()}
        for mode, batches in modes.items()
    }


def _difference(
    token: Sequence[np.ndarray], vljepa: Sequence[np.ndarray], clusters: np.ndarray, config: CompareConfig
) -> dict[str, Any]:
    return paired_difference(
        np.stack(token), np.stack(vljepa), clusters, samples=config.bootstrap_samples, seed=_BOOTSTRAP_SEED
    ).to_dict()


def _curves(
    runs: Sequence[Run], sizes: Sizes, shapes: Sequence[BatchShape], config: CompareConfig
) -> dict[str, list[dict[str, Any]]]:
    """Learning curves on validation: metric -> a point per scored step, with chance, interval and a value per seed."""
    plan = runs[0].config
    flops = list(accumulate(sum(training_flops(plan, sizes, shape).values()) for shape in shapes))
    curves: dict[str, list[dict[str, Any]]] = {}
    for number, point in enumerate(runs[0].metrics["curve"]):
        step = point["step"]
        measured = [Measurement.load(validation_file(run.folder, step), run.folder) for run in runs]
        for metric, scored in scores_of(measured, config.bootstrap_samples).items():
            if not metric.startswith(_CURVES):
                continue
            curves.setdefault(metric, []).append(
                {
                    "step": step,
                    "samples": step * plan.optimizer.batch_size,
                    "flops": flops[step - 1],
                    "seconds": float(np.mean([run.metrics["curve"][number]["seconds"] for run in runs])),
                    "chance": scored.get("chance", 0.0),
                    "mean": scored["value"],
                    "low": scored["low"],
                    "high": scored["high"],
                    "per_seed": [one.means()[metric] for one in measured],
                }
            )
    return curves


def _training(runs: Sequence[Run], sizes: Sizes, shapes: Sequence[BatchShape]) -> dict[str, Any]:
    plan = runs[0].config
    used = shapes[: plan.optimizer.steps]
    parts: Counter[str] = Counter()
    for shape in used:
        parts.update(training_flops(plan, sizes, shape))
    total = sum(parts.values())
    seconds = [run.metrics["seconds"] for run in runs]
    tokens = sum(shape.samples * (shape.visual + shape.query + shape.target) for shape in used)
    return {
        "steps": plan.optimizer.steps,
        "samples": plan.optimizer.steps * plan.optimizer.batch_size,
        "flops": total,
        "flops_per_step": total / len(used),
        "flops_parts": dict(parts),
        "seconds": seconds,
        "samples_per_second": plan.optimizer.steps * plan.optimizer.batch_size / float(np.mean(seconds)),
        "tokens_per_second": tokens / float(np.mean(seconds)),
        "learning_rate": plan.optimizer.learning_rate,
    }


def _training_seconds(runs: Runs) -> float:
    """Of all runs but those of the sweep, one after another."""
    groups = [*runs.arms.values(), *runs.blind.values(), runs.supervised]
    return float(sum(run.metrics["seconds"] for group in groups for run, _ in group))


def _controls(runs: Runs, trials: Mapping[str, Sequence[Trial]], setup: Setup, config: CompareConfig) -> dict[str, Any]:
    controls: dict[str, Any] = {}
    samples = config.bootstrap_samples
    for name in _CONTROLS:
        for arm, done in trials.items():
            if name in done[0] and done[0][name].values:
                controls.setdefault(name, {})[arm] = scores_of([trial[name] for trial in done], samples)
    if setup.answers:
        controls["majority"] = {"both": scores_of([majority(setup, setup.dataset["test"], config.test_items)], samples)}
    if runs.blind:
        controls["trained_blind"] = {
            arm: scores_of([trial["test"] for _, trial in done], samples) for arm, done in runs.blind.items()
        }
    if runs.supervised:
        controls["supervised_head"] = {"both": scores_of([trial["test"] for _, trial in runs.supervised], samples)}
    if runs.end_to_end:
        controls["end_to_end"] = {"both": scores_of([runs.end_to_end], samples)}
    for name, floor in runs.floors.items():
        if floor.values:
            controls[name] = {"both": scores_of([floor], samples)}
    return controls


def _probes(right: Right, images: Mapping[str, np.ndarray], config: CompareConfig) -> dict[str, Any]:
    probes: dict[str, Any] = {}
    for name, sources in right.items():
        method, kind = name.split("/", 1)
        probes.setdefault(method, {})[kind] = {
            source: score(
                np.stack(values),
                images[kind],
                samples=config.bootstrap_samples,
                seed=_BOOTSTRAP_SEED,
                unit="accuracy",
            ).to_dict()
            for source, values in sources.items()
        }
    return probes


def _collapse(run: Run, setup: Setup) -> dict[str, Any]:
    """Whether the embeddings of VL-JEPA still spread out, on validation questions and captions.

    What is held against ln B is InfoNCE alone, as the monitors take it: the loss that training minimises has that of
    the text decoder in it, of which ln B says nothing.
    """
    collator = setup.collator("validation")
    rows = np.arange(min(512, len(collator.split.examples)))
    batch = to_device(collator(rows), setup.device)
    with torch.no_grad():
        predicted, target = run.arm.embed(batch)  # type: ignore[operator]
    watched = watch(run.arm, setup, run.config)
    size = round(math.exp(watched["log_batch"]))
    kept = what_keeps_apart(run.arm.target_encoder, run.config.vljepa.objective)  # type: ignore[arg-type]
    return diagnose(predicted.cpu().numpy(), target.cpu().numpy(), watched["loss"], size, kept).to_dict()


def _cost(inference: Mapping[str, Any], price: float) -> dict[str, Any]:
    """Of 1,000 requests at the batch size with the best throughput: seconds, and money where a price was given."""
    costs: dict[str, Any] = {"price_per_hour": price or None}
    for mode, batches in inference.items():
        throughput = max(row["throughput_per_s"] for row in batches.values())
        costs[mode] = {"seconds_per_1000": 1000 / throughput}
        if price:
            costs[mode]["cost_per_1000"] = cost_per_1000_requests(throughput, price)
    return costs


def _data(setup: Setup, config: CompareConfig) -> dict[str, Any]:
    splits = {
        name: {
            "images": len(split.images),
            "examples": len(split.examples),
            "kinds": dict(Counter(one.kind for one in split.examples)),
        }
        for name, split in setup.dataset.splits.items()
    }
    return {
        "name": config.run.data.source,
        "splits": splits,
        "skipped": [line for split in setup.dataset.splits.values() for line in split.skipped],
        "notes": setup.dataset.notes,
        "paraphrases": config.run.data.scenes.paraphrases if setup.dataset.name == "scenes" else None,
    }


def _confusion(trials: Mapping[str, Sequence[Trial]], setup: Setup, config: CompareConfig) -> dict[str, Any]:
    """Per question kind, of the first seed."""
    test = setup.dataset["test"]
    answers = {arm: done[0]["test"].answers for arm, done in trials.items()}
    by_kind: dict[str, list[int]] = {}
    for row in Items.first(test, config.test_items).vqa:
        by_kind.setdefault(test.examples[row].kind, []).append(int(row))
    return {
        kind: confusion(
            [test.examples[row].targets[0] for row in rows],
            {arm: [said[row] for row in rows] for arm, said in answers.items()},
        )
        for kind, rows in by_kind.items()
        if len(test.candidates[kind]) > 1
    }


def _examples(trials: Mapping[str, Sequence[Trial]], setup: Setup) -> list[dict[str, Any]]:
    """The first test images with a question and a caption each, as both arms of the first seed answered them."""
    test = setup.dataset["test"]
    token, vljepa = (trials[arm][0]["test"].answers for arm in ARMS)
    shown: list[dict[str, Any]] = []
    tasks: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    meanings = test.canonical_meaning
    for row, example in enumerate(test.examples):
        if row not in token or row not in vljepa:
            continue
        if (example.task, example.image) in seen or tasks[example.task] >= _EXAMPLES // 2:
            continue
        seen.add((example.task, example.image))
        tasks[example.task] += 1

        def right(said: str, example: Any = example) -> bool:
            return meanings.get(said) == example.meaning or said in example.targets

        shown.append(
            {
                "image_png_base64": _png(test.images[example.image : example.image + 1][0]),
                "kind": example.kind,
                "query": example.queries[0],
                "answer": example.targets[0],
                "token": token[row],
                "vljepa": vljepa[row],
                "token_right": right(token[row]),
                "vljepa_right": right(vljepa[row]),
            }
        )
    return shown


def _png(image: np.ndarray) -> str:
    """An image (H, W, 3); a clip (T, H, W, 3) as an animated PNG."""
    buffer = io.BytesIO()
    first, *later = [Image.fromarray(frame) for frame in (image if image.ndim == 4 else image[None])]
    moving: dict[str, Any] = {"save_all": True, "append_images": later, "duration": _FRAME_MS, "loop": 0}
    first.save(buffer, "png", optimize=True, **(moving if later else {}))
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _untested(config: CompareConfig, setup: Setup, *, probed: bool, measured: Collection[str]) -> dict[str, str]:
    """What this comparison does not measure, and why.

    Args:
        measured: names of controls.
    """
    reasons = {"text-only tasks": "both arms are trained on image-text pairs alone; no text-only task was run"}
    test = Items.first(setup.dataset["test"], config.test_items)
    if not setup.answers:
        reasons["questions"] = reasons["probes"] = "the data have captions but no question-answer pairs"
    elif not len(test.vqa):
        reasons["questions"] = reasons["probes"] = "the test split has no questions"
    elif not probed:
        reasons["probes"] = (
            f"no kind of question has {FEWEST} items in each of train, validation and test and at most {MOST_ANSWERS} "
            f"answers"
        )
    kinds = {setup.dataset["test"].examples[row].kind for row in test.vqa}
    if kinds and not kinds & OPEN_VOCABULARY:
        reasons["open-vocabulary classification"] = (
            f"none of the test questions is of kind {' or '.join(map(repr, sorted(OPEN_VOCABULARY)))}: sets of classes "
            f"have the one, the built-in scenes the other where run.data.scenes.kinds keeps it"
        )
    elif kinds and kinds <= OPEN_VOCABULARY:
        reasons[metric_label(VQA)] = "the class is all that is asked, which counts as open-vocabulary classification"
    if len(setup.uncaptioned) == len(setup.dataset.splits):
        reasons["text generation"] = reasons["retrieval"] = "the data have question-answer pairs but no captions"
    elif not len(test.captions):
        reasons["text generation"] = reasons["retrieval"] = "the test split has no captions"
    elif gap := retrieval_gap(setup):
        reasons["retrieval"] = gap
    for name in floors_of(setup):
        if name not in measured and (name != RETRIEVAL or "retrieval" not in reasons):
            reasons[control_label(name)] = why_no_floor(name, setup, config) or "there is nothing to learn it from"
    if not UNSEEN.keys() & setup.dataset.splits.keys():
        reasons["zero-shot transfer"] = "the data bring no split with held-out combinations or wordings"
    if setup.dataset.name != "scenes":
        reasons["slots"] = "slot accuracy needs the ground truth of the built-in scenes"
    if not config.trained_blind:
        reasons["trained_blind"] = "blind arms are not trained in this preset; controls at test time are"
    if not config.supervised:
        reasons["supervised_head"] = "no supervised head is trained in this preset"
    return reasons

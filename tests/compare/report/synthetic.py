"""SYNTHETIC results for the tests of the report: random hits pushed through the real statistics. No model was trained.

Every number is drawn, so none of them says anything about either arm; only the form is that of `results.json`.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from archlab.config import CompareConfig, RunConfig, ScenesData, to_dict
from archlab.evaluate.efficiency import converged_step, efficiency
from archlab.evaluate.statistics import paired_difference, score
from archlab.evaluate.vqa import confusion

ARMS = ("token", "vljepa")
KINDS = {"colour": 8, "shape": 6, "size": 3, "count": 5, "exists": 2, "relation": 4}
ITEMS = 600
_STEPS = (25, 50, 100, 200, 400, 800)
_SAMPLES = 200
_LATENCY = {"choose": (18.0, 6.5), "caption": (64.0, 31.0), "embed": (5.2, 5.6)}

# metric -> (final score of token, of vljepa, of the blind control, chance, unit)
_QUESTIONS = {
    "vqa/colour": (0.78, 0.86, 0.22, 1 / 8),
    "vqa/shape": (0.55, 0.66, 0.25, 1 / 6),
    "vqa/size": (0.71, 0.73, 0.41, 1 / 3),
    "vqa/count": (0.83, 0.74, 0.35, 1 / 5),
    "vqa/exists": (0.72, 0.80, 0.55, 1 / 2),
    "vqa/relation": (0.33, 0.35, 0.34, 1 / 4),
    "vqa/accuracy": (0.66, 0.72, 0.36, 0.262),
    "classification/accuracy": (0.42, 0.51, 0.09, 1 / 48),
}
_CAPTIONS = {
    "caption/cider_d": (3.4, 2.6, 0.9, None),
    "caption/slots": (0.61, 0.62, 0.38, None),
    "caption/exact": (0.12, 0.09, 0.01, None),
    "retrieval/image_to_text_r1": (0.14, 0.31, 0.004, 0.004),
    "retrieval/image_to_text_r5": (0.38, 0.62, 0.02, 0.02),
    "retrieval/image_to_text_r10": (0.52, 0.77, 0.04, 0.04),
    "retrieval/text_to_image_r1": (0.12, 0.29, 0.004, 0.004),
    "retrieval/text_to_image_r5": (0.36, 0.60, 0.02, 0.02),
    "retrieval/text_to_image_r10": (0.49, 0.75, 0.04, 0.04),
}
_GALLERY = 250


def synthetic_results(seeds: int = 3, *, questions: bool = True, price: float = 0.9) -> dict[str, Any]:
    """Complete results of a comparison that never ran.

    Args:
        seeds: number of seeds.
        questions: False gives what data with captions alone would: no VQA, no probes, no held-out split.
        price: of the machine per hour; 0 where none was given.
    """
    rng = np.random.default_rng(7)
    metrics = (_QUESTIONS if questions else {}) | _CAPTIONS
    splits = ["test", "test_combinations", "test_backgrounds", "test_forms"] if questions else ["test"]
    drop = dict(
        zip(["test", "test_combinations", "test_backgrounds", "test_forms"], [1.0, 0.7, 0.85, 0.9], strict=True)
    )
    items = {
        split: {
            metric: [_draw(rng, metric, level * drop[split], seeds) for level in row[:2]]
            for metric, row in metrics.items()
        }
        for split in splits
    }
    curves: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
    for position, arm in enumerate(ARMS):
        for metric, row in metrics.items():
            if metric != "caption/exact":
                curves[arm][metric] = [_point(rng, metric, row, position, step, seeds) for step in _STEPS]
    compared = [
        metric
        for metric in ("vqa/accuracy", "classification/accuracy", "caption/cider_d", "retrieval/image_to_text_r1")
        if metric in metrics
    ]
    results: dict[str, Any] = {
        "archlab": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "command": "archlab compare --preset synthetic --out runs/synthetic",
        "preset": "synthetic",
        "machine": {
            "cpu": "Synthetic CPU @ 0.00 GHz", "cores": 2, "memory_gib": 24.0, "torch": "2.13.0", "python": "3.11.7",
            "gpu": None, "system": "Linux",
        },
        "config": to_dict(
            CompareConfig(seeds=list(range(seeds)), run=RunConfig(), machine_price_per_hour=price)
        ),
        "provenance": {
            "git": "0123456789abcdef0123456789abcdef01234567",
            "data_digest": {"train": "aa" * 32, "validation": "bb" * 32, "test": "cc" * 32},
            "features_digest": "dd" * 32,
            "order_digest": {str(seed): f"{seed}e" * 32 for seed in range(seeds)},
            "encoder": {
                "name": "synthetic-v0",
                "digest": "ff" * 32,
                "probe": {"pretrained": {"colour": 0.81, "shape": 0.64}, "random initialisation": {"colour": 0.52}},
            },
        },
        "data": {
            "name": "scenes" if questions else "my-photos",
            "splits": {
                name: {"images": images, "examples": images * 5, "kinds": dict.fromkeys(KINDS, images // 2)}
                if questions
                else {"images": images, "examples": images, "kinds": {"caption": images}}
                for name, images in {"train": 4000, "validation": 500, **dict.fromkeys(splits, 1000)}.items()
            },
            "skipped": [] if questions else ["metadata.jsonl, line 7: image IMG_0007.jpg: is empty"],
            "notes": [] if questions else ["3 captions of the test split are also in train"],
            "paraphrases": ScenesData().paraphrases if questions else None,
        },
        "seeds": list(range(seeds)),
        "budget": {
            "name": "shared",
            "rule": "both arms have the same trunk, batches and steps; target encoder and text decoder come on top",
            "may_differ": ["arm", "optimizer.learning_rate"],
            "differs": {"arm": ["token", "vljepa"], "optimizer.learning_rate": [0.001, 0.002]},
        },
        "arms": {
            arm: _arm(position, arm, {split: _scored(items[split], metrics, position) for split in splits}, curves[arm],
                      seeds, price, questions)
            for position, arm in enumerate(ARMS)
        },
        "x_encoder": {"inference": {"encode": _timings(3.1)}},
        "controls": _controls(rng, metrics, seeds, questions),
        "paired": {
            split: {
                metric: paired_difference(*pair, _clusters(metric), samples=_SAMPLES, seed=0).to_dict()
                for metric, pair in items[split].items()
            }
            for split in splits
        },
        "efficiency": [
            row for metric in compared for row in efficiency(metric, {arm: curves[arm][metric] for arm in ARMS})
        ],
        "convergence": {arm: {metric: converged_step(curves[arm][metric]) for metric in compared} for arm in ARMS},
        "probes": _probes(rng, seeds) if questions else {},
        "collapse": {"verdict": "healthy: synthetic", "std": 0.93, "effective_rank": 41.0},
        "confusion": _confusions(rng) if questions else {},
        "examples": _examples(rng, questions),
        "untested": {"text-only tasks": "both arms are trained on image-text pairs alone; no text-only task was run"},
    }  # fmt: skip
    for arm, level in (("token", 0.19),):
        hits = _draw(rng, "retrieval_pmi/image_to_text_r1", level, seeds)[:, :100]
        results["arms"][arm]["test"]["test"]["retrieval_pmi/image_to_text_r1"] = score(
            hits, np.arange(100), samples=_SAMPLES, seed=0, unit="recall", chance=0.01
        ).to_dict()
    if questions:
        results["arms"]["token"]["test"]["test"]["vqa_normalised/accuracy"] = dict(
            results["arms"]["token"]["test"]["test"]["vqa/accuracy"], value=0.5, low=0.47, high=0.53
        )
    else:
        results["untested"] |= {
            "questions": "the data have captions but no question-answer pairs",
            "probes": "the data have captions but no question-answer pairs",
            "zero-shot transfer": "the data bring no split with held-out combinations or wordings",
        }
    return json.loads(json.dumps(results, allow_nan=False))


def with_paired_measurements(results: dict[str, Any]) -> dict[str, Any]:
    """Add the paired differences that a run may have beside those of the test splits: curves, latency, probes."""
    won = {"winner": "vljepa", "why": "interval excludes zero and all seeds agree in sign"}
    results["paired"]["curves"] = {
        metric: {"difference": 0.051, "low": 0.032, "high": 0.072, **won} for metric in results["convergence"]["token"]
    }
    results["paired"]["inference"] = {
        f"{mode}/{batch}": {"ratio": 2.77, "low": 2.61, "high": 2.93, **won}
        for mode in results["arms"]["token"]["inference"]
        for batch in results["arms"]["token"]["inference"][mode]
    }
    for method, targets in results["probes"].items():
        for target in targets:
            row = {"difference": 0.04, "low": 0.01, "high": 0.07, **won}
            results["paired"]["test"][f"probe/{method}/{target}"] = row
    return results


def _draw(rng: np.random.Generator, metric: str, level: float, seeds: int) -> np.ndarray:
    """Per-item values, (seeds, n)."""
    n = _GALLERY if metric.startswith("retrieval") else ITEMS
    if metric == "caption/cider_d":
        return np.abs(rng.normal(level, 1.5, (seeds, n)))
    return (rng.random((seeds, n)) < level + rng.normal(0, 0.004, (seeds, 1))).astype(float)


def _clusters(metric: str) -> np.ndarray:
    return np.arange(_GALLERY if metric.startswith("retrieval") else ITEMS) // 2


def _unit(metric: str) -> str:
    if metric == "caption/cider_d":
        return "CIDEr-D"
    return "recall" if metric.startswith("retrieval") else "F1" if metric == "caption/slots" else "accuracy"


def _score(values: np.ndarray, metric: str, chance: float | None = None) -> dict[str, Any]:
    return score(values, _clusters(metric), samples=_SAMPLES, seed=0, unit=_unit(metric), chance=chance).to_dict()


def _scored(items: dict[str, list[np.ndarray]], metrics: dict[str, Any], position: int) -> dict[str, Any]:
    return {metric: _score(pair[position], metric, metrics[metric][3]) for metric, pair in items.items()}


def _point(
    rng: np.random.Generator, metric: str, row: tuple[Any, ...], position: int, step: int, seeds: int
) -> dict[str, Any]:
    grown = 1 - np.exp(-step / (260 - 120 * position))
    low = row[2] * 0.9
    one = _score(_draw(rng, metric, low + (row[position] - low) * grown, seeds), metric)
    return {
        "step": step, "samples": 128 * step, "flops": 1.3e10 * (1 + 0.3 * position) * step,
        "seconds": step * (0.31 + 0.04 * position), "mean": one["value"], "low": one["low"], "high": one["high"],
        "per_seed": [one["value"]] * seeds,
    }  # fmt: skip


def _timings(p50: float) -> dict[str, dict[str, float]]:
    return {
        str(batch): {
            "calls": 30, "flops_per_sample": 2.5e7 * p50,
            "p50_ms": p50 * batch**0.6, "p95_ms": 1.2 * p50 * batch**0.6, "p99_ms": 1.5 * p50 * batch**0.6,
            "throughput_per_s": 1000 * batch**0.4 / p50,
        }
        for batch in (1, 8, 32)
    }  # fmt: skip


def _arm(
    position: int, arm: str, test: dict[str, Any], curves: dict[str, Any], seeds: int, price: float, questions: bool
) -> dict[str, Any]:
    modes = {mode: _timings(pair[position]) for mode, pair in _LATENCY.items() if questions or mode != "choose"}
    for mode in modes.values():
        for batch, row in mode.items():
            row |= {"memory_mib": 612.0 + 40 * position + int(batch), "gpu_memory": "not measured"}
    best = {mode: max(row["throughput_per_s"] for row in rows.values()) for mode, rows in modes.items()}
    parts = [
        {"backbone": 1_102_336, "head": 0, "target_encoder": 0, "decoder": 0, "encoder_frozen": 2_713_152},
        {
            "backbone": 1_102_336, "head": 16_512, "target_encoder": 551_168, "decoder": 601_984,
            "encoder_frozen": 2_713_152,
        },
    ][position]  # fmt: skip
    total = sum(parts.values())
    return {
        "parameters": {"trainable": total - parts["encoder_frozen"], "total": total, "parts": parts},
        "training": {
            "steps": 800, "samples": 102_400, "flops": 1.04e13 * (1 + 0.3 * position),
            "flops_per_step": 1.3e10 * (1 + 0.3 * position),
            "flops_parts": {"backbone": 1.0e13, "target_encoder": 2.9e12 * position},
            "seconds": [248.0 + 32 * position + seed for seed in range(seeds)], "samples_per_second": 412.0,
            "tokens_per_second": 15_300.0 - 1000 * position, "learning_rate": [0.001, 0.002][position],
            "peak_memory_mib": 1430.5 + 100 * position, "start_memory_mib": 410.2, "gpu_memory": "not measured",
        },
        "sweep": [
            {"learning_rate": rate, "score": 0.4 + 0.01 * i + 0.02 * position}
            for i, rate in enumerate([0.0005, 0.001, 0.002])
        ],
        "curves": curves,
        "test": test,
        "inference": modes,
        "tokens_per_second": 880.0 * (position + 1),
        "embeddings_per_second": 910.0 + position,
        "decode_steps": 14.2 - position,
        "cost": {"price_per_hour": price or None}
        | {
            mode: {"seconds_per_1000": 1000 / rate} | ({"cost_per_1000": price / rate / 3.6} if price else {})
            for mode, rate in best.items()
        },
    }  # fmt: skip


def _controls(rng: np.random.Generator, metrics: dict[str, Any], seeds: int, questions: bool) -> dict[str, Any]:
    def blind(share: float) -> dict[str, Any]:
        return {
            metric: _score(_draw(rng, metric, share * row[2], seeds), metric)
            for metric, row in metrics.items()
            if not metric.startswith("retrieval_pmi")
        }

    def only(prefix: str, factor: float) -> dict[str, Any]:
        return {
            metric: _score(_draw(rng, metric, min(factor * max(row[:2]), 0.97 if row[0] < 1 else 9), seeds), metric)
            for metric, row in metrics.items()
            if metric.startswith(prefix)
        }

    controls: dict[str, Any] = {
        "shuffled_image": {arm: blind(1.0) for arm in ARMS},
        "no_query": {arm: blind(0.9) for arm in ARMS},
        "decoder_ceiling": {"vljepa": only("caption/", 1.5)},
        "nearest_caption": {"vljepa": only("caption/", 0.8)},
    }
    if questions:
        controls["majority"] = {"both": {m: one for m, one in blind(0.95).items() if m in _QUESTIONS}}
        controls["supervised_head"] = {"both": only("vqa/", 1.1) | only("classification/", 1.2)}
        controls["trained_blind"] = {arm: blind(1.02) for arm in ARMS}
    return controls


def _probes(rng: np.random.Generator, seeds: int) -> dict[str, Any]:
    return {
        method: {
            target: {
                source: _score(_draw(rng, "vqa", level - lower, seeds), "vqa")
                for source, level in (("token", 0.61), ("vljepa", 0.66), ("features", 0.48))
            }
            for target in ("colour", "shape")
        }
        for method, lower in (("linear", 0.0), ("knn", 0.08))
    }


def _confusions(rng: np.random.Generator) -> dict[str, Any]:
    result = {}
    for kind, size in (("colour", 8), ("exists", 2)):
        labels = [f"{kind} {number}" for number in range(size)]
        truth = rng.integers(size, size=120)
        said = {arm: np.where(rng.random(120) < 0.7, truth, rng.integers(size, size=120)) for arm in ARMS}
        result[kind] = confusion([labels[i] for i in truth], {a: [labels[i] for i in said[a]] for a in ARMS})
    return result


def _examples(rng: np.random.Generator, questions: bool) -> list[dict[str, Any]]:
    examples = []
    for number in range(8):
        pixels = np.full((64, 64, 3), 225, np.uint8)
        left, top = rng.integers(4, 34, 2)
        pixels[top : top + 24, left : left + 24] = rng.integers(0, 200, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        ask = questions and number % 2 == 0
        examples.append(
            {
                "image_png_base64": base64.b64encode(buffer.getvalue()).decode("ascii"),
                "kind": "colour" if ask else "caption",
                "query": "what colour is the square" if ask else "describe the image",
                "answer": "teal" if ask else "a small teal square to the left of a grey ring on a plain background",
                "token": "teal" if ask else "a small teal square on a plain background",
                "vljepa": "olive" if number == 2 else "teal",
                "token_right": bool(ask),
                "vljepa_right": bool(ask and number != 2),
            }
        )
    return examples

"""`archlab bench train`: our training step beside that of the same model built from `transformers` and from `torch.nn`.

The token arm, decoders, and the encoder-decoder that `nn.Transformer` is.

All take their steps in turns in one process, so that whatever else the machine does hits all; the result is the median
ratio of the times of neighbouring steps, with a bootstrap interval over the rounds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from archlab import __version__, machine
from archlab.bench.decoder_peer import llama_contenders
from archlab.bench.gpt2_peer import gpt2_contenders
from archlab.bench.peer import Contender, Shape, token_arm_contenders
from archlab.bench.translator_peer import translator_contenders
from archlab.compare.flops import counted_flops
from archlab.compare.latency import alternate
from archlab.config import OptimizerConfig, TransformerConfig, to_dict
from archlab.progress import track
from archlab.train.folder import write_text
from archlab.train.optim import adamw

Precision = Literal["float32", "bfloat16"]

OURS = "archlab"
_ARMS: dict[str, Shape] = {
    # The trunk of the quick preset on a batch of captions: 16 visual tokens, a query and an answer.
    "trunk": Shape(128, 64, 1024, TransformerConfig()),
    "wide": Shape(32, 128, 4096, TransformerConfig(width=256, depth=6, heads=8, feed_forward=704)),
    "long": Shape(4, 512, 4096, TransformerConfig(width=512, depth=4, heads=8, feed_forward=1408)),
}
_LLAMAS = {f"{name} LLaMA": replace(shape, architecture="llama") for name, shape in _ARMS.items()}
_GPT2S = {
    f"{name} GPT-2": replace(shape, architecture="gpt2", stack=replace(shape.stack, feed_forward=4 * shape.stack.width))
    for name, shape in _ARMS.items()
}
_TRANSLATORS: dict[str, Shape] = {
    # The model of the recipe `translation` on a batch of its size, and a wider one; so many blocks on either side.
    "translator": Shape(160, 24, 10000, TransformerConfig(width=128, depth=4, heads=4, feed_forward=256), "translator"),
    "wide translator": Shape(
        32, 64, 8192, TransformerConfig(width=256, depth=4, heads=8, feed_forward=1024), "translator"
    ),
}
SHAPES = _ARMS | _LLAMAS | _GPT2S | _TRANSLATORS
CONTENDERS: dict[str, Callable[[Shape], dict[str, Contender]]] = {
    "token-arm": token_arm_contenders,
    "llama": llama_contenders,
    "gpt2": gpt2_contenders,
    "translator": translator_contenders,
}
LOSS_TOLERANCE = 1e-4
_BOOTSTRAP_SAMPLES = 2000


def bench_train(
    shapes: Mapping[str, Shape] = SHAPES,
    *,
    rounds: int = 30,
    warmup: int = 3,
    precision: Precision = "float32",
    out: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run the benchmark, print its table, and write its results to `out` if given.

    Args:
        shapes: name -> what to run.
        rounds: timed steps of each contender per shape.
        warmup: steps before that are not timed.
        precision: "bfloat16" is autocast, as in training.
        out: JSON file, written whole or not at all.
        clock: seconds.
    """
    peak = machine.matmul_peak(precision, clock=clock)
    results: dict[str, Any] = {
        **conditions(),
        "precision": precision,
        "matmul_peak_gflops": peak,
        "shapes": {},
    }
    with track("benchmark", len(shapes)) as progress:
        for name, shape in shapes.items():
            results["shapes"][name] = compare(
                shape, peak, rounds=rounds, warmup=warmup, precision=precision, clock=clock
            )
            progress.advance()
    print_table(results)
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
    return results


def conditions() -> dict[str, Any]:
    """Under which a benchmark ran: versions, machine and threads."""
    return {
        "archlab": __version__,
        "git": machine.git_commit(),
        "machine": machine.describe(),
        "threads": torch.get_num_threads(),
    }


def compare(
    shape: Shape,
    peak: float,
    *,
    rounds: int,
    warmup: int = 3,
    precision: Precision = "float32",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """All contenders on one shape.

    Args:
        peak: measured matrix-product peak, GFLOP/s.

    Returns:
        "contenders": name -> median milliseconds, tokens per second, operations per step, GFLOP/s, share of the peak;
        of each peer also "ratio": median, low and high of our time over its in the same round: below 1, ours is faster.

    Raises:
        RuntimeError: the contenders do not do equal work.
    """
    found = CONTENDERS[shape.architecture](shape)
    losses = check_equal_work(found)
    steps = {name: training_step(contender, precision) for name, contender in found.items()}
    flops = {name: counted_flops(step) for name, step in steps.items()}
    if len(set(flops.values())) > 1:
        raise RuntimeError(f"the contenders do not do equal work: {flops} operations per step")
    seconds = alternate(steps, rounds=rounds, warmup=warmup, clock=clock)
    measured: dict[str, dict[str, Any]] = {}
    for name, times in seconds.items():
        median = float(np.median(times))
        rate = flops[name] / median / 1e9
        measured[name] = {
            "milliseconds": median * 1e3,
            "tokens_per_second": shape.samples * shape.tokens / median,
            "flops_per_step": flops[name],
            "gflops": rate,
            "share_of_peak": rate / peak,
            "first_loss": losses[name],
        }
        if name != OURS:
            ratio, low, high = median_ratio(seconds[OURS], times)
            measured[name]["ratio"] = {"value": ratio, "low": low, "high": high}
    return {
        "architecture": shape.architecture,
        "samples": shape.samples,
        "tokens": shape.tokens,
        "vocabulary": shape.vocabulary,
        "stack": to_dict(shape.stack),
        "rounds": rounds,
        "contenders": measured,
    }


def check_equal_work(found: Mapping[str, Contender]) -> dict[str, float]:
    """Loss of each contender on the same batch with the same weights, in float32.

    Raises:
        RuntimeError: the losses differ, or the numbers of trained parameters do.
    """
    with torch.no_grad():
        losses = {name: float(contender.loss()) for name, contender in found.items()}
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        raise RuntimeError(f"the contenders do not do equal work: losses {losses} of the same weights and batch")
    trained = {name: sum(map(torch.Tensor.numel, _trainable(found[name].model))) for name in found}
    if len(set(trained.values())) > 1:
        raise RuntimeError(f"the contenders do not do equal work: {trained} trained parameters")
    return losses


def training_step(contender: Contender, precision: Precision) -> Callable[[], None]:
    """One update as the training loop does it: forward, backward, clipped gradients, AdamW."""
    config = OptimizerConfig()
    optimizer, parameters = adamw(contender.model, config=config), _trainable(contender.model)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = contender.loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimizer.step()

    return step


def median_ratio(ours: np.ndarray, theirs: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Median over rounds of `ours / theirs`, and its percentile bootstrap interval; rounds are drawn as pairs.

    Args:
        ours, theirs: seconds of each round, (rounds,).
        level: coverage of the interval.
    """
    ratios = ours / theirs
    draws = np.random.default_rng(0).integers(len(ratios), size=(_BOOTSTRAP_SAMPLES, len(ratios)))
    tail = (1 - level) / 2
    low, high = np.quantile(np.median(ratios[draws], axis=1), [tail, 1 - tail])
    return float(np.median(ratios)), float(low), float(high)


def print_table(results: Mapping[str, Any]) -> None:
    """Print the results of `bench_train`."""
    table = Table(
        title=f"Training step, {results['precision']}, {results['threads']} threads, "
        f"matrix-product peak {results['matmul_peak_gflops']:.0f} GFLOP/s",
        caption="ours / theirs: median ratio of the times, 95 % interval",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for header in ("shape", "code"):
        table.add_column(header, no_wrap=True)
    for header in ("tokens/s", "of peak", "ours / theirs"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, shape in results["shapes"].items():
        stack = shape["stack"]
        labels = name, f"{shape['samples']}x{shape['tokens']} {stack['width']}x{stack['depth']}"
        for row, (code, measured) in enumerate(shape["contenders"].items()):
            ratio = measured.get("ratio")
            table.add_row(
                labels[row] if row < len(labels) else "",
                code,
                f"{measured['tokens_per_second']:,.0f}",
                f"{measured['share_of_peak']:.0%}",
                f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "",
            )
        table.add_section()
    Console().print(table)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]

"""`archlab bench attention`: our attention layer beside the same layer that calls PyTorch's function by itself.

All have the same weights and take turns in one process, as in `bench.train`, over sequences of growing length. Each
call reads equally many tokens, so that the projections cost the same at every length and the scores ever more.

Shape legend: B samples, T tokens, W width, H heads, D width of a head.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.bench.attention_plot import plot
from archlab.bench.train import Precision, conditions, median_ratio
from archlab.compare.latency import alternate
from archlab.compare.memory import peak_allocation
from archlab.layers import masks
from archlab.layers.attention import Attention, set_implementation
from archlab.progress import track
from archlab.train.folder import write_text

Pass = Literal["forward", "forward and backward"]


@dataclass(frozen=True)
class Shape:
    """One benchmark: B samples of T tokens through one layer."""

    samples: int
    tokens: int
    width: int = 512
    heads: int = 8


SHAPES = tuple(Shape(2048 // tokens, tokens) for tokens in (64, 128, 256, 512, 1024, 2048))
OURS, READABLE, PEER, MASKED = "archlab", "archlab, readable", "torch", "torch, masked"
TOLERANCE = 1e-4
"""Largest difference of outputs and gradients, relative to the largest entry."""


@dataclass(frozen=True)
class Contender:
    """A layer.

    Attributes:
        forward: (B, T, W) -> (B, T, W).
        parameters: its weights.
    """

    forward: Callable[[Tensor], Tensor]
    parameters: tuple[nn.Parameter, ...]


def bench_attention(
    shapes: Sequence[Shape] = SHAPES,
    *,
    rounds: int = 20,
    warmup: int = 2,
    precision: Precision = "float32",
    out: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run the benchmark, print its tables, and write its results and their plot to `out` if given.

    It runs on the graphics processor if there is one.

    Args:
        shapes: what to run.
        rounds: timed calls of each contender per shape.
        warmup: calls before that are not timed.
        precision: of weights and inputs.
        out: JSON file, written whole or not at all; the plot is the PNG file of the same name beside it.
        clock: seconds.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {
        **conditions(),
        "precision": precision,
        "device": device.type,
        "rounds": rounds,
        "sections": [],
    }
    sections: list[tuple[bool, Pass]] = [(causal, which) for causal in (True, False) for which in get_args(Pass)]
    with track("benchmark", len(sections) * len(shapes)) as progress:
        for causal, which in sections:
            measured = []
            for shape in shapes:
                found, (x, upstream) = contenders(shape, causal, device), inputs(shape, device)
                check_equal_work(found, x, upstream)
                calls = prepare(found, which, x, upstream, precision)
                measured.append({**vars(shape), "contenders": compare(calls, device, rounds, warmup, clock)})
                progress.advance()
            results["sections"].append({"causal": causal, "pass": which, "shapes": measured})
    print_tables(results)
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
        plot(results, out.with_suffix(".png"))
    return results


def contenders(shape: Shape, causal: bool, device: torch.device, seed: int = 0) -> dict[str, Contender]:
    """The same layer in several ways, with the same weights.

    The peer is told by a flag that a token sees only those before it, its fastest way. Ours reads that from the mark of
    the mask, which every model makes once for all layers; a further call of PyTorch's function reads the mask itself.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fused = Attention(shape.width, shape.heads).to(device)
    readable = copy.deepcopy(fused)
    set_implementation(readable, "readable")
    mask = masks.lower_triangle(shape.tokens, device) if causal else None  # (1, 1, T, T)
    own = tuple(fused.parameters())
    found = {
        OURS: Contender(partial(fused, mask=mask), own),
        READABLE: Contender(partial(readable, mask=mask), tuple(readable.parameters())),
        PEER: Contender(partial(direct, fused, is_causal=causal), own),
    }
    if mask is not None:
        found[MASKED] = Contender(partial(direct, fused, attn_mask=mask.as_subclass(Tensor)), own)
    return found


def direct(layer: Attention, x: Tensor, **how: Any) -> Tensor:
    """What the layer computes, with PyTorch's function alone.

    Args:
        layer: whose weights are used.
        x: (B, T, W).
        how: options of `F.scaled_dot_product_attention`.

    Returns:
        (B, T, W).
    """
    queries, keys, values = (
        F.linear(x, projection.weight).unflatten(-1, (-1, layer.head_width)).transpose(1, 2)  # (B, H, T, D)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values, **how)
    return F.linear(mixed.transpose(1, 2).flatten(2), layer.out_proj.weight)


def inputs(shape: Shape, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random input and gradient of the output, (B, T, W) each."""
    generator = torch.Generator().manual_seed(seed)
    x, upstream = torch.randn(2, shape.samples, shape.tokens, shape.width, generator=generator).to(device)
    return x, upstream


def output_and_gradients(contender: Contender, x: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of the input and of every weight."""
    x = x.detach().requires_grad_()
    out = contender.forward(x)
    return out.detach(), *torch.autograd.grad(out, (x, *contender.parameters), upstream)


def check_equal_work(found: Mapping[str, Contender], x: Tensor, upstream: Tensor) -> None:
    """All give the output and the gradients that the peer gives, in float32.

    Raises:
        RuntimeError: one does not.
    """
    expected = output_and_gradients(found[PEER], x, upstream)
    for name, contender in found.items():
        for tensor, other in zip(output_and_gradients(contender, x, upstream), expected, strict=True):
            error = float((tensor - other).abs().max() / other.abs().max())
            if not error <= TOLERANCE:
                raise RuntimeError(
                    f"the contenders do not do equal work: {name} differs from {PEER} by {error:.1e} of the largest "
                    f"entry of an output or a gradient of shape {tuple(other.shape)}"
                )


def prepare(
    found: Mapping[str, Contender], which: Pass, x: Tensor, upstream: Tensor, precision: Precision
) -> dict[str, Callable[[], None]]:
    """What is timed, by name: one pass of each contender to its end, its weights now in this precision."""
    dtype = getattr(torch, precision)
    x, upstream = x.to(dtype), upstream.to(dtype)
    for contender in found.values():
        for parameter in contender.parameters:
            parameter.data = parameter.data.to(dtype)

    def work(contender: Contender) -> None:
        if which == "forward":
            with torch.no_grad():
                contender.forward(x)
        else:
            output_and_gradients(contender, x, upstream)
        if x.is_cuda:
            torch.cuda.synchronize()

    return {name: partial(work, contender) for name, contender in found.items()}


def compare(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Time and memory of each contender.

    Returns:
        name -> median milliseconds; `peak_bytes` allocated at once; "ratio": median, low and high of its time over the
        peer's in the same round, below 1 where it is faster.
    """
    peaks = {name: peak_allocation(call, device) for name, call in calls.items()}
    seconds = alternate(calls, rounds=rounds, warmup=warmup, clock=clock)
    return {
        name: {
            "milliseconds": float(np.median(times)) * 1e3,
            "peak_bytes": peaks[name],
            "ratio": dict(zip(("value", "low", "high"), median_ratio(times, seconds[PEER]), strict=True)),
        }
        for name, times in seconds.items()
    }


def print_tables(results: Mapping[str, Any]) -> None:
    """Print the results of `bench_attention`, one table for each mask and pass."""
    console = Console()
    for section in results["sections"]:
        shape = section["shapes"][0]
        table = Table(
            title=f"Attention layer, {'causal' if section['causal'] else 'bidirectional'}, {section['pass']}; "
            f"{results['device']}, {results['precision']}, {results['threads']} threads, "
            f"{shape['heads']} heads of {shape['width'] // shape['heads']}",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for header in ("tokens", f"{PEER} ms", OURS, "readable", "masked", "MiB"):
            table.add_column(header, justify="right", no_wrap=True)
        for row in section["shapes"]:
            table.add_row(str(row["tokens"]), *_cells(row["contenders"]))
        console.print(table)
    console.print(
        f"{OURS}, readable, masked: median ratio of the times to {PEER}'s, with the 95 % interval of ours. {PEER} is "
        f"F.scaled_dot_product_attention, told by a flag what is causal; masked, it reads the mask that ours reads. "
        f"MiB: allocated at once by {PEER} / {OURS} / readable."
    )


def _cells(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    ours = measured[OURS]["ratio"]
    return [
        f"{measured[PEER]['milliseconds']:.1f}",
        f"{ours['value']:.3f} ({ours['low']:.3f}-{ours['high']:.3f})",
        *(f"{measured[name]['ratio']['value']:.2f}" if name in measured else "" for name in (READABLE, MASKED)),
        " / ".join(f"{measured[name]['peak_bytes'] / 2**20:.0f}" for name in (PEER, OURS, READABLE)),
    ]

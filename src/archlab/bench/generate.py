"""`archlab bench generate`: our cached decoding beside `generate` of the same model in `transformers`.

All take their turns in one process, as in `bench.train`; the result is the median ratio of the times of neighbouring
calls, theirs over ours, which is the ratio of tokens per second. One call reads the prompts and chooses the likeliest
token until the new tokens are there; no token ends it early.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from archlab import machine
from archlab.bench.pair import pair
from archlab.bench.train import conditions, median_ratio
from archlab.compare.flops import counted_flops
from archlab.compare.latency import alternate
from archlab.config import build
from archlab.generate import engine
from archlab.generate.compiled import CompiledDecoder, has_compiler
from archlab.generate.settings import Settings
from archlab.models.protocols import Decoder
from archlab.models.registry import find
from archlab.progress import track
from archlab.train.folder import write_text

Precision = Literal["float32", "bfloat16"]
PEER = "transformers"


@dataclass(frozen=True)
class Shape:
    """One benchmark: a model with random weights, prompts of P random tokens, N new ones for each.

    Attributes:
        family: of the model.
        options: of its configuration, where they differ from the defaults.
        prompt, new: P and N.
    """

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    prompt: int = 32
    new: int = 64


SHAPES: dict[str, Shape] = {
    "10M": Shape(
        "llama",
        {
            "vocab_size": 8192,
            "context": 1024,
            "width": 320,
            "depth": 6,
            "heads": 5,
            "key_value_heads": 5,
            "feed_forward": 864,
            "tied": True,
        },
    ),
    "124M": Shape("gpt2"),
}
BATCHES = (1, 16)


def bench_generate(
    shapes: Mapping[str, Shape] = SHAPES,
    *,
    batches: tuple[int, ...] = BATCHES,
    rounds: int = 10,
    warmup: int = 1,
    precision: Precision = "float32",
    compiled: bool | None = None,
    out: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run the benchmark, print its table, and write its results to `out` if given.

    Args:
        shapes: name -> what to run.
        batches: prompts per call.
        rounds: timed calls of each contender per shape and batch.
        warmup: calls before that are not timed; they compile.
        precision: of the parameters.
        compiled: whether our compiled steps take part too; None: where there is a compiler.
        out: JSON file, written whole or not at all.
        clock: seconds.
    """
    compiled = has_compiler() if compiled is None else compiled
    bandwidth = machine.matvec_bandwidth(precision, clock=clock)
    results: dict[str, Any] = {
        **conditions(precision),
        "matvec_gb_per_second": bandwidth,
        "shapes": {},
    }
    with track("benchmark", len(shapes) * len(batches)) as progress:
        for name, shape in shapes.items():
            ours, theirs = pair(shape.family, shape.options)
            check_equal_work(ours, theirs, prompts(shape, 2))
            set_precision(ours, theirs, precision)
            contenders: dict[str, Callable[[Tensor, int], object]] = {"archlab": _ours(ours)}
            if compiled:
                contenders["archlab compiled"] = _ours(CompiledDecoder(ours))
            contenders[PEER] = _theirs(theirs)
            parameters = sum(parameter.numel() for parameter in theirs.parameters())
            measured = {}
            for batch in batches:
                measured[str(batch)] = compare(shape, contenders, batch, rounds=rounds, warmup=warmup, clock=clock)
                if batch == 1:
                    _add_share(measured["1"], bytes_per_token(ours, shape, precision), bandwidth)
                progress.advance()
            results["shapes"][name] = {
                "family": shape.family,
                "parameters": parameters,
                "prompt_tokens": shape.prompt,
                "new_tokens": shape.new,
                "rounds": rounds,
                "batches": measured,
            }
    print_table(results)
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
    return results


def compare(
    shape: Shape,
    contenders: Mapping[str, Callable[[Tensor, int], object]],
    batch: int,
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """All contenders on one batch of prompts.

    Returns:
        name -> median milliseconds of a call, tokens per second; "ratio": median, low and high of their time over ours
        in the same round: above 1, ours is faster.
    """
    tokens = prompts(shape, batch)
    calls = {name: _call(run, tokens, shape.new) for name, run in contenders.items()}
    seconds = alternate(calls, rounds=rounds, warmup=warmup, clock=clock)
    measured: dict[str, Any] = {}
    for name, times in seconds.items():
        median = float(np.median(times))
        measured[name] = {"milliseconds": median * 1e3, "tokens_per_second": batch * shape.new / median}
        if name != PEER:
            ratio, low, high = median_ratio(seconds[PEER], times)
            measured[name]["ratio"] = {"value": ratio, "low": low, "high": high}
    return measured


def prompts(shape: Shape, batch: int, seed: int = 0) -> Tensor:
    """Random ids (batch, P)."""
    vocabulary = build(find(shape.family).config_class, dict(shape.options)).vocab_size
    return torch.randint(vocabulary, (batch, shape.prompt), generator=torch.Generator().manual_seed(seed))


def check_equal_work(ours: Decoder, theirs: Any, tokens: Tensor, new: int = 4) -> None:
    """Both choose the same tokens, in float32.

    Raises:
        RuntimeError: they do not.
    """
    chosen, expected = _ours(ours)(tokens, new), _theirs(theirs)(tokens, new).tolist()
    if chosen != expected:
        raise RuntimeError(f"the contenders do not do equal work: they choose {chosen} and {expected}")


def set_precision(ours: Any, theirs: Any, precision: Precision) -> None:
    """Change the type of both models' parameters; rotary frequencies stay as they are in both."""
    for model in (ours, theirs):
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, precision))


def bytes_per_token(ours: Decoder, shape: Shape, precision: Precision) -> int:
    """Bytes that decoding one token of one sequence reads, halfway through the new tokens.

    Every multiplication of a matrix-vector product reads one number of the matrix, weights, keys and values alike.
    """
    cache = ours.new_cache()
    tokens = torch.zeros(1, shape.prompt + shape.new // 2, dtype=torch.long)
    with torch.no_grad():
        ours(tokens, cache=cache)
        multiplications = counted_flops(lambda: ours(tokens[:, :1], cache=cache)) // 2
    return multiplications * int(getattr(torch, precision).itemsize)


def print_table(results: Mapping[str, Any]) -> None:
    """Print the results of `bench_generate`."""
    table = Table(
        title=f"Generation, {results['precision']}, {results['threads']} threads, "
        f"matrix-vector products read {results['matvec_gb_per_second']:.1f} GB/s",
        caption="ratio: tokens per second over those of transformers, median and 95 % interval; above 1 ours is "
        "faster. of limit: share of what reading every weight, key and value once per token allows",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for header in ("model", "batch", "code"):
        table.add_column(header, no_wrap=True)
    for header in ("tokens/s", "of limit", "ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, shape in results["shapes"].items():
        for batch, measured in shape["batches"].items():
            for row, (code, values) in enumerate(measured.items()):
                ratio = values.get("ratio")
                table.add_row(
                    "" if row else f"{shape['family']} {name}",
                    "" if row else batch,
                    code,
                    f"{values['tokens_per_second']:,.0f}",
                    f"{values['share_of_limit']:.0%}" if "share_of_limit" in values else "",
                    f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "",
                )
            table.add_section()
    Console().print(table)


def _ours(model: Decoder) -> Callable[[Tensor, int], list[list[int]]]:
    return lambda tokens, new: engine.generate(model, tokens.tolist(), Settings(max_new_tokens=new))


def _theirs(model: Any) -> Callable[[Tensor, int], Tensor]:
    from transformers import GenerationConfig

    def run(tokens: Tensor, new: int) -> Tensor:
        settings = GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0, use_cache=True)
        generated: Tensor = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        return generated[:, tokens.shape[1] :]

    return run


def _call(run: Callable[[Tensor, int], object], tokens: Tensor, new: int) -> Callable[[], object]:
    return lambda: run(tokens, new)


def _add_share(measured: dict[str, Any], read: int, bandwidth: float) -> None:
    for values in measured.values():
        values["share_of_limit"] = values["tokens_per_second"] * read / 1e9 / bandwidth

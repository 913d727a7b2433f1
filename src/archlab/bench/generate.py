"""`archlab bench generate`: our cached decoding beside `generate` of the same model in `transformers`.

All take their turns in one process, as in `bench.train`, and so do the types of weights; the result is the median ratio
of the times of neighbouring calls with the same type, theirs over ours, which is the ratio of tokens per second. One
call reads the prompts and chooses the likeliest token until the new tokens are there; no token ends it early.
"""

from __future__ import annotations

import copy
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
from torch import Tensor, nn

from archlab import machine
from archlab.bench.pair import pair
from archlab.bench.products import only_products
from archlab.bench.quantised import quantisable, quantise
from archlab.bench.train import conditions, median_ratio
from archlab.compare.flops import counted_flops
from archlab.compare.latency import alternate
from archlab.config import build
from archlab.generate import engine
from archlab.generate.compiled import CompiledDecoder, has_compiler
from archlab.generate.layout import lay_out
from archlab.generate.settings import Settings
from archlab.models.protocols import Decoder
from archlab.models.registry import find
from archlab.progress import track
from archlab.train.folder import write_text

Precision = Literal["float32", "bfloat16", "int8"]
"""Of the weights; "int8" is `bench.quantised`."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
# Which matrix-vector products limit each: beside 8-bit weights there are others, and keys and values.
_LIMITS: dict[Precision, Literal["float32", "bfloat16"]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "float32",
}
PEER = "transformers"
PRODUCTS = "products"
"""Ours without anything but its products with matrices: the time that is left if all the rest takes none."""
Run = Callable[[Tensor, int], object]
"""Prompts (B, P) and how many tokens to continue each by."""


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
    precision: Precision | None = None,
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
        precision: of the weights; None: all of them in one run.
        compiled: whether our compiled steps take part too, in float32; None: where there is a compiler.
        out: JSON file, written whole or not at all.
        clock: seconds.
    """
    compiled = has_compiler() if compiled is None else compiled
    precisions = PRECISIONS if precision is None else (precision,)
    limits = dict.fromkeys(_LIMITS[kind] for kind in precisions)
    bandwidths = {kind: machine.matvec_bandwidth(kind, clock=clock) for kind in limits}
    results: dict[str, Any] = {
        **conditions(),
        "matvec_gb_per_second": bandwidths,
        "shapes": {},
    }
    with track("benchmark", len(shapes) * len(batches)) as progress:
        for name, shape in shapes.items():
            ours, theirs = pair(shape.family, shape.options)
            read = {kind: bytes_per_token(ours, shape, kind) for kind in precisions}
            parameters = sum(parameter.numel() for parameter in theirs.parameters())
            measured = {}
            for batch in batches:
                contenders = prepare(shape, ours, theirs, precisions, batch, compiled=compiled)
                measured[str(batch)] = compare(shape, contenders, batch, rounds=rounds, warmup=warmup, clock=clock)
                progress.advance()
            for kind in precisions if 1 in batches else ():
                for values in measured["1"][kind].values():
                    gb_per_second = values["tokens_per_second"] * read[kind] / 1e9
                    values["share_of_limit"] = gb_per_second / bandwidths[_LIMITS[kind]]
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


def prepare(
    shape: Shape, ours: Any, theirs: Any, precisions: tuple[Precision, ...], batch: int, *, compiled: bool
) -> dict[Precision, dict[str, Run]]:
    """The contenders: precision -> name -> how it generates; ours is laid out as `archlab generate` does it.

    Raises:
        RuntimeError: ours and theirs do not choose the same tokens in float32.
    """
    contenders: dict[Precision, dict[str, Run]] = {}
    for precision in precisions:
        pair = (quantise(ours), quantise(theirs)) if precision == "int8" else copy.deepcopy((ours, theirs))
        if precision == "bfloat16":
            to_bfloat16(*pair)
        lay_out(pair[0], batch)
        if precision == "float32":
            check_equal_work(*pair, prompts(shape, 2))
        products = only_products(pair[0], prompts(shape, batch))
        contenders[precision] = {"archlab": _ours(pair[0])}
        if precision == "float32" and compiled:
            contenders[precision]["compiled"] = _ours(CompiledDecoder(pair[0]))
        contenders[precision][PRODUCTS] = products
        contenders[precision][PEER] = _theirs(pair[1])
    return contenders


def compare(
    shape: Shape,
    contenders: Mapping[Precision, Mapping[str, Run]],
    batch: int,
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """All contenders on one batch of prompts.

    Returns:
        precision -> name -> median milliseconds of a call, tokens per second; "ratio": median, low and high of their
        time over ours in the same round and precision: above 1, ours is faster; "share_of_products": likewise, that of
        our products alone over ours.
    """
    tokens = prompts(shape, batch)
    calls = {
        f"{code} {precision}": _call(run, tokens, shape.new)
        for precision, codes in contenders.items()
        for code, run in codes.items()
    }
    seconds = alternate(calls, rounds=rounds, warmup=warmup, clock=clock)
    measured: dict[str, Any] = {}
    for precision, codes in contenders.items():
        measured[precision] = {}
        for code in codes:
            times = seconds[f"{code} {precision}"]
            median = float(np.median(times))
            values: dict[str, Any] = {"milliseconds": median * 1e3, "tokens_per_second": batch * shape.new / median}
            if code not in (PEER, PRODUCTS):
                for key, other in (("ratio", PEER), ("share_of_products", PRODUCTS)):
                    ratio, low, high = median_ratio(seconds[f"{other} {precision}"], times)
                    values[key] = {"value": ratio, "low": low, "high": high}
            measured[precision][code] = values
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


def to_bfloat16(*models: nn.Module) -> None:
    """Change the type of the models' parameters; rotary frequencies stay as they are."""
    for model in models:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)


def bytes_per_token(ours: Decoder, shape: Shape, precision: Precision) -> int:
    """Bytes that decoding one token of one sequence reads, halfway through the new tokens.

    Every multiplication of a matrix-vector product reads one number of the matrix, weights, keys and values alike.

    Args:
        ours: the model in float32.
    """
    assert isinstance(ours, nn.Module)
    cache = ours.new_cache()
    tokens = torch.zeros(1, shape.prompt + shape.new // 2, dtype=torch.long)
    with torch.no_grad():
        ours(tokens, cache=cache)
        numbers = counted_flops(lambda: ours(tokens[:, :1], cache=cache)) // 2
    if precision == "bfloat16":
        return 2 * numbers
    small = sum(layer.weight.numel() for layer in quantisable(ours).values()) if precision == "int8" else 0
    return 4 * (numbers - small) + small


def print_table(results: Mapping[str, Any]) -> None:
    """Print the results of `bench_generate`."""
    speeds = ", ".join(
        f"{speed:.1f} GB/s in {precision}" for precision, speed in results["matvec_gb_per_second"].items()
    )
    table = Table(
        title=f"Generation, {results['threads']} threads; matrix-vector products read {speeds}",
        caption="ratio: tokens per second over those of transformers with weights of the same type, median and 95 % "
        "interval; above 1 ours is faster. memory: share of what reading every weight, key and value once per token at "
        "that speed allows. matvec: share of its own products with matrices in its time",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,  # all columns fit into 80 characters
    )
    for header in ("model, batch", "weights", "code"):
        table.add_column(header, no_wrap=True)
    for header in ("tokens/s", "memory", "matvec", "ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, shape in results["shapes"].items():
        for batch, measured in shape["batches"].items():
            first = f"{shape['family']} {name}, {batch}"
            for precision, codes in measured.items():
                for code, values in codes.items():
                    ratio, products = values.get("ratio"), values.get("share_of_products")
                    table.add_row(
                        first,
                        precision if code == next(iter(codes)) else "",
                        code,
                        f"{values['tokens_per_second']:,.0f}",
                        f"{values['share_of_limit']:.0%}" if "share_of_limit" in values else "",
                        f"{products['value']:.0%}" if products else "",
                        f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "",
                    )
                    first = ""
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


def _call(run: Run, tokens: Tensor, new: int) -> Callable[[], object]:
    return lambda: run(tokens, new)

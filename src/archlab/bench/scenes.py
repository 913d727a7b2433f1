"""`archlab bench scenes`: how fast the built-in world is drawn, beside reading the same pictures from PNG files.

One thread draws, so the figures are per core. Reading files is what a stored data set would cost at the least: its
bytes lie in memory, and its texts are not even looked at.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from archlab.bench.train import conditions
from archlab.compare.latency import alternate, paired_ratio
from archlab.data.scenes.dataset import SceneDataConfig, build_scenes
from archlab.data.scenes.render import render
from archlab.data.scenes.world import sample_scenes
from archlab.train.folder import write_text

DRAWN, WORDED, READ = "scenes and pictures", "and their questions and captions", "read from PNG"
_SEED = 0  # of the intervals


def bench_scenes(
    images: int = 1000,
    *,
    rounds: int = 20,
    out: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run the benchmark, print its table, and write its results to `out` if given.

    Args:
        images: pictures of one timed call.
        rounds: timed calls of each, in turns.
        out: JSON file, written whole or not at all.
        clock: seconds.
    """
    config = SceneDataConfig(train_images=images, validation_images=1, test_images=1)

    def draw() -> np.ndarray:
        return render(sample_scenes(images, config), config.image_size)

    files = [_png(picture) for picture in draw()]
    timed = alternate(
        {
            DRAWN: draw,
            WORDED: lambda: build_scenes(config),
            READ: lambda: [np.asarray(Image.open(io.BytesIO(file))) for file in files],
        },
        rounds=rounds,
        warmup=1,
        clock=clock,
    )
    seconds = {name: found.tolist() for name, found in timed.items()}
    results = {
        **conditions(),
        "images": images,
        "image_size": config.image_size,
        "questions_per_image": config.questions_per_image,
        "rounds": rounds,
        "ways": {
            name: {
                "images_per_second": float(images / np.median(found)),
                "over_reading": paired_ratio(found, seconds[READ], samples=1000, seed=_SEED),
            }
            for name, found in seconds.items()
        },
    }
    _print_table(results)
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
    return results


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _print_table(results: Mapping[str, Any]) -> None:
    side = results["image_size"]
    table = Table(title=f"The built-in scenes, {side} x {side} pixels, one core", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for header in ("images/s", "time over reading them"):
        table.add_column(header, justify="right")
    for name, found in results["ways"].items():
        ratio = found["over_reading"]
        shown = "1" if name == READ else f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        table.add_row(name, f"{found['images_per_second']:,.0f}", shown)
    Console().print(table)

"""Every variant in every runtime: scores, size, memory, and latency with all of them in turns."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from archlab.compare.inference import ask_once, encode_request, modes_of
from archlab.compare.latency import measure_latency
from archlab.compare.memory import peak_memory_of
from archlab.compress.recipe import DENSE, Runtime
from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement
from archlab.evaluate.whole_split import measure_answerer
from archlab.export.manifest import NAME, Manifest
from archlab.machine import computing_threads
from archlab.progress import announce, track
from archlab.train.checkpoint import load_checkpoint
from archlab.train.folder import write_text
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer

SPLITS = ("validation", "test")
TIMED = ("choose", "caption")
ENCODER = "encoder"

_MEMORY_BATCH = 8
_CHUNK = 2**20


@dataclass(frozen=True)
class Row:
    """A variant in a runtime.

    Attributes:
        folder: of the variant's run; its export lies below.
        arm, variant: what it is.
    """

    folder: Path
    arm: str
    variant: str
    runtime: Runtime

    @property
    def name(self) -> str:
        """For keys: "token/structured-50/onnx"."""
        return f"{self.arm}/{self.variant}/{self.runtime}"

    def open(self) -> Answerer:
        """Ready to be asked, on the CPU."""
        return open_variant(str(self.folder), self.runtime)

    def scores(self, split: str) -> Path:
        """Where its scores are kept, item by item."""
        return self.folder / "scores" / f"{self.runtime}-{split}.json"


def open_variant(folder: str, runtime: Runtime) -> Answerer:
    """Open a run, or its export."""
    if runtime == "torch":
        return Answerer.open(Path(folder))
    from archlab.export.opening import open_export  # needs ONNX Runtime, which comes with the service

    return open_export(Path(folder) / "onnx", "int8" if runtime == "onnx-int8" else "fp32")


def rows_of(folder: Path, arm: str, variant: str, runtimes: Sequence[Runtime]) -> list[Row]:
    """The rows of a variant; exports it where a runtime needs that and it was not done before.

    What is in bfloat16 is not exported: ONNX Runtime computes in float32 on a CPU, and the rows would be those of the
    run itself but for rounding. What cannot be exported at all has one row, in torch.
    """
    torch_only = [Row(folder, arm, variant, "torch")]
    checkpoint = load_checkpoint(folder, RunConfig)
    if checkpoint.config.compression.method == "bfloat16" or set(runtimes) == {"torch"}:
        return torch_only
    export = folder / "onnx"
    if not (export / NAME).is_file() or Manifest.load(export).run_digest != checkpoint.digest():
        from archlab.export.onnx import export_onnx

        try:
            export_onnx(folder, export, int8=True)
        except UserError as error:
            announce(f"{error}; {arm}, {variant} is measured in torch alone")
            return torch_only
    return [Row(folder, arm, variant, runtime) for runtime in runtimes]


def measure_rows(rows: Sequence[Row], setups: dict[str, Setup], split: str) -> None:
    """Score every row on a split, where that was not done before.

    Args:
        setups: by arm.
    """
    left = [row for row in rows if not row.scores(split).exists()]
    with track(f"{split} split", len(rows), done=len(rows) - len(left)) as progress:
        for row in left:
            measure_answerer(row.open(), setups[row.arm], split).save(row.scores(split))
            progress.advance()


def record_int8(rows: Sequence[Row]) -> None:
    """Let the exports know what int8 costs on validation, so that the service takes it where it costs little."""
    runtimes = {(row.folder, row.runtime): row for row in rows}
    for folder in dict.fromkeys(row.folder for row in rows):
        both = [runtimes.get((folder, runtime)) for runtime in ("onnx", "onnx-int8")]
        if both[0] is None or both[1] is None:
            continue
        from archlab.export.accuracy import SPLIT, accuracy_of, record

        accuracy = accuracy_of(load_scores(both[0], SPLIT), load_scores(both[1], SPLIT))
        record(folder / "onnx", folder, accuracy)


def footprint(row: Row) -> dict[str, Any]:
    """Size of its files and memory of a process that answers with it; kept beside its scores.

    Returns:
        `bytes`, `compressed_bytes` (DEFLATE) of the arm alone; `encoder_bytes` of the encoder that comes with it;
        and what `compare.memory.peak_memory_of` gives.
    """
    path = row.folder / "scores" / f"{row.runtime}-footprint.json"
    if not path.exists():
        files, encoder = _files(row)
        found = {
            "bytes": sum(file.stat().st_size for file in files),
            "compressed_bytes": sum(map(_compressed, files)),
            "encoder_bytes": encoder,
            **peak_memory_of(answer_variant, str(row.folder.resolve()), row.runtime, _MEMORY_BATCH),
        }
        write_text(path, json.dumps(found) + "\n")
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))


def answer_variant(folder: str, runtime: Runtime, size: int) -> None:
    """Open a variant and ask it once: what a serving process holds in memory."""
    ask_once(open_variant(folder, runtime), size)


def measure_times(
    rows: Sequence[Row], setups: dict[str, Setup], batches: Sequence[int], rounds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Time every row, one request of each in turn; and the encoder in every runtime, which all requests contain.

    Returns:
        "ARM/VARIANT/RUNTIME/MODE", or "encoder/RUNTIME" -> batch size -> see `measure_latency`.
    """
    requests = {}
    for row in rows:
        answerer = row.open()
        setup = replace(setups[row.arm], encoder=cast(Any, answerer.encoder))
        for mode, prepare in modes_of(answerer.readout, setup).items():
            if mode in TIMED:
                requests[f"{row.name}/{mode}"] = prepare
        if row.variant == DENSE:
            requests.setdefault(f"{ENCODER}/{row.runtime}", partial(encode_request, setup))
    before = torch.get_num_threads()
    torch.set_num_threads(computing_threads())  # as many as ONNX Runtime is given
    try:
        return measure_latency(requests, batches, count=rounds)
    finally:
        torch.set_num_threads(before)


def load_scores(row: Row, split: str) -> Measurement:
    """What `measure_rows` found."""
    return Measurement.load(row.scores(split))


def _files(row: Row) -> tuple[list[Path], int]:
    """Files of the arm, and bytes of the encoder."""
    if row.runtime == "torch":
        encoder = row.open().encoder.model
        return [row.folder / "model.safetensors"], sum(
            tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values()
        )
    exported, int8 = sorted((row.folder / "onnx").glob("*.onnx")), row.runtime == "onnx-int8"
    graphs = [path for path in exported if path.name.endswith(".int8.onnx") == int8]
    encoders = [path for path in graphs if path.name.partition(".")[0] == "encoder"]
    return [path for path in graphs if path not in encoders], sum(path.stat().st_size for path in encoders)


def _compressed(path: Path) -> int:
    compressor, size = zlib.compressobj(9), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())

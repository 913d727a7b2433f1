"""From a folder to an engine: a run, of images or of text, or an export of one."""

from __future__ import annotations

import functools
import gc
import logging
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from archlab.children import Children
from archlab.config import RunConfig
from archlab.data.features import cache_folder
from archlab.errors import UserError
from archlab.export.card import served_as_int8
from archlab.export.manifest import NAME, Manifest
from archlab.machine import computing_threads
from archlab.serve.characters_engine import CharactersEngine
from archlab.serve.encoder_engine import EncoderEngine
from archlab.serve.engine import About, Backend, Engine
from archlab.serve.errors import NotReady
from archlab.serve.text_engine import SentimentEngine, TranslationEngine
from archlab.serve.vision_engine import VisionEngine
from archlab.train.checkpoint import Checkpoint, load_checkpoint
from archlab.train.recipes import RECIPES, recipe_of
from archlab.vl.answering import Answerer

Choice = Literal["auto", "torch", "onnx", "onnx-int8"]

_LOG = logging.getLogger(__name__)

_RUNS_IN_TORCH: dict[str, Callable[[Path, str], Engine]] = {  # recipes whose runs are not exported
    "translation": TranslationEngine,
    "sentiment": SentimentEngine,
    "characters": CharactersEngine,
    "pretrain": EncoderEngine,
}


def open_engine(folder: Path, backend: Choice = "auto", children: Children | None = None) -> Engine:
    """Open a finished run of any recipe, or a folder that `archlab export` wrote.

    Args:
        backend: "auto" computes in torch where there is a GPU, and in ONNX Runtime on a CPU: in int8 where the export
            records that it costs less than half a point of task accuracy. A run that was not exported yet is exported
            into the cache first. What cannot be exported is computed in torch.
        children: that export; they may be ended by another thread.

    Raises:
        UserError: the folder holds nothing that can be served, or not by this backend.
        NotReady: the children were ended before the export was done.
    """
    check_served(folder, backend)
    if (folder / NAME).is_file():
        return _exported(folder, _precision(folder, backend), None)
    if (recipe := recipe_of(folder)) in _RUNS_IN_TORCH:
        return _RUNS_IN_TORCH[recipe](folder, _device())
    checkpoint = _run_of_an_arm(folder)
    export = _export_for(checkpoint, backend, children)
    if export is None:
        return _in_torch(checkpoint, _device())
    return _exported(export, _precision(export, backend), checkpoint)


def check_served(folder: Path, backend: Choice = "auto") -> None:
    """Refuse a folder that holds nothing to serve, as far as that can be told without loading weights.

    Args, Raises: see `open_engine`.
    """
    if (folder / NAME).is_file():
        if backend == "torch":
            raise UserError(f"export {folder}: holds no PyTorch weights; give the run, or take another backend")
        Manifest.load(folder)
    elif (recipe := recipe_of(folder)) in _RUNS_IN_TORCH:
        if backend in ("onnx", "onnx-int8"):
            raise UserError(f"run {folder}: runs of {recipe} are served in torch; take the backend auto or torch")
        load_checkpoint(folder, RECIPES[recipe].config)
    else:
        _run_of_an_arm(folder)


def prepare(folder: Path, backend: Choice = "auto", children: Children | None = None) -> Choice:
    """Export what `open_engine` would export; the backend to open it with then: torch, where it cannot be exported.

    Args, Raises: see `open_engine`.
    """
    if (folder / NAME).is_file() or recipe_of(folder) in _RUNS_IN_TORCH:
        return backend
    return backend if _export_for(_run_of_an_arm(folder), backend, children) else "torch"


def _run_of_an_arm(folder: Path) -> Checkpoint[RunConfig]:
    if recipe_of(folder) == "comparison":
        raise UserError(f"run {folder}: is a comparison, not one model; give one of its runs, {folder / 'runs'}/NAME")
    checkpoint = load_checkpoint(folder, RunConfig)
    if checkpoint.config.arm == "supervised":
        raise UserError(
            f"run {folder}: is the supervised head of a comparison, a control that knows nothing but the answers it "
            f"was trained on; give a run of the token or the vljepa arm"
        )
    return checkpoint


def _export_for(checkpoint: Checkpoint[RunConfig], backend: Choice, children: Children | None) -> Path | None:
    """The export of a run that this backend computes, made where there is none yet; None: it computes in torch."""
    if backend == "torch" or (backend == "auto" and (_device() == "cuda" or find_spec("onnxruntime") is None)):
        return None
    try:
        return _export_of(checkpoint, children or Children())
    except UserError as error:
        if backend != "auto":
            raise
        _LOG.warning("%s; it is served in torch", error)
        return None


def limit_threads() -> None:
    """Let PyTorch compute on as many threads as ONNX Runtime: others would wait, awake, on cores that are needed."""
    torch.set_num_threads(computing_threads())


def settle_memory() -> None:
    """Collect what loading left behind, and take the rest out of the collector's sight.

    A full collection walks through everything that a loaded model holds, while all requests wait.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _in_torch(checkpoint: Checkpoint[RunConfig], device: str) -> VisionEngine:
    answerer = Answerer.open(checkpoint.folder, device)
    about = About(
        arm=answerer.arm,
        card=checkpoint.card(),
        digest=checkpoint.digest(),
        backend="torch",
        image_size=answerer.encoder.image_size,
        width=answerer.readout.text_vectors([""]).shape[1],
        scale=answerer.scale,
    )
    return VisionEngine(answerer, about, lambda: answerer)


def _exported(export: Path, backend: Backend, checkpoint: Checkpoint[RunConfig] | None) -> VisionEngine:
    from archlab.export.opening import CARD, open_export

    manifest, card = Manifest.load(export), (export / CARD).read_text(encoding="utf-8")
    about = About(
        arm=manifest.arm,
        card=served_as_int8(card) if backend == "onnx-int8" else card,
        digest=manifest.run_digest,
        backend=backend,
        image_size=manifest.image_size,
        width=manifest.width,
        scale=manifest.scale,
    )
    # A graph shows no attention: where there is the run, its PyTorch model does, opened when it is first asked to.
    readable = None if checkpoint is None else functools.cache(lambda: Answerer.open(checkpoint.folder))
    return VisionEngine(open_export(export, "int8" if backend == "onnx-int8" else "fp32"), about, readable)


def _precision(export: Path, backend: Choice) -> Backend:
    if backend == "onnx" or backend == "onnx-int8":
        return backend
    return "onnx-int8" if Manifest.load(export).served_as_int8 else "onnx"


def _export_of(checkpoint: Checkpoint[RunConfig], children: Children) -> Path:
    """The export of a run: the one beside it, or the one in the cache, which is made where there is none.

    Raises:
        UserError: it cannot be made.
        NotReady: see `open_engine`.
    """
    run, digest = checkpoint.folder, checkpoint.digest()
    beside, cached = run / "onnx", cache_folder() / f"onnx-{digest[:32]}"
    for folder in (beside, cached):
        if (folder / NAME).is_file() and Manifest.load(folder).run_digest == digest:
            return folder
    _LOG.info("run %s: is exported to ONNX first, once; that takes about a minute", run)
    started = time.monotonic()
    # In a process of its own: it takes the memory of the exporter with it, and other models go on answering.
    command = [sys.executable, "-P", "-m", "archlab", "export", str(run), "--to", "onnx", "--out", str(cached)]
    done = children.run(command)
    if done.returncode:
        if children.ended:
            raise NotReady(f"run {run.name}: its export was given up")
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("archlab: error: ")
        raise UserError(f"run {run}: cannot be exported ({reason})")
    _LOG.info("run %s: was exported in %.0f seconds; it is read from %s now", run, time.monotonic() - started, cached)
    return cached

"""`archlab export RUN --to onnx`: a run about images as ONNX graphs that need no PyTorch model."""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from archlab.config import RunConfig
from archlab.errors import UserError
from archlab.export.graphs import Graph, graphs_of
from archlab.export.manifest import NAME, Manifest, digest_of
from archlab.export.opening import COPIED, graph_file, open_export
from archlab.export.parity import compare
from archlab.progress import track
from archlab.train.checkpoint import load_checkpoint
from archlab.vl.answering import Answerer

_OPSET = 20
_PRODUCTS = ["MatMul", "Gemm"]
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


def export_onnx(run: Path, out: Path, *, int8: bool = False) -> Manifest:
    """Export a run into a folder of its own, which appears whole and checked, or not at all.

    Args:
        run: folder of a finished run of the token or the vljepa arm.
        out: an older export there is replaced.
        int8: also write graphs whose matrices are int8 and whose activations are made so as they come.

    Raises:
        UserError: the run cannot be read or exported, `out` is no export, or a graph computes something else than
            PyTorch.
    """
    if out.exists() and not (out / NAME).is_file():
        raise UserError(f"output folder {out}: exists and is no export; name another with --out, or remove it")
    answerer = Answerer.open(run)
    answerer.readout.arm.float()  # of bfloat16, ONNX Runtime on a CPU has too few operators
    graphs = graphs_of(answerer)
    with _partial(out) as partial:
        _write(graphs, partial, int8=int8)
        for name in COPIED:
            shutil.copyfile(run / name, partial / name)
        manifest = _manifest(run, answerer, partial, {})
        manifest.save(partial)
        manifest = _manifest(run, answerer, partial, compare(answerer, open_export(partial)))
        manifest.save(partial)
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    return manifest


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write the export into; what is left of it goes, and so does what killed exporters left.

    A lock on the folder ends with the process that holds it, also where that is one of another container.
    """
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        with suppress(OSError), _locked(left):  # else it is being written
            shutil.rmtree(left)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        with _locked(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock inside the block; raises `BlockingIOError` where another process does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _write(graphs: dict[str, Graph], folder: Path, *, int8: bool) -> None:
    with track("export", len(graphs)) as progress, _quiet():
        for name, graph in graphs.items():
            path = folder / graph_file(name, "fp32")
            _export(graph, path)
            if int8:
                _quantize(path, folder / graph_file(name, "int8"), spare_last=graph.whitened)
            progress.advance(1)


def _export(graph: Graph, path: Path) -> None:
    axes = tuple(dict.fromkeys(graph.dynamic[name], torch.export.Dim.DYNAMIC) for name in graph.inputs)
    # Modules that take their inputs as *inputs have one argument, a tuple.
    variadic = "inputs" in graph.module.forward.__code__.co_varnames
    program = torch.onnx.export(
        graph.module.eval(),
        tuple(graph.inputs.values()),
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=(axes,) if variadic else axes,
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)


def _quantize(path: Path, to: Path, *, spare_last: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path)
    # The exporter notes the shapes of what it has folded away since; the quantiser finds them out by itself.
    del graph.graph.value_info[:]
    products = [node.name for node in graph.graph.node if node.op_type in _PRODUCTS]
    quantize_dynamic(
        graph,
        to,
        op_types_to_quantize=_PRODUCTS,
        nodes_to_exclude=products[-1:] if spare_last else [],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def _manifest(run: Path, answerer: Answerer, folder: Path, parity: dict[str, float]) -> Manifest:
    checkpoint = load_checkpoint(run, RunConfig)
    encoder = answerer.encoder
    return Manifest(
        run=run.resolve().name,
        run_digest=checkpoint.digest(),
        encoder_digest=encoder.digest,
        arm=answerer.arm,
        image_size=encoder.image_size,
        visual_tokens=encoder.tokens,
        feature_width=encoder.width,
        width=answerer.readout.text_vectors([""]).shape[1],
        scale=answerer.scale,
        files={path.name: digest_of(path) for path in sorted(folder.iterdir()) if path.name != NAME},
        parity=parity,
        versions={tool: version(tool) for tool in _TOOLS},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the exporter and of the quantiser about what they leave as it is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

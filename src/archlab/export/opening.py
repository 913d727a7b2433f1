"""An exported folder, opened to be asked like the run that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from archlab.config import RunConfig, load
from archlab.data.tokenizer import TextTokenizer
from archlab.evaluate.readout import EmbeddingReadout, TokenReadout
from archlab.export.manifest import Manifest
from archlab.export.sessions import ExportedEmbeddingArm, ExportedEncoder, ExportedTokenArm, open_graph
from archlab.vl.answering import Answerer

Precision = Literal["fp32", "int8"]

CONFIG, TOKENIZER, CARD = COPIED = ("config.yaml", "tokenizer.json", "card.md")
"""Files of the run that an export holds too."""

_GRAPHS = {
    "token": ("encoder", "pool", "read", "continue"),
    "vljepa": ("encoder", "predict", "text", "read", "continue"),
}


def graph_file(name: str, precision: Precision) -> str:
    """File of a graph."""
    return f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"


def open_export(folder: Path, precision: Precision = "fp32") -> Answerer:
    """The exported run; its arm and its encoder are graphs in ONNX Runtime.

    Raises:
        UserError: a file is missing, damaged, or not the one that was exported.
    """
    manifest = Manifest.load(folder)
    files = {name: graph_file(name, precision) for name in _GRAPHS[manifest.arm]}
    manifest.check(folder, dict.fromkeys([CONFIG, TOKENIZER, *files.values()]))
    config, tokenizer = load(folder / CONFIG, RunConfig), TextTokenizer.load(folder / TOKENIZER)
    graphs = {name: open_graph(folder / file) for name, file in files.items()}
    encoder = ExportedEncoder(
        graphs["encoder"],
        manifest.image_size,
        manifest.visual_tokens,
        manifest.feature_width,
        manifest.files[files["encoder"]],
    )
    longest = config.tokenizer.max_target
    readout: TokenReadout | EmbeddingReadout
    if manifest.arm == "token":
        readout = TokenReadout(cast(Any, ExportedTokenArm(graphs, manifest.feature_width)), tokenizer, longest)
    else:
        readout = EmbeddingReadout(cast(Any, ExportedEmbeddingArm(graphs)), tokenizer, longest)
    return Answerer(config, cast(Any, encoder), tokenizer, readout, manifest.scale)

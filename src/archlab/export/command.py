"""`archlab export RUN --to onnx`: write, check, and say what was found."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from archlab.export.card import HEADER, rows, verdict
from archlab.export.manifest import Accuracy
from archlab.export.onnx import export_onnx


def export_run(run: Path, out: Path, *, int8: bool, evaluate: bool) -> None:
    """Export a run, and print how far it is from PyTorch and what int8 costs.

    Args:
        int8: also write int8.
        evaluate: measure the task accuracy of int8, so that the service may choose it.

    Raises:
        UserError: see `export_onnx` and `record_accuracy`.
    """
    manifest = export_onnx(run, out, int8=int8)
    console = Console()
    table = Table("quantity", "largest difference from PyTorch", title=f"{manifest.run}, float32")
    for name, difference in manifest.parity.items():
        table.add_row(name, f"{difference:.2g}")
    console.print(table)
    sizes = {path: path.stat().st_size for path in sorted(out.glob("*.onnx"))}
    for precision, paths in (
        ("float32", [path for path in sizes if ".int8" not in path.name]),
        ("int8", [path for path in sizes if ".int8" in path.name]),
    ):
        if paths:
            console.print(f"{precision}: {len(paths)} graphs, {sum(sizes[path] for path in paths) / 1e6:.1f} MB")
    if evaluate:
        from archlab.export.accuracy import record_accuracy

        console.print(_accuracy_table(record_accuracy(out, run)))


def _accuracy_table(accuracy: Accuracy) -> Table:
    table = Table(*HEADER, title=f"int8, {accuracy.split}: {verdict(accuracy)}")
    for row in rows(accuracy):
        table.add_row(*row)
    return table

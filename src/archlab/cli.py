"""The command line. It reads arguments and calls the package; the imports wait until the command is known.

Whatever a user can cause is one line on standard error and exit code 2, never a traceback; an interruption is 130.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from archlab import __version__
from archlab.errors import UserError

_PRESETS = Path(__file__).parent / "compare" / "presets"
_OVERRIDES = "configuration keys to change, as run.optimizer.steps=200"
_PACKAGES = {"qdrant_client": "qdrant-client", "qdrant_edge": "qdrant-edge-py"}  # module -> what pip calls it
_RESUMABLE = ("compare", "compress", "grid", "index", "selective", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0 is success, 1 a comparison that failed, 2 an error that the user can mend, 130 an interruption.
    """
    command = ""
    try:
        arguments = _parse(sys.argv[1:] if argv is None else list(argv))
        command = arguments.command
        with _terminable():
            return arguments.handler(arguments) or 0
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "archlab").partition(".")[0] == "archlab":
            raise  # a defect of ours, not a missing package
        package = _PACKAGES.get(error.name or "", error.name)
        return _fail(f"Python package {package!r} is missing; install it with: pip install {package}")
    except OSError as error:  # disk full, no permission, a path that is a folder
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        # torch reports memory as RuntimeError, with "out of memory" on a GPU and "can't allocate memory" on a CPU.
        if not isinstance(error, MemoryError) and not any(
            sign in str(error) for sign in ("out of memory", "allocate memory")
        ):
            raise
        return _fail("out of memory; lower the batch size (optimizer.batch_size) or the size of the model")
    except KeyboardInterrupt:
        how = "; the same command resumes the run" if command in _RESUMABLE else ""
        if _is_first():
            print(f"archlab: interrupted{how}", file=sys.stderr)
        return 130


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside the block SIGTERM interrupts as Ctrl-C does: what the command began is ended or put away."""
    if threading.current_thread() is not threading.main_thread():  # signals are none of its business
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see '{self.prog} --help'")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="archlab",
        description="Transformer vs VL-JEPA: train both under identical conditions and measure the difference.",
    )
    parser.add_argument("--version", action="version", version=f"archlab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parsers = {
        "compare": _compare_parser(commands),
        "train": _train_parser(commands),
        "grid": _grid_parser(commands),
        "selective": _selective_parser(commands),
        "watch": _watch_parser(commands),
        "evaluate": _evaluate_parser(commands),
        "generate": _generate_parser(commands),
        "bench": _bench_parser(commands),
        "parity": _parity_parser(commands),
        "export": _export_parser(commands),
        "compress": _compress_parser(commands),
        "serve": _serve_parser(commands),
        "keys": _keys_parser(commands),
        "index": _index_parser(commands),
        "search": _search_parser(commands),
        "plan": _plan_parser(commands),
        "cost": _cost_parser(commands),
    }
    if not argv:
        argv = ["--help"]
    if argv[0] in parsers:
        # Intermixed, so that `key=value` may stand before, between and after the options; argparse allows that only
        # on parsers without commands of their own.
        return parsers[argv[0]].parse_intermixed_args(argv[1:])
    if not argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0], parsers, n=1, cutoff=0.0)[0]
        raise UserError(f"command {argv[0]!r} is unknown; did you mean {near!r}?")
    return parser.parse_args(argv)


Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def _command(commands: Commands[_Parser], name: str, purpose: str) -> _Parser:
    parser = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    parser.set_defaults(command=name)
    return parser


def _compare_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "compare", "train both arms, measure them and write a report")
    parser.set_defaults(handler=_compare)
    base = parser.add_mutually_exclusive_group()
    presets = sorted(path.stem for path in _PRESETS.glob("*.yaml"))
    base.add_argument("--preset", choices=presets, help="built-in configuration (default: quick)")
    base.add_argument("--config", type=Path, metavar="FILE", help="configuration of your own, YAML")
    parser.add_argument("--data", metavar="SRC", help="scenes, a named set, a folder, parquet, webdataset or a hub id")
    parser.add_argument("--budget", metavar="B", help="shared, paper, equal-params or equal-flops")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/PRESET[-SRC][-B])")
    parser.add_argument(
        "--price-per-hour", type=float, metavar="X", help="price of the serving machine, for the cost table"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    from archlab.config import CompareConfig, load
    from archlab.train.folder import check_folder

    options = {
        "run.data.source": arguments.data,
        "budget": arguments.budget,
        "machine_price_per_hour": arguments.price_per_hour,
    }
    # JSON is YAML: a path like "2024" or "a: b" stays a text.
    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items() if value is not None]
    preset = arguments.config.stem if arguments.config else arguments.preset or "quick"
    config = load(arguments.config or _PRESETS / f"{preset}.yaml", CompareConfig, given + arguments.overrides)
    # Data and budget of the command line make another comparison than the preset alone: it gets another folder.
    names = [preset, *(Path(given).resolve().stem for given in (arguments.data, arguments.budget) if given)]
    out = arguments.out or Path("runs") / "-".join(re.sub(r"[^\w.]+", "-", name) for name in names)
    check_folder(out, config)  # before the imports and the data, which take a while

    from archlab.compare.experiment import run_compare

    run_compare(config, out, preset)
    print(f"report: {out / 'report.html'}")


def _train_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "train", "train one model from a YAML recipe")
    parser.set_defaults(handler=_train)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML; its key 'recipe' names the task")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME-OF-CONFIG)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)
    return parser


def _train(arguments: argparse.Namespace) -> None:
    from archlab.train.recipes import train_recipe

    out = arguments.out or Path("runs") / arguments.config.stem
    train_recipe(arguments.config, arguments.overrides, out)
    if _is_first():
        print(f"run: {out}")


def _grid_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "grid", "run a written experiment as many small cells, and report it")
    parser.set_defaults(handler=_grid)
    parser.add_argument("protocol", type=Path, metavar="PROTOCOL", help="YAML: question, arms, factors, what decides")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="cells side by side (default: 2)")
    parser.add_argument("--screen", action="store_true", help="run the first seed only")
    parser.add_argument("--report", action="store_true", help="run nothing: report what is finished")
    parser.add_argument("--cells", type=Path, metavar="DIR", help="finished cells (default: cells, beside protocols)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/cells"), metavar="DIR", help="runs (default: runs/cells)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="report (default: results/NAME, beside protocols)")
    return parser


def _grid(arguments: argparse.Namespace) -> None:
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: must be at least 1")
    protocol = arguments.protocol
    root = _beside_protocols(protocol)

    from archlab.compare.grid.run import Places, run_grid

    report = run_grid(
        protocol,
        Places(arguments.cells or root / "cells", arguments.work),
        arguments.out or root / "results" / protocol.stem,
        workers=arguments.workers,
        screen=arguments.screen,
        run=not arguments.report,
    )
    print(f"report: {report}")


def _beside_protocols(protocol: Path) -> Path:
    """Where the cells and the reports of a protocol are."""
    folder = protocol.resolve().parent
    return folder.parent if folder.name == "protocols" else folder


def _selective_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "selective", "measure when to put a stream into words, by a written protocol")
    parser.set_defaults(handler=_selective)
    parser.add_argument("protocol", type=Path, metavar="PROTOCOL", help="YAML: question, streams, sweep, what decides")
    parser.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="finished vljepa runs, one per seed (default: those of the grid that the protocol names, made if missing)",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="cells side by side (default: 2)")
    parser.add_argument(
        "--cells", type=Path, metavar="DIR", help="cells of the grid (default: cells, beside protocols)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/cells"), metavar="DIR", help="runs of the grid (default: runs/cells)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/NAME-OF-PROTOCOL)")
    return parser


def _selective(arguments: argparse.Namespace) -> None:
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: must be at least 1")

    from archlab.compare.grid.run import Places
    from archlab.compare.selective.run import run_selective

    out = arguments.out or Path("runs") / arguments.protocol.stem
    places = Places(arguments.cells or _beside_protocols(arguments.protocol) / "cells", arguments.work)
    report = run_selective(arguments.protocol, arguments.runs, places, out, workers=arguments.workers)
    print(f"report: {report}")


def _watch_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "watch", "put a clip of any length into words, once for each thing that happens")
    parser.set_defaults(handler=_watch)
    parser.add_argument("run", type=Path, metavar="RUN", help="finished run of the vljepa arm")
    parser.add_argument("clip", type=Path, metavar="CLIP", help="MP4, MOV, WebM, Matroska, AVI or GIF")
    parser.add_argument("--query", metavar="TEXT", help="asked of every frame (default: the run's query of captions)")
    parser.add_argument("--rate", type=float, default=2.0, metavar="X", help="frames looked at per second (default: 2)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="X", help="of a change (default: 0.5)")
    parser.add_argument("--every", type=float, metavar="S", help="rather: a segment every S seconds on average")
    return parser


def _watch(arguments: argparse.Namespace) -> None:
    from archlab.compare.selective.watch import watch

    watch(
        arguments.run,
        arguments.clip,
        arguments.query,
        rate=arguments.rate,
        threshold=arguments.threshold,
        every=arguments.every,
    )


def _evaluate_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "evaluate", "measure a trained run on a split")
    parser.set_defaults(handler=_evaluate)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--split", default="test", help="split to measure on (default: test)")
    parser.add_argument("--data", metavar="SRC", help="other data than the run was trained on")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the scores to this JSON file")
    return parser


def _evaluate(arguments: argparse.Namespace) -> None:
    _check_file(arguments.out)

    from archlab.evaluate.command import evaluate_run

    evaluate_run(arguments.run, arguments.split, arguments.data, arguments.out)


def _check_file(out: Path | None) -> None:
    """Refuse an output that could not be written, before the work that it is to keep."""
    if out is not None:
        from archlab.train.folder import check_writable

        check_writable(out)


# Options of `archlab generate --model`: flag -> how it is read. The names are those of `continue_text`.
_TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "--max-new-tokens": {"type": int, "metavar": "N", "help": "default: 128, or what the model can still read"},
    "--temperature": {"type": float, "metavar": "X", "help": "sample; 0 (default) takes the likeliest token"},
    "--top-k": {"type": int, "metavar": "K", "help": "sample from the K likeliest tokens"},
    "--top-p": {"type": float, "metavar": "P", "help": "sample from the likeliest tokens that add up to P"},
    "--min-p": {
        "type": float,
        "metavar": "P",
        "help": "sample from tokens at least P times as likely as the likeliest",
    },
    "--seed": {"type": int, "metavar": "N", "help": "of the sampling (default: 0)"},
    "--repetition-penalty": {"type": float, "metavar": "X", "help": "above 1: make tokens that occurred less likely"},
    "--beams": {"type": int, "metavar": "N", "help": "beam search"},
    "--stop": {"action": "append", "metavar": "TEXT", "help": "end before this text; may be given several times"},
    "--draft": {"metavar": "ID", "help": "smaller checkpoint that guesses ahead; changes the speed only"},
    "--compile": {"dest": "compiled", "action": "store_true", "default": None, "help": "compile each step first"},
    "--device": {"choices": ["auto", "cpu", "cuda"], "help": "default: a GPU where there is one"},
    "--dtype": {
        "dest": "precision",
        "choices": ["float32", "bfloat16", "float16"],
        "help": "type of the weights (default: float32)",
    },
}


def _generate_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "generate", "continue or translate a text, or answer a question about an image")
    parser.usage = (
        "archlab generate --model ID_OR_FOLDER [options] PROMPT\n       archlab generate RUN --image FILE [QUESTION]"
    )
    parser.set_defaults(handler=_generate)
    parser.add_argument("words", nargs="*", metavar="WORD", help="PROMPT, or RUN and QUESTION, as above")
    parser.add_argument(
        "--image",
        "--video",
        dest="image",
        type=Path,
        metavar="FILE",
        help="image or clip that the run looks at; described without QUESTION",
    )
    parser.add_argument("--model", metavar="ID", help="what writes text: a checkpoint's folder or hub id, or a run")
    for flag, how in _TEXT_OPTIONS.items():
        parser.add_argument(flag, **how)
    return parser


def _generate(arguments: argparse.Namespace) -> None:
    names = {flag: how.get("dest", flag[2:].replace("-", "_")) for flag, how in _TEXT_OPTIONS.items()}
    given = {flag: value for flag, name in names.items() if (value := getattr(arguments, name)) is not None}
    if arguments.model is not None:
        if arguments.image is not None:
            raise UserError("--image: a language model reads text; give the folder of a run instead of --model")
        if len(arguments.words) != 1:
            raise UserError(f"--model: continues one prompt, not {len(arguments.words)}; put it in quotes")

        _check_text("prompt", arguments.words[0])

        from archlab.generate.command import continue_text

        continue_text(arguments.model, arguments.words[0], **{names[flag]: value for flag, value in given.items()})
        return
    if given:
        raise UserError(f"{next(iter(given))}: is for language models; give one with --model")
    if arguments.image is None or not 1 <= len(arguments.words) <= 2:
        raise UserError("generate: needs --model and a prompt, or a run, --image and at most one question in quotes")

    run, question = arguments.words if len(arguments.words) == 2 else (arguments.words[0], None)
    _check_text("question", question)

    from archlab.data.images import by_itself
    from archlab.vl.generate import generate

    with by_itself():
        generate(Path(run), arguments.image, question)


def _check_text(name: str, text: str | None) -> None:
    """Refuse what a tokenizer could not read: the command line may hold any bytes."""
    from archlab.rules import is_unicode

    if text is not None and not is_unicode(text):
        raise UserError(f"{name} {text!r}: is no valid text; write it in UTF-8")


# Of `archlab bench serve` alone: flag -> how it is read.
_SERVE_OPTIONS: dict[str, dict[str, Any]] = {
    "--run": {
        "action": "append",
        "metavar": "[NAME=]RUN",
        "help": "serve: one of the vljepa arm, and one of the token arm (default: those shipped); repeatable",
    },
    "--seconds": {"type": float, "metavar": "X", "help": "serve: measured in every step (default: 8)"},
    "--users": {"type": int, "metavar": "N", "help": "serve: of the comparison (default: 64)"},
    "--points": {"type": int, "metavar": "N", "help": "serve: vectors that are searched (default: 50000)"},
    "--backend": {"choices": ["auto", "torch", "onnx", "onnx-int8"], "help": "serve: what runs the models"},
    "--generator": {
        "choices": ["auto", "wrk", "locust"],
        "help": "serve: what asks (default: wrk where it is installed, else Locust)",
    },
}


def _bench_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "bench", "time our code beside its peers")
    parser.set_defaults(handler=_bench)
    parser.add_argument(
        "what",
        choices=["train", "generate", "attention", "index", "scenes", "serve"],
        help="train: a training step, generate: cached decoding, both beside the same model in transformers; "
        "attention: one layer beside PyTorch's own function; index: embedded vector search beside exact; "
        "scenes: drawing the built-in data beside reading it from files; "
        "serve: the service under load beside FastAPI and LitServe",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="timed calls of each (default: 30 for train, 10 for generate, 20 for attention and scenes, 200 for "
        "index); serve: rounds of the comparison (default: 15)",
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "int8"],
        help="default: float32, or all of them for generate; int8 is for generate alone",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write the results to this JSON file; attention: and a plot; serve: to this folder, with tables and "
        "a plot",
    )
    for flag, how in _SERVE_OPTIONS.items():
        parser.add_argument(flag, **how)
    return parser


def _bench_serve(arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    if arguments.precision is not None:
        raise UserError(f"--precision {arguments.precision}: a service computes as its --backend does; leave this out")
    from archlab.bench.serve.command import Plan, bench_serve

    numbers = {name: given[name] for name in ("seconds", "users", "points") if name in given}
    plan = Plan(**numbers, **({} if arguments.rounds is None else {"rounds": arguments.rounds}))
    how = {name: given.get(name, "auto") for name in ("backend", "generator")}
    bench_serve(tuple(given.get("run", ())), plan=plan, **how, out=arguments.out)


def _bench(arguments: argparse.Namespace) -> None:
    if arguments.rounds is not None and arguments.rounds < 1:
        raise UserError(f"--rounds {arguments.rounds}: must be at least 1")
    given = {flag[2:]: value for flag in _SERVE_OPTIONS if (value := getattr(arguments, flag[2:])) is not None}
    if arguments.what == "serve":
        _bench_serve(arguments, given)
        return
    if given:
        raise UserError(f"--{next(iter(given))}: is for 'archlab bench serve'; leave it out")
    _check_file(arguments.out)
    if arguments.what == "generate":
        from archlab.bench.generate import bench_generate

        bench_generate(rounds=arguments.rounds or 10, precision=arguments.precision, out=arguments.out)
        return
    if arguments.what in ("index", "scenes") and arguments.precision is not None:
        raise UserError(
            f"--precision {arguments.precision}: {arguments.what} has no choice of it; leave this option out"
        )
    if arguments.what == "index":
        from archlab.bench.index import bench_index

        bench_index(rounds=arguments.rounds or 200, out=arguments.out)
        return
    if arguments.what == "scenes":
        from archlab.bench.scenes import bench_scenes

        bench_scenes(rounds=arguments.rounds or 20, out=arguments.out)
        return
    if arguments.precision == "int8":
        raise UserError("--precision int8: only generate runs weights of 8 bits; take float32 or bfloat16")
    if arguments.what == "attention":
        from archlab.bench.attention import bench_attention

        bench_attention(rounds=arguments.rounds or 20, precision=arguments.precision or "float32", out=arguments.out)
        return

    from archlab.bench.train import bench_train

    bench_train(rounds=arguments.rounds or 30, precision=arguments.precision or "float32", out=arguments.out)


def _parity_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "parity", "prove that our models equal those of transformers")
    parser.set_defaults(handler=_parity)
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="family of models (default: all)")
    parser.add_argument(
        "--explain", action="store_true", help="name the first layer that diverges and the likely cause"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results to this JSON file")
    return parser


def _parity(arguments: argparse.Namespace) -> int:
    from archlab.models.registry import find

    if arguments.family is not None:
        find(arguments.family)  # before the imports, which take a while
    _check_file(arguments.out)

    from archlab.interop.parity.run import run_parity

    return 0 if run_parity(arguments.family, show_causes=arguments.explain, out=arguments.out) else 1


def _is_first() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _export_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "export", "write a trained run for another runtime, checked against PyTorch")
    parser.set_defaults(handler=_export)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run of the token or vljepa arm")
    parser.add_argument("--to", choices=["onnx"], required=True, help="onnx: graphs for ONNX Runtime")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: RUN/onnx)")
    parser.add_argument("--int8", action="store_true", help="also write int8: a quarter of the size, and faster")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="measure what int8 costs on the validation split; within half a point the service prefers it",
    )
    return parser


def _export(arguments: argparse.Namespace) -> None:
    if arguments.evaluate and not arguments.int8:
        raise UserError("--evaluate: measures what int8 costs; add --int8, or leave it out")

    from archlab.export.command import export_run

    out = arguments.out or arguments.run / "onnx"
    export_run(arguments.run, out, int8=arguments.int8, evaluate=arguments.evaluate)
    print(f"export: {out}")


def _compress_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "compress", "make trained runs smaller in several ways, and measure what that costs")
    parser.usage = "archlab compress RUN [RUN] [options] [key=value ...]"
    parser.set_defaults(handler=_compress)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN",
        help="finished runs of the token and the vljepa arm; and recipe keys to change",
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="variants of your own, YAML (default: built in)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/compress)")
    return parser


def _compress(arguments: argparse.Namespace) -> None:
    from archlab.compress.recipe import load_compress

    runs = [Path(word) for word in arguments.words if "=" not in word]
    if not runs:
        raise UserError("compress: needs at least one folder of a finished run")
    config = load_compress(arguments.recipe, [word for word in arguments.words if "=" in word])

    from archlab.compress.command import compress_runs

    out = arguments.out or Path("runs/compress")
    recipe = ["--recipe", arguments.recipe.name] if arguments.recipe else []
    command = " ".join(["archlab compress", *(run.name for run in runs), *recipe])
    print(f"results: {compress_runs(runs, config, out, command)}")


def _serve_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "serve", "answer over HTTP with trained runs; the documentation is at /docs")
    parser.set_defaults(handler=_serve)
    parser.add_argument(
        "models", nargs="*", metavar="[NAME=]RUN", help="folders of runs (default: ARCHLAB_MODELS, else those shipped)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys, made by 'archlab keys create'")
    parser.add_argument("--index", metavar="DIR", help=f"folder or URL of the vector index (default: {_INDEX})")
    parser.add_argument("--backend", choices=["auto", "torch", "onnx", "onnx-int8"], help="what runs the models")
    parser.add_argument(
        "--price-per-hour", type=float, metavar="X", help="of this machine, for the cost in /v1/compare"
    )
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    from archlab.serve.command import serve

    serve(
        arguments.host,
        arguments.port,
        models=tuple(arguments.models) or None,
        api_keys=arguments.keys,
        index=arguments.index,
        backend=arguments.backend,
        price_per_hour=arguments.price_per_hour,
        log_format="text" if sys.stdout.isatty() else None,
    )


def _keys_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "keys", "create, list or revoke the API keys of the service")
    parser.set_defaults(handler=_keys)
    parser.add_argument("action", choices=["create", "list", "revoke"])
    parser.add_argument("name", nargs="?", help="of the key: letters, digits and '-'")
    parser.add_argument("--file", type=Path, default=Path("keys.json"), help="of the keys (default: keys.json)")
    parser.add_argument(
        "--scope",
        action="append",
        choices=["read", "write", "admin"],
        help="read (ask models and search; the default), write (change collections), admin (load models); repeatable",
    )
    parser.add_argument("--rate", type=float, metavar="X", help="items a second, instead of the service's default")
    return parser


def _keys(arguments: argparse.Namespace) -> None:
    if arguments.rate is not None and not arguments.rate > 0:
        raise UserError(f"--rate {arguments.rate}: must be positive")

    from archlab.serve.command import keys

    keys(arguments.action, arguments.name, arguments.file, arguments.scope or ["read"], arguments.rate)


_INDEX = "runs/index"


def _index_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "index", "embed a folder of images, to be searched by text or image")
    parser.usage = "archlab index FOLDER [options]\n       archlab index migrate FROM TO [--shards N] [--replicas N]"
    parser.set_defaults(handler=_index)
    parser.add_argument("words", nargs="+", metavar="FOLDER", help="images, or parquet or tar; or migrate, FROM and TO")
    parser.add_argument("--model", metavar="RUN", help="run of the vljepa arm (default: the newest that is shipped)")
    parser.add_argument(
        "--out", metavar="DIR", help=f"folder of the index, or URL of a Qdrant server (default: {_INDEX})"
    )
    parser.add_argument("--collection", metavar="NAME", help="default: the folder's name")
    parser.add_argument(
        "--query", metavar="TEXT", help="what the model is asked about every image (default: to describe it)"
    )
    parser.add_argument("--image-column", metavar="NAME", help="column with the images, where it has another name")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="on a server: parts of a new collection")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="on a server: copies of each part")
    return parser


def _index(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in ("model", "out", "collection", "query", "image_column")}
    if arguments.words[0] == "migrate" and len(arguments.words) == 3:
        if given := next((name for name, value in options.items() if value is not None), None):
            raise UserError(f"--{given.replace('_', '-')}: is for indexing images; migrate takes FROM and TO alone")
        from archlab.index.migrate import migrate_command
        from archlab.index.places import Spread

        migrate_command(*arguments.words[1:], spread=Spread(shards=arguments.shards, replicas=arguments.replicas))
        return
    if len(arguments.words) != 1:
        raise UserError("index: takes one folder of images, or 'migrate FROM TO'")

    from archlab.index.command import index_command
    from archlab.index.places import Spread

    spread = Spread(shards=arguments.shards, replicas=arguments.replicas)
    index_command(Path(arguments.words[0]), **options | {"out": arguments.out or _INDEX}, spread=spread)


def _search_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "search", "find the images of an index that a text or an image means")
    parser.set_defaults(handler=_search)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what is looked for, in quotes")
    parser.add_argument("--image", type=Path, metavar="FILE", help="look for what is like this image instead")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="hits (default: 10)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="key=value, key!=value, key=a,b, key>=1, key or !key; may be given several times",
    )
    parser.add_argument(
        "--index", default=_INDEX, metavar="DIR", help=f"folder or URL of the index (default: {_INDEX})"
    )
    parser.add_argument("--collection", metavar="NAME", help="needed where the index holds several")
    parser.add_argument("--model", metavar="RUN", help="where the collection's model lies now, if it was moved")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON instead of a table")
    return parser


def _search(arguments: argparse.Namespace) -> None:
    if (arguments.text is None) == (arguments.image is None):
        raise UserError("search: needs a text in quotes, or --image, and not both")
    _check_text("text", arguments.text)

    from archlab.data.images import by_itself
    from archlab.index.command import search_command

    with by_itself():
        search_command(
            arguments.text,
            image=arguments.image,
            k=arguments.k,
            where=arguments.where,
            place=arguments.index,
            collection=arguments.collection,
            model=arguments.model,
            as_json=arguments.as_json,
        )


def _plan_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "plan", "say what a comparison needs in memory, operations and time, and how to run it")
    parser.set_defaults(handler=_plan)
    base = parser.add_mutually_exclusive_group()
    presets = sorted(path.stem for path in _PRESETS.glob("*.yaml"))
    base.add_argument("--preset", choices=presets, help="built-in configuration (default: paper)")
    base.add_argument("--config", type=Path, metavar="FILE", help="configuration of your own, YAML")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="processors (default: 1)")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="which; a wrong name lists all (default: h100)")
    parser.add_argument(
        "--utilization", type=float, default=0.4, metavar="X", help="share of the peak that is reached (default: 0.4)"
    )
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="processors of your own, YAML")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write the plan and the recipes there")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)
    return parser


def _plan(arguments: argparse.Namespace) -> None:
    from archlab.config import CompareConfig, load

    name = arguments.config.stem if arguments.config else arguments.preset or "paper"
    config = load(arguments.config or _PRESETS / f"{name}.yaml", CompareConfig, arguments.overrides)

    from archlab.compare.plan.command import plan_command

    plan_command(
        config,
        name,
        gpus=arguments.gpus,
        gpu=arguments.gpu,
        utilization=arguments.utilization,
        hardware=arguments.hardware,
        out=arguments.out,
    )


_SCALABILITY = Path("08-scalability")


def _cost_parser(commands: Commands[_Parser]) -> _Parser:
    parser = _command(commands, "cost", "say what answers cost, from measured throughput and a price list")
    parser.set_defaults(handler=_cost)
    results = _SCALABILITY / "results" / "results.json"
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="RESULTS",
        help=f"results.json of 'bench serve' or of 'compare', on a CPU or a GPU (default: {results})",
    )
    prices = _SCALABILITY / "prices.yaml"
    parser.add_argument("--prices", type=Path, default=prices, metavar="FILE", help=f"YAML (default: {prices})")
    parser.add_argument(
        "--traffic",
        type=float,
        action="append",
        metavar="X",
        help="requests a second; repeatable (default: 10, 100 and 1000)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        default=0.6,
        metavar="X",
        help="share of its throughput that a machine is planned for (default: 0.6)",
    )
    for device in ("cpu", "gpu"):
        parser.add_argument(f"--{device}", metavar="NAME", help=f"{device} of the price list (default: its first)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write cost.md and cost.json there")
    return parser


def _cost(arguments: argparse.Namespace) -> None:
    from archlab.cost.command import cost_command

    cost_command(
        arguments.results or [_SCALABILITY / "results" / "results.json"],
        prices=arguments.prices,
        traffic=arguments.traffic or [10.0, 100.0, 1000.0],
        utilization=arguments.utilization,
        cpu=arguments.cpu,
        gpu=arguments.gpu,
        out=arguments.out,
    )


def _fail(message: str) -> int:
    print(f"archlab: error: {' '.join(message.split())}", file=sys.stderr)
    return 2

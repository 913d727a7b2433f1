"""Ship a run of a comparison: a checkpoint with a card that says what it is, how it was made and how good it is.

python -m archlab.compare.publish COMPARISON RUN FOLDER

The card's scores are those of this one run on the test split, as the comparison took them, with 95 % intervals over
test images. Beside each stand its blind controls: a score that is no higher shows no use of what the control lacks.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.compare import formatting as show
from archlab.compare.scores import HEADLINE, control_label, load_results, metric_label
from archlab.config import CompareConfig, RunConfig, load
from archlab.documents import table
from archlab.errors import UserError
from archlab.evaluate.measure import Measurement, scores_of
from archlab.train.card import variant_line
from archlab.train.checkpoint import load_checkpoint

_ARMS = {"token": "Token-generative vision-language model", "vljepa": "VL-JEPA"}
_BLIND = ("shuffled_image", "no_query")
_ABSOLUTE = re.compile(r"(?:^|(?<=[=:,]))/(?!/)[^:,]*")
"""An absolute path as a word of a command, or after the name of what it is given for."""


def publish(comparison: Path, run: str, folder: Path) -> Path:
    """Copy a run of a finished comparison to a new folder, with a card.

    Args:
        run: its name, such as "vljepa-0".

    Raises:
        UserError: the comparison is not finished, has no such run, or the folder exists.
    """
    source = comparison / "runs" / run
    if folder.exists():
        raise UserError(f"{folder}: exists already; remove it, or choose another folder")
    if not (source / "test" / "test.json").is_file():
        raise UserError(f"{comparison}: has no tested run {run!r}; give the folder of a finished comparison")
    results = load_results(comparison / "results.json")
    config = load(comparison / "config.yaml", CompareConfig)
    trial = {name: Measurement.load(source / "test" / f"{name}.json") for name in ("test", *_BLIND)}
    checkpoint = load_checkpoint(source, RunConfig)
    checkpoint.copy(folder, _card(checkpoint.config, results, config, trial))
    return folder


def _card(run: RunConfig, results: Mapping[str, Any], config: CompareConfig, trial: Mapping[str, Measurement]) -> str:
    data, optimizer = run.data.scenes, run.optimizer
    counts, commit = results["arms"][run.arm]["parameters"], show.commit(results["provenance"]["git"])
    parts = [
        f"# {_ARMS[run.arm]}",
        f"{variant_line(run)} {counts['trainable']:,} trained parameters, {counts['total']:,} with the frozen encoder "
        f"`{run.encoder.weights}`.",
        "## Recipe",
        f"The `{run.arm}` arm of `{portable(results['command'])}` (budget {results['budget']['name']}), "
        f"seed {run.seed}: {optimizer.steps} steps of {optimizer.batch_size} samples, learning rate "
        f"{optimizer.learning_rate:g}, commit `{commit}`. `config.yaml` is the whole recipe: "
        "`archlab train config.yaml` repeats it.",
        f"Data: {data.train_images:,} procedural scenes made by the project (MIT), {data.paraphrases} surface forms "
        "per meaning. It knows nothing beyond them: coloured shapes on plain and patterned grounds, in English.",
        "## Scores on the test split",
        table(["metric", "score", *map(control_label, _BLIND)], _rows(trial, config)),
    ]
    return "\n\n".join(parts) + "\n"


def portable(command: str) -> str:
    """A command without the places of the machine that ran it: of an absolute path the last part is left."""
    return shlex.join(_ABSOLUTE.sub(lambda path: Path(path.group()).name, word) for word in shlex.split(command))


def _rows(trial: Mapping[str, Measurement], config: CompareConfig) -> list[list[str]]:
    scores = [scores_of([trial[name]], config.bootstrap_samples) for name in ("test", *_BLIND)]
    test = scores[0]
    kinds = sorted(metric for metric in test if metric.startswith("vqa/"))
    shown = [metric for metric in dict.fromkeys([*kinds, *HEADLINE]) if metric in test]
    return [[metric_label(metric), *(show.score(one[metric]) for one in scores)] for metric in shown]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m archlab.compare.publish", description="Ship a run of a finished comparison."
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    try:
        publish(options.comparison, options.run, options.folder)
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs as one of the processes of a job.

`main` is called in every one (`tests.train.many`), with a folder and three configurations: of an arm, of pretraining
and of a model of characters. FOLDER/single-ddp and FOLDER/single-fsdp hold runs that one process began.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from archlab.config import PretrainConfig, RunConfig, load
from archlab.data import features
from archlab.data.batch import Batch
from archlab.errors import UserError
from archlab.evaluate import encoder_probes
from archlab.train import run
from archlab.train.distributed import _draw_apart, _RandomNumbersOfAll
from archlab.train.pretrain import pretrain
from archlab.train.processes import count, everyone, joined, once, own_machine, rank
from archlab.train.setup import Setup
from archlab.train.text.characters import train_characters
from archlab.train.text.config import CharactersConfig

INTERRUPTED_AT = 3
Batches = Callable[..., Batch]


@contextmanager
def watched(act: Callable[[int, Batch], None]) -> Iterator[None]:
    """`act` on the number and the batch of every step."""
    plain: Batches = run.training_batch

    def watch(config: RunConfig, setup: Setup, order: Any, step: int, *part: slice) -> Batch:
        batch = plain(config, setup, order, step, *part)
        act(step, batch)
        return batch

    with patch.object(run, "training_batch", watch):
        yield


def interrupt(step: int, batch: Batch) -> None:
    """One process alone gets the signal, as when its machine is shut down."""
    if (step, rank()) == (INTERRUPTED_AT, count() - 1):
        signal.raise_signal(signal.SIGTERM)


def arms(folder: Path, config: RunConfig, setup: Setup, ids: list[list[str]]) -> None:
    for parallel in ("ddp", "fsdp"):
        own = replace(config, parallel=parallel)  # type: ignore[arg-type]
        ids.clear()
        with watched(lambda step, batch: ids.append(batch.ids)):
            run.train_run(own, setup, folder / f"whole-{parallel}", parallel)
        cut = folder / f"cut-{parallel}"
        with suppress(KeyboardInterrupt), watched(interrupt):
            run.train_run(own, setup, cut, parallel)
            raise AssertionError("was not interrupted")
        once(lambda cut=cut, name=f"elsewhere-{parallel}": shutil.copytree(cut, folder / name) and None)
        run.train_run(own, setup, cut, parallel)
        run.train_run(own, setup, folder / f"single-{parallel}", parallel)


def random_numbers() -> dict[str, list[list[float]]]:
    """Of each process in a run: from one state, again from that state, and from the state of a single process."""
    _draw_apart()
    torch.rand(1)  # something was drawn since the run began
    numbers = _RandomNumbersOfAll()
    state = numbers.state_dict()
    drawn = {"first": torch.rand(3).tolist()}
    numbers.load_state_dict(state)
    drawn["again"] = torch.rand(3).tolist()
    numbers.load_state_dict({name: state[name] for name in ("cpu", "cuda")})
    drawn["of one"] = torch.rand(3).tolist()
    return {name: everyone(values) for name, values in drawn.items()}


def refusals(folder: Path, config: RunConfig, setup: Setup) -> list[str]:
    """What is said of a batch that is too small, and of a state that not all processes see."""
    said = []
    try:
        small = replace(config, optimizer=replace(config.optimizer, batch_size=count() - 1))
        run.train_run(small, setup, folder / "small", "")
    except UserError as error:
        said.append(str(error))
    own = folder / f"own-{rank()}"  # each process has a folder that the others do not see; only the first has a state
    if rank() == 0:
        shutil.copytree(folder / "elsewhere-ddp", own)
    try:
        with patch.object(run, "claim", lambda *_: None):
            run.train_run(config, setup, own, "")
    except UserError as error:
        said.append(str(error))
    return said


def own_share(cache: Path, setup: Setup) -> int:
    """Make features anew, in chunks of four images; how many images this process has encoded."""
    encode, seen = type(setup.encoder).encode, []

    def count_images(encoder: Any, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return encode(encoder, images)

    with patch.object(features, "_CHUNK", 4), patch.object(type(setup.encoder), "encode", count_images):
        features.FeatureStore.build(setup.dataset["validation"], setup.encoder, cache, 0, own_machine())
    return sum(seen)


def main(folder: Path, *configs: str) -> None:
    torch.set_num_threads(1)
    written: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(folder) in str(arguments[0]) and set(str(arguments[1])) & set("wax+"):
            written.append(str(arguments[0]))

    with joined():
        config = load(configs[0], RunConfig)
        setup = Setup.prepare(config)
        setup.read_images(own_machine())
        encoded = own_share(folder / "features", setup)
        sys.addaudithook(note)
        ids: list[list[str]] = []
        arms(folder, config, setup, ids)
        with patch.object(encoder_probes, "_COUNTS", {"train": 120, "fit": 40, "validation": 40}):
            pretrain(load(configs[1], PretrainConfig), folder / "encoder")
        train_characters(load(configs[2], CharactersConfig), folder / "characters")
        drawn, said = random_numbers(), refusals(folder, config, setup)
        found = {"ids": everyone(ids), "written": everyone(len(written)), "said": everyone(said), "drawn": drawn}
        found |= {"encoded": everyone(encoded)}
        if rank() == 0:
            torch.save(found, folder / "found.pt")

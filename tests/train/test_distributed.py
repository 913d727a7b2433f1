"""A run on many processes is the run on one: its result, its files, its interruptions and its errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.train import many_runs
from tests.train.many import Ended, ends, run_many, started
from torch import Tensor

from archlab.config import PretrainConfig, RunConfig, load, to_yaml
from archlab.train import processes
from archlab.train.checkpoint import load_checkpoint
from archlab.train.run import run_order, train_run
from archlab.train.setup import Setup
from archlab.train.text.characters import train_characters
from archlab.train.text.config import CharacterModelConfig, CharactersConfig, TrainingConfig
from archlab.vl.encoder import FrozenEncoder

COUNT = 2
PARALLEL: Any = pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
# Sums over processes are rounded otherwise than those of one, and Adam's division makes much of small gradients.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


@dataclass(frozen=True)
class Job:
    """What a job of several processes left behind."""

    folder: Path
    config: RunConfig
    found: dict[str, Any]
    ended: list[Ended]
    characters: CharactersConfig

    def weights(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / name / "model.safetensors")

    def curve(self, name: str) -> list[tuple[Any, ...]]:
        """Without the clock."""
        points = load_checkpoint(self.folder / name, RunConfig).metrics["curve"]
        return [(point["step"], point["loss"], point["scores"]) for point in points]


@pytest.fixture(scope="module")
def uneven(tiny_config: RunConfig) -> RunConfig:
    """Seven samples a step: no two processes have equally many."""
    # A step moves weights by about the learning rate, whatever the size of a rounded gradient.
    # The tolerance is made for 1e-3.
    return replace(tiny_config, optimizer=replace(tiny_config.optimizer, batch_size=7, learning_rate=1e-3))


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> CharactersConfig:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("".join(f"{number} times {number} is {number * number}.\n" for number in range(200)))
    return CharactersConfig(
        source=str(text),
        model=CharacterModelConfig(context=16, width=16, depth=1, heads=2, feed_forward=24),
        batch_size=5,
        ngram=2,
        training=TrainingConfig(steps=6, warmup=1, accumulate=2, evaluate_every=3, device="cpu"),
    )


def interrupted(config: RunConfig, setup: Setup, folder: Path) -> None:
    """A run that one process began."""

    def interrupt(step: int, batch: object) -> None:
        if step == many_runs.INTERRUPTED_AT:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), many_runs.watched(interrupt):
        train_run(config, setup, folder, "")


@pytest.fixture(scope="module")
def job(
    uneven: RunConfig,
    tiny_setup: Setup,
    tiny_pretraining: PretrainConfig,
    characters: CharactersConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Job:
    folder = tmp_path_factory.mktemp("job")
    for parallel in ("ddp", "fsdp"):
        own = replace(uneven, parallel=parallel)  # type: ignore[arg-type]
        interrupted(own, tiny_setup, folder / f"single-{parallel}")
    configs = []
    for number, config in enumerate((uneven, tiny_pretraining, characters)):
        configs.append(folder / f"{number}.yaml")
        configs[-1].write_text(to_yaml(config))
    tiny_setup.read_images()
    ended = run_many(COUNT, Path(many_runs.__file__), folder, *configs)
    return Job(folder, uneven, torch.load(folder / "found.pt", weights_only=True), ended, characters)


@pytest.fixture(scope="module")
def alone(uneven: RunConfig, tiny_setup: Setup, job: Job) -> str:
    """The same run on one process, in the job's folder; its name."""
    train_run(uneven, tiny_setup, job.folder / "alone", "")
    return "alone"


def assert_close(job: Job, ours: str, theirs: str) -> None:
    first, second = job.weights(ours), job.weights(theirs)
    assert first.keys() == second.keys()
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    losses = [[loss for _, loss, _ in job.curve(name)] for name in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@PARALLEL
def test_a_run_on_many_processes_ends_where_that_on_one_does(job: Job, alone: str, parallel: str) -> None:
    assert_close(job, f"whole-{parallel}", alone)


@PARALLEL
def test_it_leaves_the_folder_that_one_process_leaves(job: Job, alone: str, parallel: str) -> None:
    def names(name: str) -> set[str]:
        return {str(path.relative_to(job.folder / name)) for path in (job.folder / name).rglob("*")}

    assert names(f"whole-{parallel}") == names(alone)
    ours, theirs = (load_checkpoint(job.folder / name, RunConfig).metrics for name in (f"whole-{parallel}", alone))
    assert {key for key in ours if ours[key] == theirs[key]} >= {"steps", "samples", "order_digest", "data_digest"}
    assert ours.keys() == theirs.keys()


@PARALLEL
def test_an_interrupted_run_that_as_many_processes_resume_equals_an_uninterrupted_one_bit_for_bit(
    job: Job, parallel: str
) -> None:
    whole, cut = job.weights(f"whole-{parallel}"), job.weights(f"cut-{parallel}")
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())
    assert job.curve(f"whole-{parallel}") == job.curve(f"cut-{parallel}")


@PARALLEL
def test_one_process_resumes_what_many_began(job: Job, alone: str, tiny_setup: Setup, parallel: str) -> None:
    name = f"elsewhere-{parallel}"
    state = torch.load(job.folder / name / "state.pt", weights_only=True)
    assert state["step"] == many_runs.INTERRUPTED_AT + 1
    own = load(job.folder / name / "config.yaml", RunConfig)
    train_run(own, tiny_setup, job.folder / name, "")
    assert_close(job, name, alone)


@PARALLEL
def test_many_processes_resume_what_one_began(job: Job, alone: str, parallel: str) -> None:
    assert_close(job, f"single-{parallel}", alone)


def test_each_process_reads_its_part_of_the_saved_order(job: Job, tiny_setup: Setup) -> None:
    examples = tiny_setup.dataset["train"].examples
    rows = run_order(job.config, tiny_setup).rows
    first, second = job.found["ids"]
    assert [len(ids) for ids in first] == [4] * 6
    assert [len(ids) for ids in second] == [3] * 6
    for step, whole in enumerate(rows):
        assert [*first[step], *second[step]] == [examples[row].id for row in whole]


def test_each_process_encodes_its_part_of_the_images_into_one_file(job: Job, tiny_setup: Setup) -> None:
    (path,) = (job.folder / "features").iterdir()
    alone = tiny_setup.features("validation").array
    # In chunks of another size sums are rounded otherwise; the file is float16.
    np.testing.assert_allclose(np.load(path).astype(float), alone.astype(float), rtol=5e-3, atol=5e-3)
    images = len(tiny_setup.dataset["validation"].images)
    assert sum(job.found["encoded"]) == images
    assert min(job.found["encoded"]) >= images // COUNT - 4


def test_the_first_process_alone_writes_and_shows_progress(job: Job) -> None:
    first, second = job.found["written"]
    assert first > 0
    assert second == 0
    assert "ddp: 6/6, loss" in job.ended[0].errors
    assert job.ended[1].errors == job.ended[1].output == ""


def test_an_encoder_pretrained_by_many_is_the_one_that_one_pretrains(job: Job, tiny_encoder: Path) -> None:
    folders = job.folder / "encoder", tiny_encoder
    ours, theirs = (FrozenEncoder.load(str(folder)).vit.state_dict() for folder in folders)
    for name, tensor in theirs.items():
        if not name.startswith("whitening"):  # which divides by the smallest deviations
            torch.testing.assert_close(ours[name], tensor, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_a_model_of_text_trained_by_many_is_the_one_that_one_trains(job: Job, tmp_path: Path) -> None:
    """With accumulated batches, each of them uneven."""
    train_characters(job.characters, tmp_path / "run")
    folders = job.folder / "characters", tmp_path / "run"
    ours, theirs = (load_checkpoint(folder, CharactersConfig).metrics for folder in folders)
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-4)
    assert ours["table"][-1]["parameters"] == theirs["table"][-1]["parameters"]


def test_each_process_draws_its_own_random_numbers_and_resumes_them(job: Job) -> None:
    """Dropout, say. The first draws what a single process would, and goes on so from the state of a single one."""
    drawn = job.found["drawn"]
    assert drawn["again"] == drawn["first"]
    assert drawn["first"][0] != drawn["first"][1]
    assert drawn["of one"][0] == drawn["first"][0]
    assert drawn["of one"][1] not in drawn["first"]


def test_a_batch_with_fewer_samples_than_processes_is_refused_in_one_line(job: Job) -> None:
    for said in job.found["said"]:
        assert said[0] == "optimizer.batch_size=1: must be at least the number of processes, 2"


def test_a_folder_that_the_machines_do_not_share_is_refused_in_one_line(job: Job) -> None:
    for said in job.found["said"]:
        assert "not all processes find the same; --out must be on a file system that all machines share" in said[1]
        assert "\n" not in said[1]


@given(size=st.integers(0, 40), count=st.integers(1, 9))
def test_parts_are_disjoint_and_make_up_the_whole(size: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "count", lambda: count)
        parts = []
        for rank in range(count):
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            parts.append(np.arange(size)[processes.own_part(size)])
    assert np.concatenate(parts).tolist() == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def command(config: RunConfig, folder: Path) -> list[object]:
    path = folder / "endless.yaml"
    optimizer = replace(config.optimizer, steps=100_000)
    path.write_text(to_yaml(replace(config, optimizer=optimizer, evaluation=replace(config.evaluation, checkpoints=1))))
    return ["-m", "archlab", "train", path, "--out", folder / "run"]


def saved_step(folder: Path, after: int = 0) -> int:
    """Wait until a state of a later step is saved."""
    path, patience = folder / "run" / "state.pt", time.monotonic() + 200
    while time.monotonic() < patience:
        if path.exists() and (step := torch.load(path, weights_only=True)["step"]) > after:
            return step
        time.sleep(0.05)
    raise AssertionError(f"no state beyond step {after}")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_with_one_line_and_the_same_command_resumes_it(
    uneven: RunConfig, tiny_setup: Setup, tmp_path: Path
) -> None:
    tiny_setup.read_images()
    with started(COUNT, command(uneven, tmp_path)) as running:
        saved_step(tmp_path)
        os.kill(running[1].pid, signal.SIGKILL)
        first, second = ends(running)
    assert second.code == -signal.SIGKILL
    assert first.code == 2
    errors = [line for line in first.errors.splitlines() if not line.startswith("vljepa, seed 0")]  # the progress
    assert len(errors) == 1
    assert errors[0].startswith("archlab: error: a process of this job is gone")
    assert errors[0].endswith("The same command resumes the run from its last save")
    before = saved_step(tmp_path)
    with started(COUNT, command(uneven, tmp_path)) as running:
        saved_step(tmp_path, after=before)
        for process in running:  # as torchrun passes Ctrl-C on
            process.send_signal(signal.SIGINT)
        ended = ends(running)
    assert [one.code for one in ended] == [130, 130]
    assert "archlab: interrupted; the same command resumes the run" in ended[0].errors
    assert ended[1].errors == ""


def test_an_error_that_all_processes_meet_is_said_once(uneven: RunConfig, tmp_path: Path) -> None:
    arguments = [*command(uneven, tmp_path), "optimizer.stepps=3"]
    with started(COUNT, arguments) as running:
        ended = ends(running)
    assert [one.code for one in ended] == [2, 2]
    said = [line for one in ended for line in one.errors.splitlines()]
    assert said == ["archlab: error: configuration key 'optimizer.stepps' is unknown; did you mean 'optimizer.steps'?"]


@pytest.mark.slow
def test_torchrun_trains_and_its_checkpoint_is_read_by_other_commands(
    uneven: RunConfig, tiny_setup: Setup, tmp_path: Path
) -> None:
    tiny_setup.read_images()
    (tmp_path / "config.yaml").write_text(to_yaml(uneven))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={COUNT}", "-m"]
    archlab = ["archlab", "train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *archlab], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"run: {tmp_path / 'run'}\n"
    asked = [sys.executable, "-m", "archlab", "evaluate", str(tmp_path / "run"), "--split", "validation"]
    assert "vqa/accuracy" in subprocess.run(asked, check=True, capture_output=True, text=True, timeout=300).stdout

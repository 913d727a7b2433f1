"""What `03-vljepa-impl/cluster.sh` asks torchrun for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "03-vljepa-impl" / "cluster.sh"


def asked(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a torchrun that only says what it was asked for, on a machine without GPUs."""
    tools = {"torchrun": 'echo "$@"', "nvidia-smi": "exit 1", "scontrol": "echo first; echo second"}
    for name, does in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment = plain | {"PATH": f"{folder}:{os.environ['PATH']}"} | variables
    return subprocess.run([str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "--standalone --nproc-per-node 1 --max-restarts 0"),
        ({"GPUS": "8", "RESTARTS": "3"}, "--standalone --nproc-per-node 8 --max-restarts 3"),
        (
            {"NODES": "4", "MASTER": "10.0.0.1:29500", "GPUS": "2"},
            "--nnodes 4 --rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 --rdzv-id archlab "
            "--nproc-per-node 2 --max-restarts 0",
        ),
        (
            {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "two", "SLURM_JOB_ID": "77"},
            "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint first:29500 --rdzv-id 77 "
            "--nproc-per-node 1 --max-restarts 0",
        ),
    ],
)
def test_it_starts_torchrun_for_the_machines_there_are(tmp_path: Path, variables: dict[str, str], wanted: str) -> None:
    done = asked(tmp_path, "run.yaml", "--out", "runs/one", "parallel=fsdp", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{wanted} -m archlab train run.yaml --out runs/one parallel=fsdp\n"


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [((), {}, "usage: cluster.sh CONFIG"), (("run.yaml",), {"NODES": "2"}, "set MASTER=ADDRESS:PORT")],
)
def test_what_is_missing_is_named(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    done = asked(tmp_path, *arguments, **variables)
    assert done.returncode != 0
    assert message in done.stderr

"""What holds for the repository as a whole: packaging, make targets and continuous integration agree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import archlab

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[;! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


SERVE, INDEX, LOAD, VIDEO = (names(EXTRAS[extra]) - {"archlab"} for extra in ("serve", "index", "load", "video"))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, _, version in pairs}


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    asked = names(PROJECT["dependencies"] + [one for extra in EXTRAS.values() for one in extra]) - {"archlab"}
    assert asked - pinned().keys() == set()


def test_constraints_name_no_build_of_a_version() -> None:
    """`torch==2.13.0` takes any build; `torch==2.13.0+cpu` exists on no package index but PyTorch's own."""
    assert [version for version in pinned().values() if "+" in version] == []


def imported() -> set[str]:
    """Third-party modules that the package names in an import."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    return set(re.findall(r"^\s*(?:from|import) (\w+)", code, re.MULTILINE)) - sys.stdlib_module_names - {"archlab"}


@pytest.mark.parametrize(("part", "limit"), [("models", 400), ("layers", 300)])
def test_what_a_learner_reads_stays_short(part: str, limit: int) -> None:
    files = (ROOT / "src" / "archlab" / part).glob("*.py")
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 5
    assert {name: length for name, length in lengths.items() if length > limit} == {}


# Import names that differ from the names on the package index.
DISTRIBUTIONS = {"PIL": "pillow", "opentelemetry": "opentelemetry-api", "sklearn": "scikit-learn", "yaml": "pyyaml"}
DISTRIBUTIONS |= {"pynvml": "nvidia-ml-py", "qdrant_client": "qdrant-client", "qdrant_edge": "qdrant-edge-py"}


def test_what_the_package_imports_is_declared() -> None:
    declared = names(PROJECT["dependencies"]) | SERVE | INDEX | LOAD | VIDEO
    undeclared = {DISTRIBUTIONS.get(module, module).lower().replace("_", "-") for module in imported()} - declared
    assert undeclared == set()


def test_only_the_service_imports_what_comes_with_its_extra() -> None:
    """What trains, compares and reports runs without it."""
    extra = (SERVE | LOAD) - INDEX - names(PROJECT["dependencies"])
    allowed = [ROOT / "src" / "archlab" / place for place in ("serve", "export", "bench/serve")]
    for path in (ROOT / "src" / "archlab").rglob("*.py"):
        if not any(path.is_relative_to(place) for place in allowed):
            code = path.read_text(encoding="utf-8")
            used = {
                name.lower().replace("_", "-") for name in re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE)
            }
            assert used & extra == set(), path


def test_every_declared_dependency_is_imported() -> None:
    used = {DISTRIBUTIONS.get(module, module).lower().replace("_", "-") for module in imported()}
    unseen = {"onnxscript", "python-multipart"}  # torch.onnx and starlette import them
    assert (names(PROJECT["dependencies"]) | SERVE | INDEX | LOAD | VIDEO) - used == unseen


def test_the_training_path_imports_neither_datasets_nor_pydantic() -> None:
    code = "import sys, archlab.train.loop, archlab.train.run; print({'datasets', 'pydantic'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_the_installed_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert version("archlab") == archlab.__version__


def test_make_alone_lists_the_commands() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in shown for target in ("help", "compare", "test", "lint", "clean"))


@pytest.mark.parametrize("target", ["compare", "test"])
def test_a_main_command_sets_up_the_environment_first_with_torch_before_all_else(target: str, tmp_path: Path) -> None:
    """A dry run with an environment that does not exist yet."""
    dry = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}"]
    plan = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    create, torch, rest = (plan.index(step) for step in ("-m venv", "constraints.txt torch", "-e '.[dev]'"))
    work = plan.index("archlab compare --preset quick --out runs/quick" if target == "compare" else '-m "not slow"')
    assert create < torch < rest < work
    assert not (tmp_path / "venv").exists()


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    runner = ROOT / ".ci" / "run"
    assert "make test" in readme
    assert "make compare" in readme
    assert "\nmake test\n" in runner.read_text()
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert commands >= {"bash .ci/run", "make compare", "make test-all"}
    assert all((ROOT / "Makefile").read_text().count(f"\n{line[5:]}:") for line in commands if line.startswith("make "))


def test_the_setup_without_make_is_tried_as_the_requirements_say_it() -> None:
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["without-make"]["steps"]
    said = re.findall(r"^# .*without make: (.+) && (\w+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    install, test = (step["run"] for step in steps if "run" in step)
    assert said == [(install, test.split()[0])]
    assert all((ROOT / path).is_file() for path in re.findall(r"tests/\S+", test))

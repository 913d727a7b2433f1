"""Promises of the image and of docker compose, as far as they can be kept without a container engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.deployment.queries import MONITORING, ROOT

from archlab.cli import _parse, main
from archlab.serve.app import create_app
from archlab.serve.auth import KeyFile
from archlab.serve.settings import WEIGHTS, Settings

BIN = Path(sys.executable).parent
COMPOSE_FILES = [ROOT / "docker-compose.yml", *sorted((ROOT / "07-deployment" / "compose").glob("*.yml"))]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
ONCE = {"keys", "train"}
VARIABLES = {f"ARCHLAB_{name.upper()}" for name in Settings.model_fields} | {"ARCHLAB_CACHE"}


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, in the order of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, arguments) for name, arguments in pairs]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name -> instructions of a stage, with those of the stages that it begins from."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            base, _, stage = arguments.split()
            found[stage] = list(found.get(base, ()))
        elif found:
            found[stage].append((name, arguments))
    return found


TARGETS = {name: stages()[name] for name in ("cpu", "cuda")}


def last(target: str, name: str) -> str:
    return [arguments for instruction, arguments in TARGETS[target] if instruction == name][-1]


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_keeps_the_rules_of_hadolint() -> None:
    run(BIN / "hadolint", "Dockerfile")


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)
def test_compose_files_keep_the_schema(file: Path) -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def test_workflows_keep_the_schema() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


IMAGE: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text(encoding="utf-8"))[
    "jobs"
]


def test_the_workflow_starts_the_set_up_as_it_comes_and_with_a_qdrant_server() -> None:
    steps = [step for step in IMAGE["compose"]["steps"] if "docker compose" in step.get("run", "") and "name" in step]
    first, *_, last = steps
    assert "env" not in first
    assert "env" not in IMAGE["compose"]
    assert "\ndocker compose up --detach\n" in f"\n{first['run']}"
    assert last["env"] == {"ARCHLAB_INDEX": "http://qdrant:6333"}
    assert "--profile qdrant up" in last["run"]
    assert all("07-deployment/smoke.py" in step["run"] for step in steps)
    assert all("--search" in step["run"] for step in (first, last))


def test_every_image_has_a_bound_that_leaves_it_small() -> None:
    megabytes = {one["target"]: one["megabytes"] for one in IMAGE["image"]["strategy"]["matrix"]["include"]}
    assert megabytes.keys() == TARGETS.keys()
    if torch.version.cuda is None:  # then what is installed here is what the image on a processor holds
        weight = 150 + sum(megabytes_of(name) for name in needed("archlab", {"serve", "otel"}))
        assert 0.7 * megabytes["cpu"] < weight < megabytes["cpu"]


def needed(name: str, extras: set[str]) -> dict[str, set[str]]:
    """Installed packages that a package needs with these extras, itself included, each with its own extras."""
    found: dict[str, set[str]] = {}
    left = [(name, extras)]
    while left:
        name, extras = left.pop()
        key = canonicalize_name(name)
        if key not in found or not extras <= found[key]:
            found[key] = found.get(key, set()) | extras
            requirements = map(Requirement, distribution(name).requires or ())
            left += [(one.name, one.extras) for one in requirements if applies(one, extras)]
    return found


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def megabytes_of(name: str) -> float:
    paths = (file.locate() for file in distribution(name).files or ())
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path)) / 1e6


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_runs_as_a_user_without_rights(target: str) -> None:
    user, _, group = last(target, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_that_is_built_when_no_target_is_named_is_the_small_one() -> None:
    assert list(stages())[-1] == "cpu"


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    allowed = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    copied = [shlex.split(arguments)[:-1] for name, arguments in instructions() if name == "COPY"]
    sources = {source for one in copied for source in one if not one[0].startswith("--from")}
    assert patterns[0] == "*"
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    refused = [pattern for pattern in patterns[1:] if not pattern.startswith("!")]
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [path for path in tracked.splitlines() for pattern in refused if fnmatch(path, f"{pattern}*")]


@pytest.mark.slow
def test_what_is_copied_is_enough_to_install_the_package_with_its_weights(tmp_path: Path) -> None:
    context, wheels = tmp_path / "context", tmp_path / "wheels"
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    tracked = subprocess.run(["git", "ls-files", *allowed], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in tracked.splitlines():
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).symlink_to(ROOT / path)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, context)
    (wheel,) = wheels.glob("archlab-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    weights = {f"archlab/weights/{path.relative_to(WEIGHTS)}" for path in WEIGHTS.rglob("*.safetensors")}
    assert weights
    assert weights <= names
    assert "archlab/serve/app.py" in names


@pytest.mark.parametrize("target", TARGETS)
def test_health_is_asked_at_the_port_that_is_served_without_another_program(target: str) -> None:
    (port,) = last(target, "EXPOSE").split()
    check = last(target, "HEALTHCHECK")
    url = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert url is not None
    assert url[1] == port
    assert url[2] in create_app(Settings.model_construct()).openapi()["paths"]
    assert "curl" not in check
    assert "wget" not in check
    started = json.loads(last(target, "ENTRYPOINT")) + json.loads(last(target, "CMD"))
    arguments = _parse(started[1:])
    assert (started[0], arguments.command, arguments.host, str(arguments.port)) == ("archlab", "serve", "0.0.0.0", port)


def test_without_keys_the_image_refuses_to_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = json.loads(last("cpu", "CMD"))
    for path in (None, str(tmp_path / "keys.json")):
        if path:
            monkeypatch.setenv("ARCHLAB_API_KEYS", path)
        assert main(command) == 2
        assert "archlab keys create" in capsys.readouterr().err


def test_what_is_set_is_what_the_service_reads() -> None:
    set_there = {
        name
        for target in TARGETS.values()
        for kind, arguments in target
        if kind == "ENV"
        for name in re.findall(r"(\w+)=", arguments)
    }
    for service in SERVICES.values():
        set_there |= service.get("environment", {}).keys()
    assert {name for name in set_there if name.startswith("ARCHLAB_")} <= VARIABLES
    assert "ARCHLAB_API_KEYS" in set_there


def test_images_are_pinned_by_a_tag() -> None:
    text = "".join(file.read_text() for file in COMPOSE_FILES)
    images = re.findall(r"^\s+image: (\S+)", text, re.MULTILINE) + re.findall(r"^ARG BASE=(\S+)", dockerfile(), re.M)
    assert len(images) >= 8
    for image in images:
        name, _, tag = image.rpartition(":")
        assert name
        assert tag
        assert tag != "latest"
        assert name == "archlab" or re.search(r"\d+\.\d+", tag)


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_qdrant_server_is_of_the_minor_version_of_its_client() -> None:
    client = re.search(r"^qdrant-client==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert client is not None
    assert SERVICES["qdrant"]["image"].startswith(f"qdrant/qdrant:v{client[1]}.")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc"} & service.keys()
    user = service.get("user", "1000" if "unprivileged" in service["image"] or "build" in service else "0")
    assert int(user.partition(":")[0]) > 0
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_limited_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service["healthcheck"] == {"disable": True} if name in ONCE else service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


def test_what_is_mounted_exists() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(.+?)\}", r"\1", mount).partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], mount


def test_what_is_built_is_a_target_of_the_dockerfile() -> None:
    built = [
        service["build"]
        for file in COMPOSE_FILES
        for service in yaml.safe_load(file.read_text())["services"].values()
        if "build" in service
    ]
    assert {one["target"] for one in built} == TARGETS.keys()
    assert {one["context"] for one in built} == {"."}


@pytest.mark.parametrize("file", COMPOSE_FILES[1:], ids=lambda file: file.name)
def test_what_an_override_changes_of_the_service_it_changes_of_the_next_version_too(file: Path) -> None:
    """Anchors end with their file: what `api-green` takes from `api` in the main one, it does not take from others."""
    changed = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    blue, green = ({**changed.get(name, {}), "image": None} for name in ("api", "api-green"))
    assert green == blue
    assert changed.get("api-green", {}).get("image", "archlab:green") == SERVICES["api-green"]["image"]


def test_prometheus_scrapes_the_port_that_is_exposed_of_services_that_exist() -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert found["port"] == int(last("cpu", "EXPOSE"))
    assert set(found["names"]) <= SERVICES.keys()
    assert job["metrics_path"] in create_app(Settings.model_construct()).openapi()["paths"]
    for name in found["names"]:
        assert all(port.endswith(f":{found['port']}") for port in SERVICES[name]["ports"])
    proxied = re.search(r"reverse_proxy (.+) \{", (ROOT / "07-deployment" / "compose" / "Caddyfile").read_text())
    assert proxied is not None
    assert proxied[1].split() == [f"{name}:{found['port']}" for name in found["names"]]


def test_there_is_time_to_finish_what_is_in_progress() -> None:
    settings = Settings.model_construct()
    seconds = int(SERVICES["api"]["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.drain_seconds + settings.max_deadline_seconds + 5


def test_the_first_key_is_made_once_and_printed(tmp_path: Path) -> None:
    service = SERVICES["keys"]
    script = service["command"][0].replace("/keys/", f"{tmp_path}/")
    assert "$" not in script  # compose would replace it
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    first, second = (
        subprocess.run([*service["entrypoint"], script], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    )
    found = KeyFile(tmp_path / "keys.json").find(first.stdout.strip())
    assert found is not None
    assert set(found.scopes) == {"read", "write", "admin"}
    assert "archlab_" not in second.stdout
    assert SERVICES["api"]["depends_on"]["keys"]["condition"] == "service_completed_successfully"


def test_every_variable_of_compose_is_explained() -> None:
    guide = (ROOT / "07-deployment" / "README.md").read_text(encoding="utf-8")
    used = {name for file in COMPOSE_FILES for name in re.findall(r"\$\{(\w+)", file.read_text())}
    assert {name for name in used if f"`{name}`" not in guide} == set()


@pytest.mark.parametrize(
    "document", sorted((ROOT / "07-deployment").rglob("README.md")), ids=lambda path: path.parent.name
)
def test_links_of_the_guides_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in re.findall(r"^#+ .+", text, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = link.partition("#")
        assert "://" in link or (document.parent / file).exists(), link
        assert file or anchor in headings, link


def test_commands_of_the_guide_are_understood() -> None:
    guide = (ROOT / "07-deployment" / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"--entrypoint archlab keys (keys .+)", guide)
    assert len(commands) == 3
    for command in commands:
        assert _parse(shlex.split(command)).command == "keys"

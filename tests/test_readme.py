"""What the README says is true: findings are the committed results, commands exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from archlab.cli import _parse
from archlab.compare.readme import write_readme_block
from archlab.config import CompareConfig, load
from archlab.interop.table import write_models
from archlab.train.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "04-comparisons" / "results"
COMMANDS = re.findall(r"^(archlab .*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)
TARGETS = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)


def test_the_key_findings_are_those_of_the_committed_results() -> None:
    assert write_readme_block(ROOT / "README.md", RESULTS / "standard" / "results.json", check=True)


@pytest.mark.parametrize("folder", ["", "02-transformer-impl"])
def test_the_table_of_models_is_that_of_the_registry_and_the_committed_parity_run(folder: str) -> None:
    results = ROOT / "02-transformer-impl" / "parity" / "results.json"
    assert write_models(ROOT / folder / "README.md", results, check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    arguments = shlex.split(command)[1:]
    assert _parse(arguments).command == arguments[0]


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(TARGETS) == {"compare", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in TARGETS)


def test_every_local_link_leads_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) >= 2
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_no_committed_result_carries_images_of_third_parties() -> None:
    """Results on the built-in scenes may show pictures; those on others' data must not redistribute them."""
    for path in RESULTS.glob("*/results.json"):
        text = path.read_text(encoding="utf-8")
        assert '"name": "scenes"' in text or "image_png_base64" not in text


@pytest.mark.parametrize("path", sorted(ROOT.glob("0*/configs/*.yaml")), ids=lambda path: path.name)
def test_every_committed_configuration_is_valid(path: Path) -> None:
    if path.parts[-3] == "04-comparisons":
        load(path, CompareConfig)
    else:
        load_recipe(path)

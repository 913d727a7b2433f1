"""What the README says is true: findings are the committed results, commands exist, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from archlab.cli import _parse
from archlab.compare.goals import write_goals
from archlab.compare.readme import write_readme_block
from archlab.config import CompareConfig, load
from archlab.interop.table import write_models
from archlab.train.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "04-comparisons" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("0*/*.md"))]
TARGETS = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)


def test_the_key_findings_are_those_of_the_committed_results() -> None:
    assert write_readme_block(ROOT / "README.md", RESULTS / "standard" / "results.json", check=True)


def test_the_goals_are_held_against_the_committed_results() -> None:
    assert write_goals(ROOT / "README.md", RESULTS, check=True)


@pytest.mark.parametrize("folder", ["", "02-transformer-impl"])
def test_the_table_of_models_is_that_of_the_registry_and_the_committed_parity_run(folder: str) -> None:
    results = ROOT / "02-transformer-impl" / "parity" / "results.json"
    assert write_models(ROOT / folder / "README.md", results, check=True)


def commands(document: Path) -> list[list[str]]:
    """Every command of ours, in code blocks and in the text; `[options]` are taken, and N is a number."""
    text = document.read_text(encoding="utf-8")
    block = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    lines = [line for code in block.findall(text) for line in code.splitlines()]
    lines += re.findall(r"`([^`]+)`", block.sub("", text))
    inside = re.compile(r"^(?:torchrun .* -m archlab|docker compose run .* --entrypoint archlab \w+)(?= )")
    ours = [line for line in (inside.sub("archlab", line) for line in lines) if re.match(r"(archlab|python)\s", line)]
    found = [shlex.split(re.sub(r"[\[\]]", "", line), comments=True) for line in ours]
    return [["1" if word == "N" else word for word in words] for words in found]


def test_the_picture_is_that_beside_the_results_of_the_key_findings() -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert [ROOT / path for path in shown] == [RESULTS / "standard" / "hero.png"]
    assert (RESULTS / "standard" / "hero.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_understood_and_reads_files_that_exist(document: Path) -> None:
    found = commands(document)
    assert found
    for program, *arguments in found:
        if program == "archlab" and len(arguments) == 1:  # the name of a command
            with pytest.raises(SystemExit):
                _parse([*arguments, "--help"])
        elif program == "archlab":
            assert _parse(arguments).command == arguments[0], arguments
        elif arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]) is not None, arguments
        # Results are there once the command that makes them has run on a quiet machine.
        files = [word for word in arguments if re.match(r"(0\d-|configs/)(?!.*results\.json).*\.\w+$", word)]
        assert [file for file in files if not ((ROOT / file).is_file() or (document.parent / file).is_file())] == []


def test_the_documents_of_every_phase_are_tried() -> None:
    assert {path.name for path in ROOT.glob("0*")} == {path.parent.name for path in DOCUMENTS[1:]}


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

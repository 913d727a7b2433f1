"""Promises of the service's guide: its tables are those of the code, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from archlab.cli import _parse
from archlab.serve.reference import main, write_reference
from archlab.serve.settings import Settings

GUIDE = Path(__file__).resolve().parents[2] / "06-production" / "README.md"
COMMANDS = re.findall(r"^(archlab .*?)(?:\s+#.*)?$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_tables_are_those_of_the_code() -> None:
    assert write_reference(GUIDE, check=True)


def test_a_table_that_is_out_of_date_is_noticed_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "guide.md"
    copy.write_text(GUIDE.read_text(encoding="utf-8").replace("ARCHLAB_MAX_BODY", "ARCHLAB_MAX_BODIES"))
    assert main([str(copy), "--check"]) == 1
    assert "out of date" in capsys.readouterr().out
    assert main([str(copy)]) == 0
    assert main([str(copy), "--check"]) == 0
    assert copy.read_text() == GUIDE.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    arguments = shlex.split(command)[1:]
    assert _parse(arguments).command == arguments[0]


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert {f"ARCHLAB_{name.upper()}" for name in Settings.model_fields} <= set(
        re.findall(r"`(ARCHLAB_\w+)`", GUIDE.read_text(encoding="utf-8"))
    )

from __future__ import annotations

import pytest

from archlab.documents import Tables, print_tables, tables_markdown

TABLES: Tables = {"Cost [EUR]": (["machine", "[a|b]"], [["small [spot]", "1 | 2"]])}


def test_a_table_in_the_terminal_keeps_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(TABLES, ["of [today]"])
    shown = capsys.readouterr().out
    for text in ("Cost [EUR]", "[a|b]", "small [spot]", "1 | 2", "of [today]"):
        assert text in shown


def test_a_table_in_markdown_keeps_its_columns() -> None:
    title, table = tables_markdown(TABLES)
    assert title == "## Cost [EUR]"
    assert table.splitlines() == ["| machine | [a\\|b] |", "| --- | --- |", "| small [spot] | 1 \\| 2 |"]

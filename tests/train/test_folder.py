from __future__ import annotations

from pathlib import Path

import pytest

from archlab.config import RunConfig, load
from archlab.errors import UserError
from archlab.train.folder import atomic_write, check_folder, claim, write_text


def test_a_crash_while_writing_keeps_the_old_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "deep" / "new.txt"
    write_text(old, "old")
    with pytest.raises(OSError, match="disk full"), atomic_write(old, new) as (first, second):  # noqa: PT012
        first.write_text("whole")
        second.write_text("half")
        raise OSError("disk full")
    assert old.read_text() == "old"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [old]


def test_no_file_gets_its_name_before_all_are_written(tmp_path: Path) -> None:
    old, never = tmp_path / "old.txt", tmp_path / "never.txt"
    write_text(old, "old")
    with pytest.raises(FileNotFoundError), atomic_write(old, never) as (first, _):
        first.write_text("new")
    assert old.read_text() == "old"
    assert not never.exists()


def test_files_appear_whole_in_folders_that_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "content ∞")
    assert path.read_text(encoding="utf-8") == "content ∞"
    assert list(path.parent.iterdir()) == [path]


def test_a_claimed_folder_is_recognised_by_the_same_configuration(tmp_path: Path) -> None:
    config = RunConfig(seed=3)
    claim(tmp_path / "run", config)
    assert load(tmp_path / "run" / "config.yaml", RunConfig) == config
    claim(tmp_path / "run", config)


def test_a_folder_of_another_configuration_is_refused_by_naming_what_differs(tmp_path: Path) -> None:
    claim(tmp_path, RunConfig(seed=3))
    with pytest.raises(UserError, match=r"seed=3, not 4; .*--out") as caught:
        claim(tmp_path, RunConfig(seed=4))
    assert "\n" not in str(caught.value)
    assert load(tmp_path / "config.yaml", RunConfig) == RunConfig(seed=3)


def test_a_process_killed_while_it_claimed_a_folder_leaves_it_free(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.123.partial").write_text("arm: tok")
    claim(tmp_path, RunConfig(seed=1))
    assert load(tmp_path / "config.yaml", RunConfig).seed == 1


def test_checking_a_free_folder_writes_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "free", RunConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_the_saved_configuration_lacks_counts_as_its_default(tmp_path: Path) -> None:
    claim(tmp_path, RunConfig())
    saved = tmp_path / "config.yaml"
    saved.write_text("".join(line for line in saved.read_text().splitlines(True) if not line.startswith("blind")))
    claim(tmp_path, RunConfig())
    with pytest.raises(UserError, match="holds a run with blind=False, not True"):
        claim(tmp_path, RunConfig(blind=True))


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "a: 2024-02-30", b"\xff\xfe\x00"])
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="damaged"):
        claim(tmp_path, RunConfig())


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("beach")
    with pytest.raises(UserError, match="holds no run"):
        claim(tmp_path, RunConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(UserError, match="holds no run"):
        claim(tmp_path / "holiday.jpg", RunConfig())

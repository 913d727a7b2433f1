"""What a user can hand to a command ends in one line on standard error, and in the remedy that fits the command."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from archlab.cli import main
from archlab.train.folder import check_writable
from archlab.train.run import Run


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("archlab: error: ")
    assert error.count("\n") == 1
    return error.strip()


def png(side: int) -> bytes:
    """A picture of side x side pixels, as its header says: its data are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "{run}", "--image", "{image}", "\udcff"],
        ["generate", "--model", "none", "\udcff"],
        ["search", "\udcff"],
    ],
    ids=lambda argv: argv[0],
)
def test_bytes_that_are_no_text_are_refused_before_a_model_reads_them(
    argv: list[str], tiny_run: Callable[[str], Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    places = {"run": str(tiny_run("token").folder), "image": str(tmp_path / "image.png")}
    capsys.readouterr()  # the run may have been trained just now
    assert main([word.format(**places) for word in argv]) == 2
    assert "'\\udcff': is no valid text; write it in UTF-8" in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (png(8), "truncated or damaged"),
        (b"text", "is none of JPEG"),
        (b"", "is empty; replace it"),
        (None, "no such file or directory; correct its name or add the file"),
        (png(9000), "81000000 pixels, at most 50000000 are allowed; shrink the image"),
    ],
    ids=["damaged", "text", "empty", "missing", "large"],
)
def test_the_remedy_for_one_image_is_none_for_data_sets(
    content: bytes | None,
    told: str,
    tiny_run: Callable[[str], Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = tmp_path / "broken.png"
    if content is not None:
        image.write_bytes(content)
    run = str(tiny_run("token").folder)
    capsys.readouterr()  # it may have been trained just now
    assert main(["generate", run, "--image", str(image)]) == 2
    error = one_line(capsys)
    assert told in error
    assert "data.pairs" not in error


@pytest.mark.parametrize("side", [9500, 13000])
def test_pillow_adds_no_line_to_what_our_own_limit_says(side: int, tmp_path: Path) -> None:
    """From 90 to 179 million pixels Pillow itself only warns."""
    (tmp_path / "large.png").write_bytes(png(side))
    code = "import sys; from archlab.data.images import check; check(sys.argv[1], max_pixels=int(sys.argv[2]))"
    told = []
    for limit in (side**2, side**2 - 1):
        argv = [sys.executable, "-c", code, str(tmp_path / "large.png"), str(limit)]
        told.append(subprocess.run(argv, capture_output=True, text=True).stderr)
    assert told[0] == ""
    assert f"{side**2} pixels, at most {side**2 - 1} are allowed" in told[1]
    assert "Warning" not in told[1]


@pytest.mark.parametrize("place", ["folder", "file/scores.json", "/proc/none/scores.json"])
@pytest.mark.parametrize("argv", [["evaluate", "no-run"], ["parity", "llama"], ["bench", "train"]], ids=lambda a: a[0])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    argv: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main([*argv, "--out", str(tmp_path / place)]) == 2
    error = one_line(capsys)
    assert f"{tmp_path / place}: cannot be written" in error
    assert "name another file with --out" in error


def test_looking_whether_an_output_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("before", encoding="utf-8")
    check_writable(tmp_path / "new" / "scores.json")
    check_writable(tmp_path / "scores.json")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
    assert (tmp_path / "scores.json").read_text(encoding="utf-8") == "before"

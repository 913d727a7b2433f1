"""The folder of a run: its files appear whole or not at all, and it belongs to one configuration."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from archlab.config import build, flatten, to_dict, to_yaml
from archlab.errors import UserError

_PARTIAL = ".partial"


@contextmanager
def atomic_write(*paths: Path) -> Iterator[list[Path]]:
    """Yield a temporary path beside each of `paths`; the files written there get their final names when the block ends.

    They get them together, after all are on the disk. If the block raises, the old files stay and nothing else is left.
    """
    partial = [path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}") for path in paths]
    try:
        for folder in {path.parent for path in paths}:
            folder.mkdir(parents=True, exist_ok=True)
        yield partial
        for path in partial:
            _flush(path)
        for source, path in zip(partial, paths, strict=True):
            os.replace(source, path)
        for folder in {path.parent for path in paths}:
            _flush(folder)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as (partial,):
        partial.write_text(text, encoding="utf-8")


@contextmanager
def undamaged(path: Path, made_by: Path | None = None) -> Iterator[None]:
    """Around reading a file that a command of ours wrote, and would write again: if it is damaged, one line says so.

    Args:
        made_by: folder of the run that wrote the file while it was trained, and would not without training again.

    Raises:
        UserError: the block stumbled over the file's contents.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: is damaged; remove {made_by or 'it'} and run the same command again") from None


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written once the work is done; nothing is left behind.

    Raises:
        UserError: it is a folder, or lies where nothing can be written.
    """
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file with --out") from None


def claim(folder: Path, config: Any) -> None:
    """Make `folder` the folder of the run with this configuration, or recognise it as such, so that the run can resume.

    To be called once the inputs are known to be good: a folder claimed for a mistyped path would refuse the right one.

    Raises:
        UserError: see `check_folder`.
    """
    check_folder(folder, config)
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", to_yaml(config))


def check_folder(folder: Path, config: Any) -> None:
    """Refuse a folder that could not be claimed; nothing is written.

    Raises:
        UserError: it holds a run of another configuration, or something else.
    """
    path = folder / "config.yaml"
    if not path.exists():
        # A process that is killed while it claims the folder leaves the file that was to become config.yaml.
        free = folder.is_dir() and all(one.name.endswith(_PARTIAL) for one in folder.iterdir())
        if folder.exists() and not free:
            raise UserError(f"output folder {folder}: exists and holds no run; name another with --out, or remove it")
        return
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        saved = None
    if not isinstance(saved, dict):
        raise UserError(f"output folder {folder}: its config.yaml is damaged; name another with --out, or remove it")
    there, asked = flatten(saved), flatten(to_dict(config))
    with suppress(UserError):  # a key that is newer than the folder has its default there
        there = flatten(to_dict(build(type(config), saved)))
    different = [key for key in asked | there if (key in there, there.get(key)) != (key in asked, asked.get(key))]
    if different:
        key = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"output folder {folder}: holds a run with {key}={there.get(key)!r}, not {asked.get(key)!r}{more}; "
            f"name another with --out, or remove it"
        )


def _flush(path: Path) -> None:
    """Wait until the file's content, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

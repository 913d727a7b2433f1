"""A repository of the Hugging Face hub that holds what a test puts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects


def offer(files: Mapping[str, bytes], copies: Path, patch: pytest.MonkeyPatch) -> str:
    """The id of a repository with these files; those of its files that are asked for are copied to `copies`."""
    repository = "someone/model"

    def snapshot_download(name: str, *, allow_patterns: Sequence[str], ignore_patterns: Sequence[str] = ()) -> str:
        assert name == repository
        allowed, ignored = list(allow_patterns), list(ignore_patterns)
        for path in filter_repo_objects(files, allow_patterns=allowed, ignore_patterns=ignored):
            (copies / path).parent.mkdir(parents=True, exist_ok=True)
            (copies / path).write_bytes(files[path])
        return str(copies)

    patch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return repository

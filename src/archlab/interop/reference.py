"""Checkpoints as parts of runs: where one is, which files it consists of, and its shape without any file.

A run keeps of a checkpoint that it does not train only its name and the digest of its files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from archlab.interop.checkpoint import locate, read_config
from archlab.models.families.family import Family
from archlab.models.registry import FAMILIES, find_by_model_type

_PUBLISHERS = ("facebook", "google", "meta-llama", "openai", "openai-community")
_PARTS = ("*.safetensors", "pytorch_model*.bin", "*.json")


def digest_of(folder: Path) -> str:
    """Hash of all files of a checkpoint that its answers depend on: weights, configurations and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted({path for part in _PARTS for path in folder.rglob(part)}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def shape_of(source: str) -> tuple[Family, Any]:
    """Family and configuration of a checkpoint; those of a published size are known without its files.

    Args:
        source: as of `checkpoint.load_pretrained`.

    Raises:
        UserError: there is no such checkpoint, or its family or one of its options is not implemented.
    """
    known = published(source)
    if known is not None:
        family, size = known
        return family, family.config(size)
    theirs = read_config(locate(source))
    family = find_by_model_type(theirs.model_type)
    return family, family.interop.config_from_hf(theirs)


def published(source: str) -> tuple[Family, str] | None:
    """Family and size of a checkpoint that the registry knows by its hub id; None of any other."""
    owner, _, name = source.rpartition("/")
    if owner not in _PUBLISHERS or Path(source).is_dir():
        return None
    return next(((family, name.lower()) for family in FAMILIES.values() if name.lower() in family.sizes), None)

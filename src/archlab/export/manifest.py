"""What an exported folder says about itself: where it came from, what is in it, and how well it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dacite

from archlab.errors import UserError
from archlab.train.folder import write_text

NAME = "manifest.json"
POINT = 0.01
MOST_LOST = 0.5 * POINT
"""Task accuracy that int8 may lose to be served unasked."""

_LEAST_ITEMS = round(1 / MOST_LOST)  # of fewer, one item alone is more than that


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of both precisions, on the same items.

    Attributes:
        items: how many.
        fp32, int8: mean over them, from 0 to 1.
    """

    items: int
    fp32: float
    int8: float

    @property
    def lost(self) -> float:
        """What int8 loses."""
        return self.fp32 - self.int8


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Task accuracy of both precisions.

    Attributes:
        split: what was measured on.
        scores: by metric.
    """

    split: str
    scores: dict[str, Score]

    @property
    def kept(self) -> bool:
        """Whether int8 keeps every metric that enough items tell: where there is none, nobody knows."""
        told = [score for score in self.scores.values() if score.items >= _LEAST_ITEMS]
        return bool(told) and all(score.lost <= MOST_LOST for score in told)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """See `Manifest.save`.

    Attributes:
        run: folder that was exported, by name; run_digest: hash of its weights; encoder_digest: of its encoder's.
        arm: "token" or "vljepa".
        image_size, visual_tokens, feature_width: of the encoder.
        width: of the vectors that it embeds into.
        scale: see `serve.engine.About`.
        files: name -> SHA-256 of every other file of the folder.
        parity: quantity -> largest absolute difference from PyTorch, float32.
        versions: of what exported it.
        accuracy: of int8; None: there is no int8, or it was not measured.
    """

    run: str
    run_digest: str
    encoder_digest: str
    arm: str
    image_size: int
    visual_tokens: int
    feature_width: int
    width: int
    scale: float | None
    files: dict[str, str]
    parity: dict[str, float]
    versions: dict[str, str]
    accuracy: Accuracy | None = None
    format: str = field(default="archlab-onnx-1")

    def save(self, folder: Path) -> None:
        """Write it into the exported folder, atomically."""
        write_text(folder / NAME, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of an exported folder.

        Raises:
            UserError: it is missing or damaged, or of a format that is not known here.
        """
        try:
            raw = json.loads((folder / NAME).read_text(encoding="utf-8"))
            manifest = dacite.from_dict(cls, raw, dacite.Config(strict=True, check_types=True))
        except FileNotFoundError:
            raise UserError(f"export {folder}: {NAME} is missing; make it with: archlab export RUN --to onnx") from None
        except (ValueError, TypeError, dacite.DaciteError) as error:
            raise UserError(f"export {folder}: {NAME} is damaged ({error}); export the run again") from None
        if manifest.format != cls.format:
            raise UserError(
                f"export {folder}: has the format {manifest.format!r}, not {cls.format!r}; export the run again"
            )
        return manifest

    def check(self, folder: Path, names: Mapping[str, Any]) -> None:
        """Compare files with their digests.

        Raises:
            UserError: one is missing or is another.
        """
        for name in names:
            path = folder / name
            if name not in self.files or not path.is_file() or digest_of(path) != self.files[name]:
                raise UserError(f"export {folder}: {name} is missing or not the one exported; export the run again")

    @property
    def served_as_int8(self) -> bool:
        """Whether int8 is as good as float32 at the task."""
        return self.accuracy is not None and self.accuracy.kept


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

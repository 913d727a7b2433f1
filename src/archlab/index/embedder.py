"""A VL-JEPA run as a maker of vectors: of texts, and of images under a query, in one space.

Shape legend: B items, H x W pixels, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from archlab.config import RunConfig, load
from archlab.errors import UserError
from archlab.evaluate.readout import EmbeddingReadout
from archlab.train.checkpoint import load_checkpoint
from archlab.vl.answering import Answerer


@dataclass(frozen=True)
class Embedder:
    """An opened run.

    Attributes:
        name: where it was found: the name of a shipped run, or its folder.
        digest: hash of its weights, by which its vectors are known.
    """

    name: str
    digest: str
    answerer: Answerer
    readout: EmbeddingReadout

    @classmethod
    def open(cls, run: str | None = None) -> Embedder:
        """Open a run.

        Args:
            run: the folder of a run, or the name of one that is shipped; the newest shipped one if not given.

        Raises:
            UserError: there is none, it cannot be read, or its vectors of texts and images share no space.
        """
        name = run or _newest()
        folder = _shipped() / name if (_shipped() / name).is_dir() else Path(name).expanduser().resolve()
        digest = load_checkpoint(folder, RunConfig).digest()
        answerer = Answerer.open(folder)
        if not isinstance(answerer.readout, EmbeddingReadout):
            raise UserError(
                f"run {name}: the {answerer.config.arm} arm puts texts and images into no common space; give a run of "
                f"the vljepa arm"
            )
        return cls(name if folder.parent == _shipped() else str(folder), digest, answerer, answerer.readout)

    @property
    def width(self) -> int:
        """E."""
        return self.answerer.config.vljepa.embedding

    @property
    def image_size(self) -> int:
        """H and W of the images it reads."""
        return self.answerer.encoder.image_size

    @property
    def default_query(self) -> str:
        """What it is asked about an image when nothing else is said: for a description."""
        return self.answerer.config.data.pairs.query

    def images(self, pixels: np.ndarray, query: str) -> np.ndarray:
        """Unit vectors (B, E) of uint8 RGB images (B, H, W, 3): of what the run would answer to the query."""
        return self.readout.image_vectors(self.answerer.request(pixels, [query] * len(pixels)))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (B, E) of texts."""
        return self.readout.text_vectors(texts)


def _shipped() -> Path:
    return Path(str(resources.files("archlab"))) / "weights"


def _newest() -> str:
    runs = [path.parent for path in _shipped().glob("*/config.yaml") if _embeds(path)]
    if not runs:
        raise UserError("no run of the vljepa arm is shipped; give the folder of one with --model")
    return max(runs, key=lambda run: (run.stat().st_mtime, run.name)).name


def _embeds(path: Path) -> bool:
    """Whether a configuration is that of a run with an embedding space; encoders and other models lie there too."""
    try:
        return load(path, RunConfig).arm in ("vljepa", "hybrid")
    except UserError:
        return False

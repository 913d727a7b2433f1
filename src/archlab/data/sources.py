"""From `data.source` to a `Dataset`: the built-in scenes, a named set, the user's own files, or the hub."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from archlab.config import DataConfig
from archlab.data.example import Dataset, Images
from archlab.data.pairs import load_hub, load_pairs
from archlab.data.scenes.dataset import SceneDataConfig, build_scenes
from archlab.data.scenes.video import FEWEST_FRAMES
from archlab.data.scenes.video_dataset import VideoDataConfig, build_videos
from archlab.data.sets import SETS, load_set
from archlab.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def load_dataset(config: DataConfig, image_size: int) -> Dataset:
    """Load what `config.source` names.

    - `scenes`: the built-in procedural data; with `config.frames`, short videos of the same world.
    - `NAME`: a named set (`data.sets`) from the folder `ARCHLAB_DATA`; `NAME:PATH` from a download of its official
      source; `NAME:hub` from the hub, where it is there.
    - a folder, a parquet or a tar file: `data.pairs`.
    - `hub:ID`, `stream:ID`, or `owner/name` that is no local path: the hub; see `data.pairs.hub`.

    Args:
        image_size: side of the images or clips; scenes are drawn at it, all others are scaled to it.

    Raises:
        UserError: the source is none of these (the nearest name is suggested), or cannot be read.
    """
    source = config.source
    prefix, _, rest = source.partition(":")
    if source == "scenes":
        return _scenes(config, image_size)
    if prefix in SETS:
        _require_images(config)
        return load_set(prefix, rest, config.pairs, image_size=image_size, seed=config.seed)
    if prefix in ("hub", "stream") and rest:
        _require_images(config)
        return load_hub(rest, config.pairs, image_size=image_size, seed=config.seed, stream=prefix == "stream")
    path = Path(source).expanduser()
    if source and path.exists():
        return load_pairs(path, config.pairs, image_size=image_size, seed=config.seed, frames=config.frames)
    if _HUB_ID.fullmatch(source) and not source.startswith("."):
        _require_images(config)
        return load_hub(source, config.pairs, image_size=image_size, seed=config.seed, stream=False)
    names = ["scenes", *SETS]
    near = difflib.get_close_matches(prefix, names, n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]!r}?" if near else f"give a path, a hub id, or one of {', '.join(names)}"
    raise UserError(f"data.source={source!r}: is no known set, no file or folder and no hub id; {suggestion}")


def _require_images(config: DataConfig) -> None:
    if config.frames:
        raise UserError(
            f"data.frames={config.frames}: is for the built-in scenes and for clips in a folder; leave it at 0 for "
            f"data.source={config.source!r}"
        )


def _scenes(config: DataConfig, image_size: int) -> Dataset:
    sizes = dataclasses.asdict(config.scenes)
    kept = sizes.pop("kinds")
    settings = sizes | {"image_size": image_size, "seed": config.seed}
    if not config.frames:
        dataset = build_scenes(SceneDataConfig(**settings))
    else:
        if config.frames < FEWEST_FRAMES:
            raise UserError(f"data.frames={config.frames}: must be at least {FEWEST_FRAMES} to show what happens")
        dataset = build_videos(VideoDataConfig(**settings, frames=config.frames))
    return _only(dataset, kept) if kept else dataset


def _only(dataset: Dataset, kept: Sequence[str]) -> Dataset:
    """The data set with questions of the kinds `kept` alone; captions stay."""
    kinds = sorted(dataset["train"].candidates)
    for kind in kept:
        if kind not in kinds:
            near = difflib.get_close_matches(kind, kinds, n=1, cutoff=0.0)[0]
            raise UserError(f"data.scenes.kinds: kind {kind!r} is unknown; did you mean {near!r}?")
    splits = {
        name: dataclasses.replace(
            split,
            examples=[one for one in split.examples if one.task == "caption" or one.kind in kept],
            candidates={kind: texts for kind, texts in split.candidates.items() if kind in kept},
            digest=hashlib.sha256(f"{split.digest} {sorted(kept)}".encode()).hexdigest(),
        )
        for name, split in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits)


def image_source(name: str, image_size: int = 64, seed: int = 0) -> Images:
    """Images of the training split of a source, for the pretraining of an encoder: never one that is evaluated on.

    Args:
        name: as `data.source`.
        seed: must be the `data.seed` of later evaluations, since it decides which images a cut holds out.
    """
    return load_dataset(DataConfig(source=name, seed=seed), image_size)["train"].images

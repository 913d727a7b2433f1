from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archlab.config import PretrainConfig
from archlab.data.scenes.render import label_map
from archlab.data.scenes.world import SceneConfig, sample_scenes
from archlab.evaluate import encoder_probes
from archlab.evaluate.encoder_probes import probe_encoder, probe_items
from archlab.layers.embeddings import patchify
from archlab.vl.encoder import FrozenEncoder

LINEAR = {"pooled/count", "tokens/shape", "tokens/colour", "dense/shape", "dense/colour"}
PROBES = LINEAR | {"knn/count", "knn/shape", "knn/colour"}


class Pixels(nn.Module):
    """Says of every patch its mean colour ("colour"), its mean brightness ("grey"), or nothing ("blank")."""

    config = SimpleNamespace(image_size=64, patch_size=8)

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, images: Tensor) -> Tensor:
        colour = patchify(images, 8).unflatten(-1, (3, -1)).mean(-1)  # (B, N, 3)
        if self.what == "grey":
            return colour.mean(-1, keepdim=True)
        return colour if self.what == "colour" else torch.zeros_like(colour)


def encoder(what: str) -> FrozenEncoder:
    return FrozenEncoder(Pixels(what), 2, what, {})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_probes, "_COUNTS", {"train": 300, "fit": 60, "validation": 120})
        encoder_probes._scenes.cache_clear()
        result = {what: probe_encoder(encoder(what)) for what in ("colour", "grey", "blank")}
    encoder_probes._scenes.cache_clear()
    return result


def test_features_that_say_nothing_score_as_the_most_frequent_answer(scores: dict[str, dict[str, float]]) -> None:
    config = SceneConfig()
    train, test = sample_scenes(300, config, split="train"), sample_scenes(120, config, split="validation")
    most = Counter(len(scene.objects) for scene in train).most_common(1)[0][0]
    assert scores["blank"]["pooled/count"] == np.mean([len(scene.objects) == most for scene in test])
    single = SceneConfig(max_objects=1)
    colours = Counter(scene.objects[0].colour for scene in sample_scenes(300, single, split="train"))
    alone = [scene.objects[0].colour for scene in sample_scenes(120, single, split="validation")]
    ties = [colour for colour, count in colours.items() if count == max(colours.values())]
    assert scores["blank"]["tokens/colour"] in [np.mean([colour == tie for colour in alone]) for tie in ties]


def test_colour_is_read_off_features_that_hold_it_and_not_off_brightness(scores: dict[str, dict[str, float]]) -> None:
    assert scores["colour"]["dense/colour"] > 0.7
    assert scores["grey"]["dense/colour"] < 0.45
    assert scores["colour"]["dense/colour"] > scores["colour"]["dense/shape"] + 0.3
    assert scores["colour"]["tokens/colour"] > scores["grey"]["tokens/colour"] + 0.1


def test_every_probe_is_there_and_the_same_encoder_scores_the_same(
    few_probes: None, tiny_pretraining: PretrainConfig
) -> None:
    first, again = (probe_encoder(FrozenEncoder.random(tiny_pretraining)) for _ in range(2))
    assert first.keys() == PROBES
    assert all(0 <= score <= 1 for score in first.values())
    assert again == first


def test_each_probe_says_of_every_item_whether_it_is_right_and_which_image_it_is_of(
    few_probes: None, tiny_pretraining: PretrainConfig
) -> None:
    encoder = FrozenEncoder.random(tiny_pretraining)
    items = probe_items(encoder, "validation")
    assert {name: right.mean() for name, (right, _) in items.items()} == probe_encoder(encoder)
    for name, (right, images) in items.items():
        assert right.dtype == bool
        assert len(right) == len(images)
        if not name.startswith("dense"):
            assert images.tolist() == list(range(40))
    test = probe_items(encoder, "test")
    assert test.keys() == items.keys()
    assert any(not np.array_equal(test[name][0], items[name][0]) for name in items)  # other scenes
    seen = [set(encoder_probes._scenes(split, SceneConfig(), 8)[0]) for split in ("train", "fit", "validation", "test")]
    assert not seen[3] & (seen[0] | seen[1] | seen[2])


def test_no_scene_is_in_two_of_the_sets_that_a_probe_reads(few_probes: None) -> None:
    sets = [encoder_probes._scenes(name, SceneConfig(), 8)[0] for name in ("train", "fit", "validation")]
    assert all(len(set(scenes)) == len(scenes) for scenes in sets)
    assert len(set().union(*sets)) == sum(map(len, sets))


def test_a_patch_belongs_to_the_object_that_covers_a_quarter_of_it(few_probes: None) -> None:
    scenes, images, owners = encoder_probes._scenes("validation", SceneConfig(), 8)
    assert images.shape == (len(scenes), 64, 64, 3)
    for scene, row in zip(scenes, owners, strict=True):
        pixels = label_map(scene, 64)
        for patch, owner in enumerate(row):
            top, left = 8 * (patch // 8), 8 * (patch % 8)
            inside = pixels[top : top + 8, left : left + 8].ravel()
            counts = Counter(inside[inside >= 0].tolist())
            enough = {one for one, count in counts.items() if count >= 16 and count == max(counts.values())}
            assert owner in enough or (owner == -1 and not enough)

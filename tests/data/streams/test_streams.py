"""Streams: what is true of every frame is known, and nothing else decides what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab.config import DataConfig
from archlab.data.example import Example, Split
from archlab.data.scenes.language import caption_meaning
from archlab.data.scenes.questions import scene_caption
from archlab.data.scenes.render import render
from archlab.data.scenes.world import HELD_OUT_PAIRS, Draws, SceneConfig, sample_scenes
from archlab.data.streams import Stream, StreamConfig, stream_source
from archlab.data.streams.images import image_streams
from archlab.data.streams.scenes import SceneFilm, scene_streams
from archlab.data.streams.stream import event_times
from archlab.errors import UserError

CONTRASTS = ("low", "medium", "high")
SHORT = StreamConfig(frames=80, interval=8)


def scenes(config: StreamConfig, split: str = "train", count: int = 2) -> list[Stream]:
    return list(scene_streams(config, split, count, image_size=32, paraphrases=4))


def pictures(meanings: int = 4, each: int = 3, name: str = "train") -> Split:
    """Flat grey pictures: brightness 40 m + e is the e-th picture of meaning m."""
    examples, images = [], []
    for meaning in range(meanings):
        for one in range(each):
            images.append(np.full((32, 32, 3), 40 * meaning + one + 20, np.uint8))
            text = (f"land {meaning}",)
            examples.append(Example(f"{meaning}-{one}", len(images) - 1, "vqa", "class", ("what?",), text, text[0]))
    return Split(name, np.stack(images), examples, "digest", "image digest")


STILL = StreamConfig(frames=80, interval=8, drift=0, exposure=0, noise=0)


def shown(stream: Stream) -> list[tuple[int, int]]:
    """(meaning, picture) of every frame of a still stream of `pictures`."""
    levels = stream.draw(0, stream.frames)[:, 16, 16, 0].astype(int) - 20
    return [divmod(int(level), 40) for level in levels]


@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0, 30), st.integers(20, 200))
def test_events_keep_the_shortest_gap_also_to_both_ends(seed: int, shortest: int, more: float, frames: int) -> None:
    times = event_times(Draws(seed), frames, shortest + more, shortest)
    assert all(gap >= shortest for gap in np.diff([0, *times, frames]))


def test_events_come_as_often_as_asked_at_random_intervals() -> None:
    gaps = np.diff(event_times(Draws(0), 60_000, 12.0, 3))
    assert gaps.mean() == pytest.approx(12.0, rel=0.05)
    assert gaps.std() == pytest.approx(9.5, rel=0.1)  # of a geometric number with mean 9


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_caption_of_a_segment_is_true_of_each_of_its_frames(contrast: str) -> None:
    for stream in scenes(replace(SHORT, contrast=contrast), count=4):  # type: ignore[arg-type]
        assert isinstance(stream.draw, SceneFilm)
        for segment in stream.segments:
            for frame in range(segment.start, segment.stop):
                assert caption_meaning(scene_caption(stream.draw.scene(frame))) == segment.meaning


def test_every_event_changes_what_is_to_be_said() -> None:
    for contrast in CONTRASTS:
        for stream in scenes(replace(SHORT, contrast=contrast), count=4):  # type: ignore[arg-type]
            assert len(stream.segments) > 2
            assert all(one.meaning != other.meaning for one, other in pairwise(stream.segments))
            assert [one.stop for one in stream.segments[:-1]] == [one.start for one in stream.segments[1:]]


def test_contrast_says_how_much_an_event_changes() -> None:
    """Pixels that differ across an event, without noise, drift and light."""
    changed = {}
    for contrast in CONTRASTS:
        config = StreamConfig(
            frames=120, interval=6, contrast=contrast, distractions=0, drift=0, exposure=0, noise=0  # type: ignore[arg-type]
        )  # fmt: skip
        differences = []
        for stream in scenes(config, count=4):
            frames = stream.draw(0, stream.frames).astype(int)
            starts = [segment.start for segment in stream.segments[1:]]
            differences += [np.abs(frames[start] - frames[start - 1]).mean() for start in starts]
        changed[contrast] = np.mean(differences)
    assert 0 < changed["low"] < changed["medium"] < changed["high"]


def test_at_low_contrast_one_attribute_of_one_object_changes() -> None:
    for stream in scenes(replace(SHORT, contrast="low"), count=4):
        assert isinstance(stream.draw, SceneFilm)
        for one, other in pairwise(stream.segments):
            before, after = (
                sorted((o.size, o.colour, o.shape) for o in stream.draw.scene(segment.start).objects)
                for segment in (one, other)
            )
            gone, come = [name for name in before if name not in after], [name for name in after if name not in before]
            assert len(gone) == len(come) == 1
            assert sum(x != y for x, y in zip(gone[0], come[0], strict=True)) == 1


def test_a_distraction_changes_the_picture_and_not_the_truth() -> None:
    still = StreamConfig(frames=120, interval=40, distractions=5, drift=0, exposure=0, noise=0)
    jumps = 0
    for stream in scenes(still):
        frames = stream.draw(0, stream.frames).astype(int)
        starts = {segment.start for segment in stream.segments}
        jumps += sum(
            np.abs(frames[frame] - frames[frame - 1]).mean() > 1 for frame in range(1, 120) if frame not in starts
        )
        calm = replace(still, distractions=0)
    assert jumps > 10
    for stream in scenes(calm):
        for segment in stream.segments:
            frames = stream.draw(segment.start, segment.stop)
            assert (frames == frames[0]).all()


def test_frames_are_still_scenes_as_models_are_trained_on() -> None:
    """Without changes of light, a frame is what the renderer of the training pictures makes of its truth."""
    (stream,) = scenes(replace(SHORT, exposure=0), count=1)
    assert isinstance(stream.draw, SceneFilm)
    np.testing.assert_array_equal(stream.draw(7, 9), render([stream.draw.scene(7), stream.draw.scene(8)], 32))


def test_noise_and_drift_make_every_frame_another_one() -> None:
    for config in (replace(STILL, noise=0.5), replace(STILL, drift=1.0)):
        (stream,) = scenes(replace(config, distractions=0), count=1)
        segment = max(stream.segments, key=lambda one: one.stop - one.start)
        frames = stream.draw(segment.start, segment.stop)
        assert all((one != other).any() for one, other in pairwise(frames))


@pytest.mark.parametrize("kind", ["scenes", "images"])
def test_a_frame_is_the_same_whichever_are_drawn_with_it(kind: str) -> None:
    stream = scenes(SHORT)[1] if kind == "scenes" else list(image_streams(SHORT, pictures(), 2))[1]
    whole = stream.draw(0, stream.frames)
    assert whole.dtype == np.uint8
    for start, stop in ((0, 1), (17, 18), (30, 50)):
        np.testing.assert_array_equal(stream.draw(start, stop), whole[start:stop])


@pytest.mark.parametrize("kind", ["scenes", "images"])
def test_a_longer_list_of_streams_begins_with_the_shorter_one(kind: str) -> None:
    def draw(count: int) -> list[Stream]:
        return scenes(SHORT, count=count) if kind == "scenes" else list(image_streams(SHORT, pictures(), count))

    for one, other in zip(draw(1), draw(3), strict=False):
        assert (one.name, one.segments) == (other.name, other.segments)
        np.testing.assert_array_equal(one.draw(0, 20), other.draw(0, 20))


def test_splits_and_seeds_are_different_streams() -> None:
    seen = {
        tuple(segment.meaning for segment in scenes(replace(SHORT, seed=seed), split, 1)[0].segments)
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    }
    assert len(seen) == 6


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_no_ordinary_stream_shows_a_held_out_combination(contrast: str) -> None:
    config = replace(SHORT, frames=400, interval=3, contrast=contrast)  # type: ignore[arg-type]
    for stream in scenes(config, "test", 3):
        assert isinstance(stream.draw, SceneFilm)
        pairs = {(o.colour, o.shape) for shot in stream.draw.shots for o in (mover.home for mover in shot.movers)}
        assert not pairs & HELD_OUT_PAIRS


def test_scenes_of_the_still_world_are_as_before() -> None:
    """Streams share its parts: moving them may not move the pictures that committed results were measured on."""
    names = [[(o.size, o.colour, o.shape) for o in scene.objects] for scene in sample_scenes(2, SceneConfig())]
    assert names == [
        [("large", "orange", "cross"), ("small", "orange", "circle"), ("small", "orange", "star")],
        [("small", "blue", "cross"), ("small", "pink", "square")],
    ]


def test_pictures_of_a_segment_mean_what_it_says() -> None:
    for stream in image_streams(STILL, pictures(), 3):
        meanings = [meaning for meaning, _ in shown(stream)]
        for segment in stream.segments:
            assert segment.texts == (f"land {meanings[segment.start]}",)
            assert set(meanings[segment.start : segment.stop]) == {int(segment.meaning[-1])}
        assert all(one.meaning != other.meaning for one, other in pairwise(stream.segments))


def test_a_distraction_among_pictures_is_another_picture_of_the_same_meaning() -> None:
    def cuts(distractions: float) -> int:
        config = replace(STILL, frames=200, distractions=distractions)
        return sum(
            before[0] == after[0] and before[1] != after[1]
            for stream in image_streams(config, pictures(each=8), 3)
            for before, after in pairwise(shown(stream))
        )

    assert cuts(0) == 0
    assert cuts(3) > 20


def test_pictures_follow_similar_ones_at_low_contrast_and_others_at_high() -> None:
    def steps(contrast: str) -> float:
        config = replace(STILL, frames=200, distractions=0, contrast=contrast)  # type: ignore[arg-type]
        return float(
            np.mean(
                [
                    abs(int(one.meaning[-1]) - int(other.meaning[-1]))
                    for stream in image_streams(config, pictures(6), 3)
                    for one, other in pairwise(stream.segments)
                ]
            )
        )

    assert steps("low") == 1.0
    assert steps("low") < steps("medium") < steps("high")


def test_the_camera_pans_without_leaving_the_picture() -> None:
    split = pictures()
    ramp = np.arange(32, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    split = replace(split, images=np.stack([ramp] * len(split.examples)))
    (stream,) = image_streams(replace(STILL, drift=1.0), split, 1)
    middles = stream.draw(0, 80)[:, 16, 16, 0].astype(int)
    assert len(set(middles)) > 3
    assert np.abs(middles - 16).max() <= 3


def test_pictures_of_one_meaning_make_no_stream() -> None:
    with pytest.raises(UserError, match="'what\\?' mean the same"):
        list(image_streams(SHORT, pictures(1), 1))


def test_a_source_gives_streams_of_scenes_and_of_any_pairs(tmp_path_factory: pytest.TempPathFactory) -> None:
    (stream,) = stream_source(DataConfig(), 32)(SHORT, "validation", 1)
    assert stream.query == "describe the picture"
    assert len(stream.segments[0].texts) == 4
    with pytest.raises(UserError, match="split='test_forms': has no streams"):
        stream_source(DataConfig(), 32)(SHORT, "test_forms", 1)


def test_streams_are_cut_from_real_pictures(real_data: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_DATA", str(real_data))
    source: Callable[..., Iterator[Stream]] = stream_source(DataConfig(source="clothing"), 32)
    (stream,) = source(SHORT, "validation", 1)
    assert stream.draw(0, 4).shape == (4, 32, 32, 3)
    assert len({segment.meaning for segment in stream.segments}) > 2
    assert stream.query == "what is this"  # a question, of which there are as many as captions


@pytest.mark.parametrize(
    ("values", "rule"), [({"interval": 2.0}, "must be at least shortest=3"), ({"frames": 2}, "at least shortest=3")]
)
def test_settings_that_leave_no_room_are_refused(values: dict[str, float], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        StreamConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["scenes", "a folder of clips"])
def test_streams_are_no_clips(source: str) -> None:
    with pytest.raises(UserError, match=r"data\.frames=8: a stream is watched frame by frame; give runs trained on im"):
        stream_source(DataConfig(source=source, frames=8), 32)

"""Promises about videos: what is said to happen can be seen in the pixels, at the frame that is named."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from archlab.data.scenes.language import Spoken, wordings
from archlab.data.scenes.render import label_maps, render
from archlab.data.scenes.video import (
    EVENTS,
    VideoConfig,
    render_video,
    sample_videos,
    video_candidates,
    video_caption,
    video_examples,
)
from archlab.data.scenes.world import HELD_OUT_PAIRS, Scene
from archlab.errors import UserError

CLEAN = VideoConfig(max_objects=1, max_noise=0)
CANONICAL = Spoken(wordings(1), wordings(1))


def difference(video):
    """Per frame, which pixels the objects change, (T, H, W)."""
    bare = render([Scene((), video.background, 0.0, 0)], 64)[0].astype(int)
    return np.abs(render_video(video, 64) - bare).max(-1) > 12


def lone_tracks(event):
    for video in sample_videos(250, CLEAN):
        if video.tracks[0].event == event:
            yield video, video.tracks[0], difference(video)


def centres(shown):
    return np.array([(np.argwhere(frame).mean(0)[::-1] if frame.any() else (np.nan, np.nan)) for frame in shown])


def test_a_video_has_the_promised_shape_and_is_deterministic():
    config = VideoConfig(frames=10)
    first, second = sample_videos(2, config)
    assert render_video(first, 64).shape == (10, 64, 64, 3)
    assert np.array_equal(render_video(first, 64), render_video(sample_videos(1, config)[0], 64))
    assert second == sample_videos(1, config, start=1)[0]


@pytest.mark.parametrize(
    ("motion", "right", "down"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1), ("still", 0, 0)]
)
def test_objects_move_the_way_they_are_said_to(motion, right, down):
    found = 0
    for video, track, shown in lone_tracks(None):
        if track.motion == motion:
            found += 1
            path = np.diff(centres(shown), axis=0)
            assert np.abs(path - 64 * track.speed * np.array([right, down])).max() < 0.6
            assert video.frames == len(shown)
    assert found > 5


@pytest.mark.parametrize(("event", "before", "after"), [("appears", False, True), ("disappears", True, False)])
def test_objects_come_and_go_at_the_named_frame(event, before, after):
    for _, track, shown in lone_tracks(event):
        visible = shown.any((1, 2))
        assert (visible[: track.event_frame] == before).all()
        assert (visible[track.event_frame :] == after).all()


@pytest.mark.parametrize("event", ["stops", "starts"])
def test_objects_stop_and_start_at_the_named_frame(event):
    for _, track, shown in lone_tracks(event):
        steps = np.abs(np.diff(centres(shown), axis=0)).sum(1) > 0.5  # step i leads to frame i + 1
        expected = np.arange(1, len(shown)) < track.event_frame
        assert np.array_equal(steps, expected if event == "stops" else ~expected)


def test_colours_change_at_the_named_frame():
    for video, track, _ in lone_tracks("changes colour"):
        frames = render_video(video, 64).astype(float)
        for frame, image in enumerate(frames):
            old, new = ((np.abs(image - np.array(rgb)).max(-1) < 2).sum() for rgb in (track.start.rgb, track.later.rgb))
            assert (new > old) == (frame >= track.event_frame)
        assert track.start.colour != track.later.colour


def test_objects_stay_inside_the_picture():
    for video in sample_videos(150, VideoConfig(frames=12)):
        for frame in range(video.frames):
            for one in video.scene(frame).objects:
                assert one.radius <= one.x <= 1 - one.radius
                assert one.radius <= one.y <= 1 - one.radius


def test_no_object_hides_another_in_any_frame():
    for video in sample_videos(60, VideoConfig(min_objects=3)):
        scenes = [video.scene(frame) for frame in range(video.frames)]
        for scene, labels in zip(scenes, label_maps(scenes, 64), strict=True):
            for index, one in enumerate(scene.objects):
                alone = label_maps([Scene((one,), scene.background, 0.0, 0)], 64) == 0
                assert (labels == index).sum() >= 0.66 * alone.sum()


def test_ordinary_videos_never_show_a_held_out_pair_even_after_a_change():
    for video in sample_videos(300, VideoConfig()):
        looks = {(one.colour, one.shape) for track in video.tracks for one in (track.start, track.later)}
        assert not looks & HELD_OUT_PAIRS


def test_every_answer_is_true_of_the_object_it_names():
    config = VideoConfig()
    videos = sample_videos(200, config)
    for example in video_examples(videos, config, split="train", spoken=[CANONICAL], questions=6):
        if example.task != "vqa":
            continue
        words = set(example.queries[0].split())
        fitting = [
            track
            for track in videos[example.image].tracks
            if words & {"large", "small"} <= {track.start.size}
            and all(word in (track.start.colour, track.start.shape) for word in words if word in COLOURS_AND_SHAPES)
        ]
        (track,) = fitting
        assert example.meaning == f"{example.kind}:{getattr(track, example.kind)}"


COLOURS_AND_SHAPES = {
    *("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    *("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart"),
}


def test_answers_are_balanced_and_all_occur():
    config = VideoConfig()
    answers = defaultdict(Counter)
    for example in video_examples(sample_videos(600, config), config, split="train", spoken=[CANONICAL], questions=6):
        answers[example.kind][example.meaning] += 1
    for kind in ("motion", "event"):
        assert set(answers[kind]) == set(video_candidates()[kind].values())
        assert max(answers[kind].values()) / answers[kind].total() < 0.32


def test_the_dial_changes_targets_of_videos_only():
    config = VideoConfig()
    videos = sample_videos(30, config)
    few, many = (
        video_examples(videos, config, split="train", spoken=[Spoken(wordings(2), wordings(dial))]) for dial in (1, 32)
    )
    assert [(e.id, e.kind, e.meaning, e.targets[0]) for e in few] == [
        (e.id, e.kind, e.meaning, e.targets[0]) for e in many
    ]
    assert [list(e.queries) for e in few] == [list(e.queries) for e in many]
    assert len(many[0].queries) == 2
    assert len(many[0].targets) == 32


def test_examples_can_be_made_in_parts():
    config = VideoConfig()
    whole = video_examples(sample_videos(6, config), config, split="test", spoken=[CANONICAL])
    part = video_examples(sample_videos(3, config, start=3), config, split="test", spoken=[CANONICAL], start=3)
    assert [e.id for e in whole][-len(part) :] == [e.id for e in part]
    assert [e.meaning for e in whole][-len(part) :] == [e.meaning for e in part]


def test_a_caption_tells_every_objects_motion_and_event():
    for video in sample_videos(50, VideoConfig()):
        said = {(c.description.colour, c.description.shape, c.motion, c.event) for c in video_caption(video).clauses}
        assert said == {(t.start.colour, t.start.shape, t.motion, t.event) for t in video.tracks}


def test_splits_do_not_share_videos():
    splits = [sample_videos(100, VideoConfig(), split=split) for split in ("train", "validation", "test")]
    videos = [video for split in splits for video in split]
    assert len(set(videos)) == len(videos)


def test_all_events_occur():
    events = {track.event for video in sample_videos(200, VideoConfig()) for track in video.tracks}
    assert events == {*EVENTS, None}


@pytest.mark.parametrize("wrong", [{"frames": 2}, {"frames": 8.0}, {"max_objects": 4}, {"image_size": 3}])
def test_a_bad_setting_is_a_user_error_that_names_it(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        VideoConfig(**wrong)


def test_an_unknown_split_is_a_user_error():
    with pytest.raises(UserError, match="holdout"):
        sample_videos(1, VideoConfig(), split="holdout")

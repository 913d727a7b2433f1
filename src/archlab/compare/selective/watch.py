"""`archlab watch RUN CLIP`: a clip of any length put into words as it would be live, once for each change."""

from __future__ import annotations

from pathlib import Path

from archlab.compare.selective.recording import Watcher
from archlab.compare.selective.trigger import Event, OnlineTrigger, PacedTrigger, TriggerConfig
from archlab.data.clips import stream_clip
from archlab.errors import UserError


def watch(run: Path, clip: Path, query: str | None, *, rate: float, threshold: float, every: float | None) -> None:
    """Print one line for each segment: when it begins, in seconds, and what is seen. Memory stays constant.

    Args:
        run: of the VL-JEPA arm.
        query: what is asked of every frame; the run's own query of captions if not given.
        rate: frames per second that are looked at.
        threshold: of the trigger.
        every: seconds from one segment to the next, in the long run; the threshold then follows the clip.

    Raises:
        UserError: an option breaks its rule, or the run or the clip cannot be read.
    """
    for name, value in (("--rate", rate), ("--threshold", threshold), ("--every", every)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{name} {value:g}: must be positive and finite")
    watcher = Watcher.open(run)
    config, pairs = TriggerConfig(threshold=threshold), watcher.answerer.config.data.pairs
    trigger = OnlineTrigger(config) if every is None else PacedTrigger(config, max(1.0, every * rate))
    frames = decodes = segments = 0
    said = ""

    def speak(event: Event | None) -> None:
        nonlocal decodes, segments, said
        if event is None:
            return
        (spoken,) = watcher.readout.decode(event.embedding[None])
        text = " ".join(spoken.split())  # one line
        decodes += 1
        if text != said:
            segments += 1
            said = text
            print(f"{event.start / rate:10.2f} s  {text}", flush=True)

    size = watcher.answerer.encoder.image_size
    for _, pixels in stream_clip(clip, size, rate, max_pixels=pairs.max_pixels):
        (vector,) = watcher.embeddings(watcher.features(pixels[None]), query or pairs.query)
        frames += 1
        speak(trigger.update(vector))
    speak(trigger.finish())
    print(f"{frames} frames, {decodes} decodes, {segments} segments")

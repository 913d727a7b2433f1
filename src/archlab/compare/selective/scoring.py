"""What decodes are worth, in two readings.

paired    each annotation stands in the middle of its segment and is paired with the decode nearest in time (VL-JEPA,
          section 4.6)
dense     every frame shows the text that was said last; before the first one it shows nothing, which is worth nothing

Texts are judged by their facts (`caption/slots` of scenes, else `caption/exact`) and by CIDEr-D, whose document
frequencies come from the annotations of all streams, so that all policies are judged alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archlab.compare.selective.policies import Decode
from archlab.data.scenes.parser import slot_accuracy
from archlab.data.streams.stream import Segment, Stream
from archlab.evaluate.captioning import cider_d, exact_match

READINGS = ("paired", "dense")
CIDER = "caption/cider_d"

Place = tuple[str, float]
"""Who speaks, and at how many decodes per event."""

TOLERANCE = 2
"""Frames by which a cut may miss an event and still have found it."""

_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """A text that is held against a segment.

    Attributes:
        stream: number of the stream. segment: number of the segment in it.
        weight: annotations, or frames.
    """

    stream: int
    segment: int
    text: str
    weight: int


def paired(segments: Sequence[Segment], decodes: Sequence[Decode]) -> list[int]:
    """For each segment the decode that stands nearest to its middle, the earlier of two."""
    times = np.array([decode.frame for decode in decodes])
    return [int(np.abs(times - segment.middle).argmin()) for segment in segments]


def shown(segments: Sequence[Segment], decodes: Sequence[Decode]) -> list[tuple[int, int, int]]:
    """(segment, decode, frames) for every text that frames of a segment show, in the order of time."""
    ends = [decode.since for decode in decodes[1:]] + [segments[-1].stop]
    found = []
    for row, segment in enumerate(segments):
        for number, (decode, end) in enumerate(zip(decodes, ends, strict=True)):
            frames = min(segment.stop, end) - max(segment.start, decode.since)
            if frames > 0:
                found.append((row, number, frames))
    return found


def events_found(segments: Sequence[Segment], decodes: Sequence[Decode]) -> list[int]:
    """For each event that a cut lies within `TOLERANCE` frames of, each cut for one, the frames until its text shows.

    The beginning of a stream is no event, and a segment that begins there no cut.
    """
    cuts = [decode for decode in decodes if decode.begins > 0]
    delays, row = [], 0
    for event in (segment.start for segment in segments[1:]):
        while row < len(cuts) and cuts[row].begins < event - TOLERANCE:
            row += 1
        if row < len(cuts) and cuts[row].begins <= event + TOLERANCE:
            delays.append(cuts[row].since - event)
            row += 1
    return delays


class Judge:
    """Collects what was said of a set of streams, and scores all of it at once, every text and segment once.

    Args:
        streams: all of them, in the order of their numbers.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = streams
        segments = [segment for stream in streams for segment in stream.segments]
        scenes = all(segment.meaning.startswith("caption:") for segment in segments)
        self.facts = "caption/slots" if scenes else "caption/exact"
        self._corpus = [list(segment.texts) for segment in segments]
        self._counts: dict[Place, dict[str, list[int]]] = {}
        self._shown: dict[Place, dict[str, list[Shown]]] = {}

    def add(self, place: Place, number: int, decodes: Sequence[Decode], texts: Sequence[str]) -> None:
        """Take what was said of one stream.

        Args:
            place: who said it, and at how many decodes per event.
            number: of the stream; streams come in order.
            texts: one per decode.
        """
        segments = self.streams[number].segments
        delays = events_found(segments, decodes)
        counts = {
            "decodes": len(decodes),
            "waited": sum(decode.waited for decode in decodes),
            "cuts": sum(decode.begins > 0 for decode in decodes),
            "found": len(delays),
            "delays": sum(delays),
        }
        for name, count in counts.items():
            self._counts.setdefault(place, {}).setdefault(name, []).append(count)
        held = self._shown.setdefault(place, {reading: [] for reading in READINGS})
        held["paired"] += [Shown(number, row, texts[one], 1) for row, one in enumerate(paired(segments, decodes))]
        held["dense"] += [Shown(number, row, texts[one], frames) for row, one, frames in shown(segments, decodes)]

    def sums(self) -> dict[Place, dict[str, Any]]:
        """For every place one number for each stream of "decodes", of frames "waited" for them, of "cuts", of events
        "found" and of the frames of "delays" until these show; and for each reading and metric the sum of scores over
        the annotations or frames of each stream."""
        scores = self._scores()
        results: dict[Place, dict[str, Any]] = {}
        for place, held in self._shown.items():
            of_readings = {}
            for reading, texts in held.items():
                sums = {metric: [0.0] * len(self.streams) for metric in scores}
                for one in texts:
                    for metric, known in scores.items():
                        sums[metric][one.stream] += one.weight * known[one.stream, one.segment, one.text]
                of_readings[reading] = {metric: [round(value, _DIGITS) for value in of] for metric, of in sums.items()}
            results[place] = self._counts[place] | of_readings
        return results

    def _scores(self) -> dict[str, dict[tuple[int, int, str], float]]:
        """Metric -> score of every text held against every segment."""
        everything = [one for held in self._shown.values() for texts in held.values() for one in texts]
        pairs = list(dict.fromkeys((one.stream, one.segment, one.text) for one in everything))
        references = [list(self.streams[stream].segments[segment].texts) for stream, segment, _ in pairs]
        said = [text for _, _, text in pairs]
        if self.facts == "caption/slots":
            facts = [slot_accuracy(text, texts[0]) for text, texts in zip(said, references, strict=True)]
        else:
            facts = exact_match(said, references).tolist()
        return {
            self.facts: dict(zip(pairs, facts, strict=True)),
            CIDER: dict(zip(pairs, cider_d(said, references, corpus=self._corpus).tolist(), strict=True)),
        }

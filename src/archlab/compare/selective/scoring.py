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

import numpy as np

from archlab.compare.selective.policies import Decode
from archlab.data.scenes.parser import slot_accuracy
from archlab.data.streams.stream import Segment, Stream
from archlab.evaluate.captioning import cider_d, exact_match

READINGS = ("paired", "dense")
CIDER = "caption/cider_d"


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


def held_against(
    number: int, segments: Sequence[Segment], decodes: Sequence[Decode], texts: Sequence[str]
) -> dict[str, list[Shown]]:
    """Reading -> the texts of one stream's decodes, held against its segments.

    Args:
        number: of the stream.
    """
    return {
        "paired": [Shown(number, row, texts[chosen], 1) for row, chosen in enumerate(paired(segments, decodes))],
        "dense": [Shown(number, row, texts[chosen], frames) for row, chosen, frames in shown(segments, decodes)],
    }


class Judge:
    """Scores texts against the segments of a set of streams; each text and segment once.

    Args:
        streams: all of them, in the order of their numbers.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.segments = [stream.segments for stream in streams]
        everything = [segment for segments in self.segments for segment in segments]
        scenes = all(segment.meaning.startswith("caption:") for segment in everything)
        self.facts = "caption/slots" if scenes else "caption/exact"
        self._corpus = [list(segment.texts) for segment in everything]

    def sums(self, found: Sequence[Sequence[Shown]]) -> list[dict[str, list[float]]]:
        """For each list of texts: metric -> sum of weight times score, for every stream.

        All lists are judged in one call: CIDEr-D is quicker so.
        """
        pairs = list(dict.fromkeys((one.stream, one.segment, one.text) for texts in found for one in texts))
        references = [list(self.segments[stream][segment].texts) for stream, segment, _ in pairs]
        said = [text for _, _, text in pairs]
        if self.facts == "caption/slots":
            facts = [slot_accuracy(text, texts[0]) for text, texts in zip(said, references, strict=True)]
        else:
            facts = exact_match(said, references).tolist()
        scores = {
            self.facts: dict(zip(pairs, facts, strict=True)),
            CIDER: dict(zip(pairs, cider_d(said, references, corpus=self._corpus).tolist(), strict=True)),
        }
        results = []
        for texts in found:
            sums = {metric: [0.0] * len(self.segments) for metric in scores}
            for one in texts:
                for metric, known in scores.items():
                    sums[metric][one.stream] += one.weight * known[one.stream, one.segment, one.text]
            results.append(sums)
        return results

"""The messages of a stream. Those of a client are checked like bodies of requests; ours have a `type` each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from archlab.compare.selective.trigger import TriggerConfig
from archlab.serve.problems import ProblemDocument
from archlab.serve.schemas import DESCRIBE, Answer, Body, ImageData, ModelName, Text

_MOST_WINDOW, _MOST_SETTLE = 64, 256
_DEFAULT = TriggerConfig()


class Configure(Body):
    """The first message: what is watched, and when it is put into words."""

    model: ModelName = None
    query: Text = Field(default=DESCRIBE, description="What is asked of every frame.")
    threshold: float = Field(
        default=_DEFAULT.threshold,
        gt=0,
        le=1e6,
        description="Change of the embedding, as a squared distance times frames, above which a segment begins.",
    )
    interval: float | None = Field(
        default=None,
        ge=2,
        le=1e6,
        description="A segment begins about once in so many frames: `threshold` is where it begins, and it follows.",
    )
    window: int = Field(
        default=_DEFAULT.window,
        ge=1,
        le=_MOST_WINDOW,
        description="Last frames among which a change may have begun; more find smaller changes, later.",
    )
    settle: int = Field(
        default=_DEFAULT.settle,
        ge=1,
        le=_MOST_SETTLE,
        description="Frames after which a segment is spoken, with their mean: 1 at once, more say it better.",
    )
    overload: Literal["close", "drop"] = Field(
        default="close",
        description="What frames beyond the credit do: `close` the stream, or `drop` the oldest that waits.",
    )

    def trigger(self) -> TriggerConfig:
        """The trigger's part."""
        return TriggerConfig(threshold=self.threshold, window=self.window, settle=self.settle)


class FrameMessage(Body):
    """A frame; the bytes of an image as a binary message are one without a timestamp."""

    type: Literal["frame"]
    image: ImageData
    timestamp: FiniteFloat | None = Field(default=None, description="Seconds on your clock; by default on ours.")


class FinishMessage(Body):
    """No frame follows: what waits is watched, and the stream ends with 1000."""

    type: Literal["finish"]


Said = Annotated[FrameMessage | FinishMessage, Field(discriminator="type")]
SAID: TypeAdapter[FrameMessage | FinishMessage] = TypeAdapter(Said)


class Moment(Answer):
    """A frame."""

    frame: int = Field(description="Its number among those sent, from 0.")
    timestamp: float = Field(description="Yours, or seconds from `ready` to its arrival.")


class Counts(Answer):
    """How far the stream has come."""

    frames: int = Field(description="Frames done with: watched, dropped or refused.")
    dropped: int = Field(description="Of them, dropped because they came beyond the credit.")
    refused: int = Field(description="Of them, no images that are read here; each has a `problem`.")
    decodes: int = Field(description="Texts decoded.")
    segments: int = Field(description="Segments spoken; one decoded in the words of the last only prolongs it.")


class Ready(Answer):
    """The configuration is accepted; frames may come."""

    type: Literal["ready"] = "ready"
    model: str
    credit: int = Field(description="Frames that may be sent and not yet acknowledged.")
    threshold: float
    request_id: str


class Acknowledged(Counts):
    """Frames were dealt with: as many more may be sent."""

    type: Literal["ack"] = "ack"


class SegmentBegan(Counts):
    """The meaning has changed, and this is what it is now."""

    type: Literal["segment"] = "segment"
    number: int = Field(description="From 0.")
    start: Moment = Field(description="The first frame that it is about.")
    spoken: Moment = Field(description="The frame at which it was spoken.")
    text: str
    confidence: float = Field(description="Geometric mean of the probabilities of the tokens, from 0 to 1.")


class SegmentEnded(Answer):
    """The meaning that was spoken last holds no longer, or the stream is over."""

    type: Literal["segment_end"] = "segment_end"
    number: int
    start: Moment
    end: Moment = Field(description="Its last frame.")
    text: str


class Trouble(Answer):
    """Something is wrong: with one frame, which is skipped, or with the stream, which then ends."""

    type: Literal["problem"] = "problem"
    frame: int | None = Field(description="Number of the frame; null: the stream.")
    problem: ProblemDocument


class Ended(Counts):
    """The last message."""

    type: Literal["end"] = "end"
    code: int = Field(description="Of the close that follows.")


INWARD: tuple[type[Body], ...] = (Configure, FrameMessage, FinishMessage)
OUTWARD: tuple[type[Answer], ...] = (Ready, Acknowledged, SegmentBegan, SegmentEnded, Trouble, Ended)

"""One stream from its first message to its last: frames -> embeddings -> trigger -> texts.

Two tasks share it. One reads, always, so that a client that leaves or breaks a rule is noticed while a model computes;
the other watches what was read. All else waits for the client: nothing is read, kept or computed beyond its credit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import structlog
from pydantic import ValidationError
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from archlab.compare.selective.trigger import Event, OnlineTrigger, PacedTrigger
from archlab.errors import UserError
from archlab.serve import problems
from archlab.serve.calls import Caller
from archlab.serve.context import RequestContext
from archlab.serve.errors import Overloaded, ServeError
from archlab.serve.problems import Kind, Problem, ProblemDocument
from archlab.serve.schemas import Answer
from archlab.serve.service import Service
from archlab.serve.streams import messages
from archlab.serve.streams.intake import Frame, Intake
from archlab.serve.streams.messages import SAID, Configure, Moment
from archlab.serve.uploads import encoded_size

Result = TypeVar("Result")

FINISHED, LEAVING, BROKEN_RULE = 1000, 1001, 1008
CODES: dict[Kind, int] = {
    problems.ENGINE_FAILED: 1011,
    problems.INTERNAL: 1011,
    problems.NOT_READY: 1012,
    problems.OVERLOADED: 1013,
    problems.EXPIRED: 1013,
}
"""Kind of problem -> code of the close (RFC 6455); all others are 1008, a broken rule."""

_FAREWELL = 5.0  # seconds for the last messages
_DEFECT = "The service has a defect; its log has more under this request id."


class Session:
    """One stream.

    Args:
        socket: accepted.
        service: that it came to.
        caller: who sends it.
        context: of the request that opened it.
    """

    def __init__(self, socket: WebSocket, service: Service, caller: Caller, context: RequestContext) -> None:
        self._socket, self._service, self._caller, self._context = socket, service, caller, context
        self._settings, self._metrics = service.settings, service.metrics
        self._intake = Intake(self._settings.stream_frames, "close")
        self._refused = self._decodes = self._segments = 0
        self._open: messages.SegmentBegan | None = None
        self._moments: deque[Moment] = deque(maxlen=1)  # of the last frames that the trigger saw
        self._seen = 0  # frames that the trigger saw
        self._leaving = False
        self._began = time.monotonic()

    async def run(self) -> None:
        """Until it ends, whatever ends it; then the socket is closed."""
        code, end = 1006, "left"
        try:
            code = await self._outcome()
            end = str(code)
        except WebSocketDisconnect as gone:
            code = gone.code
        finally:  # also where the server cancels it
            self._metrics.streams.labels(end).inc()
            facts = {
                "request_id": self._context.request_id,
                "caller": self._context.caller,
                "model": self._context.model,
                "code": code,
                "end": end,
                "seconds": round(time.monotonic() - self._began, 3),
                **self._counts(),
            }
            if self._context.problem:
                facts["problem"] = self._context.problem
            structlog.get_logger().info("stream", **facts)

    def leave(self) -> None:
        """See `registry.Leaving`."""
        self._leaving = True
        self._intake.close()

    async def _outcome(self) -> int:
        """Everything, to the close; its code."""
        try:
            await self._configure()
            with self._service.streams.watched(self):
                await self._converse()
        except (Problem, ServeError, UserError) as error:
            return await self._end(problems.of(error))
        except WebSocketDisconnect:
            raise
        except Exception:
            structlog.get_logger().exception("defect", request_id=self._context.request_id, path="/v1/stream")
            return await self._end(Problem(problems.INTERNAL, _DEFECT))
        return await self._end(None)

    async def _configure(self) -> None:
        """The first message, and the answer to it."""
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                message = await self._receive()
        except TimeoutError:
            raise Problem(problems.SLOW_BODY, "The first message, the configuration, has not come.") from None
        if message.get("text") is None:
            raise Problem(problems.MALFORMED, "The first message must be the configuration, as JSON in a text message.")
        try:
            asked = Configure.model_validate_json(message["text"], strict=True)
        except ValidationError as error:
            raise problems.from_errors(error.errors(include_url=False), Configure.model_fields) from None
        with self._service.using(asked.model, "speak_vectors") as model:
            self._model, self._query = model, asked.query
        self._context.model = model.name
        self._intake = Intake(self._settings.stream_frames, asked.overload)
        config = asked.trigger()
        self._trigger = PacedTrigger(config, asked.interval) if asked.interval else OnlineTrigger(config)
        # As far as a segment that is spoken reaches back, and the last frame of the one before it.
        self._moments = deque(maxlen=config.window + config.settle + 1)
        self._began = time.monotonic()
        await self._send(
            messages.Ready(
                model=model.name,
                credit=self._settings.stream_frames,
                threshold=config.threshold,
                request_id=self._context.request_id,
            )
        )

    async def _converse(self) -> None:
        """Read and watch until the stream is over.

        Raises:
            Exception: what ended it before.
        """
        reader, worker = asyncio.create_task(self._read()), asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({reader, worker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, worker):
                task.cancel()
            await asyncio.gather(reader, worker, return_exceptions=True)
        # The reader never ends by itself. What it has to say comes first: the worker may fail because of it.
        (reader if reader in done else worker).result()

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.stream_idle_seconds):
                    message = await self._receive()
            except TimeoutError:
                if self._intake.outstanding or self._intake.closed:  # it is our turn, not the client's
                    continue
                rule = f"Nothing came for {self._settings.stream_idle_seconds:g} seconds; end a stream with 'finish'."
                raise Problem(problems.SLOW_BODY, rule) from None
            if not self._intake.closed:
                self._take(message)

    def _take(self, message: Message) -> None:
        """What the client said."""
        timestamp: float | None = None
        image: str | bytes | None = message.get("bytes")
        if image is None:
            try:
                said = SAID.validate_json(message["text"], strict=True)
            except ValidationError as error:
                names = messages.FrameMessage.model_fields
                raise problems.from_errors(error.errors(include_url=False), names) from None
            if isinstance(said, messages.FinishMessage):
                self._intake.close()
                return
            timestamp, image = said.timestamp, said.image
        if timestamp is None:
            timestamp = round(time.monotonic() - self._began, 3)
        kept: str | bytes | Problem = image
        if encoded_size(image) > self._settings.max_frame:
            kept = problems.invalid("image", f"must have at most {self._settings.max_frame} bytes", problems.TOO_LARGE)
        before = self._intake.dropped
        self._intake.put(timestamp, kept)
        self._metrics.stream_frames.labels("dropped").inc(self._intake.dropped - before)

    async def _work(self) -> None:
        while frames := await self._next():
            if not self._caller.known(self._service.keys):
                raise Problem(problems.UNAUTHENTICATED, f"Key {self._caller.id!r} was changed or revoked.")
            await self._watch(frames)
        if (event := self._trigger.finish()) is not None:
            await self._speak(event)

    async def _next(self) -> Sequence[Frame]:
        """The frames that wait, as soon as the rate of the key allows; none: the stream is over."""
        limits = self._model.limits.batches
        while await self._intake.filled():
            count = min(len(self._intake), limits.batch, limits.queue)
            if not (wait := self._caller.wait(count)):
                return self._intake.take(count)
            await asyncio.sleep(wait)  # meanwhile the client has its credit, and no more
        return ()

    async def _watch(self, frames: Sequence[Frame]) -> None:
        """Put into words what changes in these frames."""
        read = await asyncio.gather(*map(self._pixels, frames))
        images = [one for one in read if not isinstance(one, Problem)]
        vectors = iter(await self._ask(self._model.embed_images, images, [self._query] * len(images)))
        for frame, one in zip(frames, read, strict=True):
            if isinstance(one, Problem):
                self._refused += 1
                self._metrics.stream_frames.labels("refused").inc()
                await self._send(self._trouble(one, frame.number))
                continue
            self._moments.append(Moment(frame=frame.number, timestamp=frame.timestamp))
            self._seen += 1
            self._metrics.stream_frames.labels("watched").inc()
            if (event := self._trigger.update(next(vectors))) is not None:
                await self._speak(event)
        self._intake.settle(len(frames))
        await self._send(messages.Acknowledged(**self._counts()))

    async def _pixels(self, frame: Frame) -> np.ndarray | Problem:
        if isinstance(frame.image, Problem):
            return frame.image
        try:
            return await self._service.images.read(frame.image, self._model.image_size, "image", self._caller.id)
        except Problem as problem:
            return problem

    async def _speak(self, event: Event) -> None:
        """Say what is new; the words that were said last are not."""
        (spoken,) = await self._ask(self._model.speak_vectors, [event.embedding.astype(np.float32)])
        self._decodes += 1
        self._metrics.stream_decodes.inc()
        if self._open is not None and spoken.text == self._open.text:
            return
        if self._open is not None:
            await self._close_segment(self._moment(event.start - 1))
        self._segments += 1
        self._metrics.stream_segments.inc()
        began = messages.SegmentBegan(
            number=self._segments - 1,
            start=self._moment(event.start),
            spoken=self._moments[-1],
            text=spoken.text,
            confidence=spoken.confidence,
            **self._counts(),
        )
        await self._send(began)
        self._open = began

    async def _close_segment(self, end: Moment) -> None:
        assert self._open is not None
        ended, self._open = self._open, None
        message = messages.SegmentEnded(number=ended.number, start=ended.start, end=end, text=ended.text)
        await self._send(message)

    async def _end(self, problem: Problem | None) -> int:
        """The last messages and the close; its code."""
        code = LEAVING if self._leaving else FINISHED
        if problem is not None:
            self._context.problem = problem.kind.slug
            self._metrics.problems.labels(problem.kind.slug).inc()
            code = CODES.get(problem.kind, BROKEN_RULE)
        try:
            async with asyncio.timeout(_FAREWELL):
                if problem is not None:
                    await self._send(self._trouble(problem, None))
                if self._open is not None:
                    await self._close_segment(self._moments[-1])
                await self._send(messages.Ended(code=code, **self._counts()))
                await self._socket.close(code, "" if problem is None else problem.kind.title)
        except TimeoutError:  # it takes nothing more
            pass
        return code

    async def _ask(self, method: Callable[..., Awaitable[Result]], *columns: Sequence[object]) -> Result:
        """What a model says; while its queue is full, the stream waits.

        The model is held for this call alone: it can be unloaded between two, which ends the stream.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.deadline_seconds
        while True:
            try:
                with self._model.use():
                    return await method(*columns, deadline=deadline, caller=self._caller.id)
            except Overloaded as error:
                wait = error.retry_after or 1.0
                if loop.time() + wait > deadline:
                    raise
                await asyncio.sleep(wait)

    async def _receive(self) -> Message:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        return message

    async def _send(self, message: Answer) -> None:
        """Write, as soon as the client has taken what was written before.

        Raises:
            WebSocketDisconnect: it takes nothing any more.
        """
        try:
            async with asyncio.timeout(self._settings.stream_idle_seconds):
                await self._socket.send_text(message.model_dump_json())
        except TimeoutError:
            raise WebSocketDisconnect(1006, "takes nothing") from None

    def _moment(self, place: int) -> Moment:
        """Of a frame of the trigger's count."""
        return self._moments[place - self._seen]

    def _trouble(self, problem: Problem, frame: int | None) -> messages.Trouble:
        document = ProblemDocument.model_validate(problem.document(self._context.request_id))
        return messages.Trouble(frame=frame, problem=document)

    def _counts(self) -> dict[str, Any]:
        """See `messages.Counts`."""
        return {
            "frames": self._intake.done,
            "dropped": self._intake.dropped,
            "refused": self._refused,
            "decodes": self._decodes,
            "segments": self._segments,
        }

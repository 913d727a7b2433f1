"""Logs: one line of JSON per record on standard output, with the request id; audit records apart, without payloads."""

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Send the records of structlog and of the standard library through one form.

    Args:
        form: "json" or "text".
        level: least severe to write.
        stream: where to; standard output by default.
    """
    stream = stream or sys.stdout
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if form == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
    else:
        # Not the default of structlog, which shows the local variables: payloads and keys.
        plain = structlog.dev.plain_traceback
        last = [_on_one_line, structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    # uvicorn and libraries log through the standard library.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING  # what libraries say about requests, our own record says
    for name in ("archlab", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], name != "uvicorn.access"
        logger.setLevel(LEVELS[level])


class AuditLog:
    """Who changed what, and who was refused. No texts, no images, no keys.

    Args:
        path: file to append lines of JSON to; None writes into the log.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("ab", buffering=0) if path else None

    def write(self, action: str, **facts: object) -> None:
        """Append one record."""
        if self._file is None:
            structlog.get_logger().info("audit", action=action, **facts)
        else:
            record = {"timestamp": datetime.now(UTC), "action": action, **facts}
            self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _on_one_line(_: object, __: str, record: EventDict) -> EventDict:
    """Values as they are unless they could be mistaken for another record: the path of a request is its caller's."""
    return {name: one if not isinstance(one, str) or one.isprintable() else repr(one) for name, one in record.items()}


def _dumps(record: object, **_: object) -> str:
    return orjson.dumps(record, default=str).decode()

"""What an operator decides about the service: one environment variable each, `ARCHLAB_` and the field's name."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import archlab
from archlab.errors import UserError
from archlab.machine import usable_cores

WEIGHTS = Path(archlab.__file__).parent / "weights"
_KIB, _MIB = 2**10, 2**20


class Settings(BaseSettings):
    """The settings of one service; lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix="ARCHLAB_", frozen=True, extra="forbid")

    # what is served
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Checkpoints to load, `FOLDER` or `NAME=FOLDER`; none loads every one in `weights/`."
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(Path("runs"),),
        description="Folders below which `POST /v1/models` may load checkpoints, besides those in `weights/`.",
    )
    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = Field(
        default="auto", description="What runs the models: `auto`, `torch`, `onnx` or `onnx-int8`."
    )
    engines: Literal["auto", "process", "thread"] = Field(
        default="auto",
        description="Where a model computes and an embedded index searches: each in a `process` of its own, which "
        "takes more memory and lets more requests through, in a `thread`, or `auto`: in processes where there is no "
        "GPU and more than one core.",
    )
    max_models: PositiveInt = Field(default=8, description="Models loaded at once.")

    index: str = Field(
        default="runs/index",
        description="Vector index: a folder, the URL of a Qdrant server, or `:memory:`.",
    )

    index_shards: PositiveInt = Field(
        default=1, description="Parts of a collection that is created on a Qdrant server: at least its machines."
    )
    index_replicas: PositiveInt = Field(default=1, description="Copies of each part.")
    index_consistency: NonNegativeInt = Field(
        default=0, description="Copies that must have a change before it is acknowledged; 0: the majority of them."
    )

    # who may ask
    api_keys: Path | None = Field(
        default=None,
        description="File of API keys, written by `archlab keys`; without one only this machine is served.",
    )
    requests_per_second: PositiveFloat = Field(
        default=50.0,
        description="Items a second that a key may ask for, unless its entry says otherwise: images, texts and "
        "candidate answers.",
    )
    burst: PositiveInt = Field(default=200, description="Items that a key may ask for at once after a pause.")
    caller_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of `MAX_REQUESTS`, `MAX_REQUEST_MEMORY` and `MAX_STREAMS` that one key may hold while "
        "nobody else asks; with others less, so that some stays free for the next. Without keys there is one caller, "
        "and all is its.",
    )

    # how much at once
    max_requests: PositiveInt = Field(default=512, description="Requests in progress; more are refused with 429.")
    max_connections: PositiveInt = Field(
        default=1024,
        description="Connections that are open, idle ones and streams included; more are refused with 429.",
    )
    max_head: PositiveInt = Field(
        default=32 * _KIB, description="Bytes of a request's line and headers; more are refused with 431."
    )
    max_request_memory: PositiveInt = Field(
        default=256 * _MIB, description="Bytes of all request bodies in progress; more are refused with 429."
    )
    max_body: PositiveInt = Field(
        default=16 * _MIB, description="Bytes of one request body; more are refused with 413."
    )
    max_image: PositiveInt = Field(
        default=10 * _MIB, description="Bytes of one encoded image; more are refused with 413."
    )
    max_pixels: PositiveInt = Field(
        default=25_000_000, description="Pixels of one image, by its header; more are refused with 413."
    )
    decode_threads: PositiveInt = Field(default=2, description="Threads that decode images.")
    queue_items: PositiveInt = Field(
        default=1024, description="Items that wait for one model; more are refused with 429."
    )
    batch_items: PositiveInt = Field(default=32, description="Most items that a model computes at once.")
    cached_texts: NonNegativeInt = Field(
        default=10_000, description="Embeddings of texts that each model keeps for those who ask again; 0 keeps none."
    )

    max_streams: PositiveInt = Field(default=32, description="Streams open at once; more are refused with 429.")
    stream_frames: PositiveInt = Field(
        default=8, description="Credit of a stream: frames that are sent and not yet acknowledged."
    )
    max_frame: PositiveInt = Field(
        default=_MIB, description="Bytes of one encoded frame of a stream; larger ones are skipped with a problem."
    )

    # how long
    head_seconds: PositiveFloat = Field(
        default=10.0, description="Seconds that a request's line and headers may take to arrive."
    )
    body_seconds: PositiveFloat = Field(default=30.0, description="Seconds that a request body may take to arrive.")
    deadline_seconds: PositiveFloat = Field(
        default=30.0, description="Seconds until a request without the header `X-Deadline-Ms` is given up."
    )
    max_deadline_seconds: PositiveFloat = Field(default=120.0, description="Longest deadline that a request may set.")
    stream_idle_seconds: PositiveFloat = Field(
        default=60.0, description="Seconds without a frame, or without a message taken, after which a stream is ended."
    )
    drain_seconds: NonNegativeFloat = Field(
        default=10.0,
        description="Seconds to serve on, not ready, after SIGTERM before no connection is accepted any more.",
    )

    # what it tells
    price_per_hour: NonNegativeFloat = Field(
        default=0.0,
        description="Price of the machine in your currency, for the cost that `compare` reports; 0 reports none.",
    )
    log_format: Literal["json", "text"] = Field(default="json", description="Form of the log: `json` lines or `text`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log record to write; `info` writes one for every request."
    )
    audit_file: Path | None = Field(
        default=None, description="File that audit records are appended to; without one they go to the log."
    )
    tracing: bool = Field(
        default=False, description="Send OpenTelemetry spans where the `OTEL_EXPORTER_OTLP_…` variables say."
    )

    @field_validator("models", "model_roots", mode="before")
    @classmethod
    def _separate(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("tracing")
    @classmethod
    def _sends(cls, value: bool) -> bool:
        if value and find_spec("opentelemetry.exporter") is None:
            raise ValueError("must be false without the packages that send spans; pip install 'archlab[otel]'")
        return value

    @property
    def isolated(self) -> bool:
        """Whether every model, and an embedded index, has a process of its own."""
        if self.engines == "auto":
            return usable_cores() > 1 and not torch.cuda.is_available()
        return self.engines == "process"

    @classmethod
    def read(cls, **given: object) -> "Settings":
        """From the environment and, before it, from what the command line gave.

        Raises:
            UserError: a value breaks its rule.
        """
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            raise UserError(f"ARCHLAB_{name.upper()}={first['input']!r}: {rule}") from None

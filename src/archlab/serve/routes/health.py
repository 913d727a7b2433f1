"""`/healthz`, `/readyz`, `/metrics` and `/version`: for machines that watch the service, without a key."""

from typing import Any

import torch
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.responses import Response

import archlab
from archlab.serve.calls import reply, service_of
from archlab.serve.schemas import Answer

router = APIRouter(tags=["health"])


class Health(Answer):
    """State of the service."""

    ok: bool
    reason: str = Field(description="Why not; empty if it is.")


class Version(Answer):
    """What is running."""

    archlab: str
    torch: str


_RED: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "It is not."}}


@router.get("/healthz", response_model=Health, responses=_RED)
async def healthz(request: Request) -> Response:
    """Whether the process is alive; if not, replace it."""
    service = service_of(request)
    reason = "" if service.alive else service.failure or "a model fails again and again"
    return reply({"ok": not reason, "reason": reason}, 503 if reason else 200)


@router.get("/readyz", response_model=Health, responses=_RED)
async def readyz(request: Request) -> Response:
    """Whether requests should come here: the models are loaded and answer, and the service is not about to end."""
    service = service_of(request)
    reason = service.not_ready()
    return reply({"ok": not reason, "reason": reason}, 503 if reason else 200)


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes; no payloads, no keys."""
    return Response(service_of(request).metrics.page(), media_type=CONTENT_TYPE_LATEST)


@router.get("/version", response_model=Version)
async def version() -> Response:
    """Versions."""
    return reply({"archlab": archlab.__version__, "torch": torch.__version__})

"""`/v1/stream`: a WebSocket that watches frames."""

from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket

from archlab.serve.calls import PROTOCOL, Caller, known, service_of
from archlab.serve.context import context_of
from archlab.serve.streams.session import Session

router = APIRouter(prefix="/v1", tags=["images"])


@router.websocket("/stream")
async def stream(socket: WebSocket, caller: Annotated[Caller, Depends(known("read"))]) -> None:
    """Watch frames, and say what they show whenever its meaning has changed.

    VL-JEPA embeds every frame, and decodes only where the embedding says something new.
    """
    service = service_of(socket)
    with service.streams.place(caller.id):
        await socket.accept(subprotocol=PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
        await Session(socket, service, caller, context_of(socket.scope)).run()

"""`archlab serve` and `archlab keys`."""

import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from archlab.errors import UserError
from archlab.serve.app import create_app
from archlab.serve.auth import MEANING, Scope, create_key, read_keys, revoke_key
from archlab.serve.middleware.loopback import is_loopback
from archlab.serve.protocol import bounded
from archlab.serve.service import Service
from archlab.serve.settings import Settings

_LEAST_MESSAGE = 2**16  # bytes of a message of a WebSocket that are always read
_GRACE = 5  # seconds beyond the longest deadline, for what is left to be written


def serve(host: str, port: int, **given: Any) -> None:
    """Serve until a signal ends it.

    Args:
        host, port: to listen on.
        given: settings of the command line, before those of the environment; None is not given.

    Raises:
        UserError: a setting breaks its rule, or other machines would be served without keys.
    """
    settings = Settings.read(**{name: value for name, value in given.items() if value is not None})
    if settings.api_keys is None and not is_loopback(host):
        raise UserError(
            f"--host {host}: without API keys only this machine is served; create a key with "
            f"'archlab keys create NAME --file keys.json' and give --keys keys.json"
        )
    app = create_app(settings)
    listening = _listen(host, port)
    print(_greeting(app.state.service, host, listening.getsockname()[1]), file=sys.stderr, flush=True)
    # uvicorn raises the signal that ended it once more when it is done, for the handler there was before: for us that
    # is an ordinary end.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.Server(configured(app, settings)).run([listening])


def configured(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application; its own command must be told the same, as the service's guide says."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=max(2 * settings.max_frame, _LEAST_MESSAGE),  # in base64 a frame is a third larger
        ws_per_message_deflate=False,  # images are compressed already
        timeout_graceful_shutdown=int(settings.max_deadline_seconds) + _GRACE,
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket before the models: a port that is taken is told at once."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: must be from 0, which takes a free one, to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({reason}); give others") from None


def _greeting(service: Service, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    lines = [f"http://{shown}:{port}/docs"]
    lines += [f"loading {name} from {folder}" for name, folder in service.folders.items()]
    if not service.folders:
        lines.append("no model: give folders of runs, or load them with POST /v1/models")
    if service.keys is None:
        lines.append("no API keys: only this machine is served")
    return "\n".join(lines)


def keys(action: str, name: str | None, file: Path, scopes: Sequence[Scope], rate: float | None) -> None:
    """Create, list or revoke API keys.

    Args:
        action: "create", "list" or "revoke".
        name: of the key.
        file: of the keys.
        scopes: of a new key.
        rate: items a second of a new key.

    Raises:
        UserError: there is no such key, the name is taken, or the file cannot be read.
    """
    if action == "list":
        for key in read_keys(file).values():
            rights = ", ".join(f"{scope} ({MEANING[scope]})" for scope in key.scopes)
            print(f"{key.id}: {rights}")
        return
    if name is None:
        raise UserError(f"keys {action}: needs the name of a key")
    if action == "revoke":
        revoke_key(file, name)
        print(f"revoked {name}; a running service knows with its next request")
        return
    secret = create_key(file, name, scopes, rate)
    print(f"{name} is in {file}; this is the key, which is shown only now:", file=sys.stderr)
    print(secret)

r"""A plain FastAPI handler: one text, one call of the model, one search.

    python -m archlab.bench.serve.peers.handler --run RUN --backend onnx --index DIR --collection NAME --path PATH \
        --port N --style async

`--style def` lets FastAPI call it in its threads, as it advises for work that blocks; `--style async` calls it on the
event loop; `--style constant` gives the same answer to every text, so that HTTP and JSON are all it does. One uvicorn
worker with uvloop and httptools and without an access log, as ours.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from archlab.bench.serve.peers.searching import Searcher, parse_options


class Query(BaseModel):
    """What is searched for."""

    text: str
    k: int = 10


def create_app(searcher: Searcher, path: str, style: str) -> FastAPI:
    """The application.

    Args:
        path: of the handler.
        style: "def", "async" or "constant".
    """
    app = FastAPI()

    def search(query: Query) -> dict[str, Any]:
        return searcher.search([query.text], query.k)[0]

    async def search_on_loop(query: Query) -> dict[str, Any]:
        return search(query)

    @functools.cache
    def constant_answer() -> dict[str, Any]:
        return searcher.search(["a red circle"], 10)[0]

    async def give_constant_answer(_: Query) -> dict[str, Any]:
        return constant_answer()

    app.post(path)({"def": search, "async": search_on_loop, "constant": give_constant_answer}[style])
    return app


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--style", choices=["def", "async", "constant"], required=True)
    parser.add_argument("--threads", type=int, default=1)
    given, searching = parse_options(parser)
    app = create_app(Searcher(**searching, threads=given.threads), given.path, given.style)
    uvicorn.run(app, port=given.port, loop="uvloop", http="httptools", access_log=False, log_level="error")


if __name__ == "__main__":
    main()

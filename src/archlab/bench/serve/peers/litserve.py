r"""LitServe with its batching: texts are collected, embedded as one batch and searched one by one.

    python -m archlab.bench.serve.peers.litserve --run RUN --backend onnx --index DIR --collection NAME --path PATH \
        --port N --workers 1 --queue zmq --batch-timeout 0.001

Its workers are processes of their own, each with the model and a copy of the index; how many, how long a batch waits
and which queue lies in between are options, of which the benchmark takes the fastest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import litserve

from archlab.bench.serve.peers.searching import Searcher, parse_options

_BATCH = 32  # as ours


class Api(litserve.LitAPI):  # type: ignore[misc]  # it has no types
    """Text in, ten hits out."""

    def __init__(self, searching: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._searching = searching

    def setup(self, device: str) -> None:
        """In the worker."""
        self._searcher = Searcher(**self._searching)

    def batch(self, inputs: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """All requests of a batch."""
        return inputs

    def predict(self, x: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers of a batch; all ask for equally many hits."""
        return self._searcher.search([one["text"] for one in x], x[0]["k"])

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """An answer for each."""
        return output


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch-timeout", type=float, required=True)
    parser.add_argument("--queue", choices=["manager", "zmq"], required=True)
    given, searching = parse_options(parser)
    api = Api(searching, max_batch_size=_BATCH, batch_timeout=given.batch_timeout, api_path=given.path)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=given.workers,
        fast_queue=given.queue == "zmq",
    )
    server.run(host="127.0.0.1", port=given.port, log_level="error", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()

"""Promises of tracing: a request is a span with the steps inside it, and nothing of its payload."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.serve.live import base64_of, picture, serving

from archlab.errors import UserError
from archlab.serve.settings import Settings


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr("archlab.serve.calls._tracer", provider.get_tracer("archlab"))
    return exporter


def test_a_request_is_a_span_with_its_steps_inside(spans: InMemorySpanExporter, entries: tuple[str, ...]) -> None:
    with serving(models=entries, backend="torch", tracing=True) as live, live.client() as client:
        spans.clear()
        body = {"image": base64_of(picture()), "question": "a private question", "model": "scenes-token"}
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        assert client.post("/v1/answer", json=body, headers={"traceparent": parent}).status_code == 200
    found = {span.name: span for span in spans.get_finished_spans()}
    request, model, image = found["POST /v1/answer"], found["model speak"], found["decode image"]
    assert request.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert image.parent.span_id == model.context.span_id
    assert model.attributes == {"model": "scenes-token"}
    assert {span.context.trace_id for span in (request, model, image)} == {request.context.trace_id}
    assert "private" not in "".join(span.to_json() for span in found.values())


def test_what_is_embedded_for_a_collection_is_a_step_too(spans: InMemorySpanExporter, entries: tuple[str, ...]) -> None:
    with serving(models=entries, backend="torch", tracing=True) as live, live.client() as client:
        assert client.post("/v1/collections", json={"name": "pictures"}).status_code == 201
        spans.clear()
        image = {"id": "a", "image": base64_of(picture())}
        assert client.put("/v1/collections/pictures/points", json={"points": [image]}).status_code == 200
        assert client.post("/v1/collections/pictures/search", json={"text": "a red circle"}).status_code == 200
    found = {span.name: span for span in spans.get_finished_spans()}
    for request, step in (("PUT", "embed_images"), ("POST", "embed_texts")):
        model = found[f"model {step}"]
        assert model.attributes == {"model": "scenes-vljepa"}
        (around,) = (span for name, span in found.items() if name.startswith(f"{request} /v1/collections"))
        assert model.context.trace_id == around.context.trace_id


def test_a_search_shows_how_long_the_model_and_the_index_took(
    spans: InMemorySpanExporter, entries: tuple[str, ...]
) -> None:
    path = "/v1/collections/{name}/search"
    with serving(models=entries, backend="torch", tracing=True) as live, live.client() as client:
        assert client.post("/v1/collections", json={"name": "mine"}).status_code == 201
        points = {"points": [{"id": "a", "text": "a blue square"}]}
        assert client.put("/v1/collections/mine/points", json=points).status_code == 200
        spans.clear()
        assert client.post(path.format(name="mine"), json={"text": "a red circle"}).status_code == 200
    found = {span.name: span for span in spans.get_finished_spans()}
    model, index, request = (found[name] for name in ("model embed_texts", "search index", f"POST {path}"))
    assert model.attributes == {"model": "scenes-vljepa"}
    assert index.attributes == {"collection": "mine"}
    assert model.context.trace_id == index.context.trace_id == request.context.trace_id


def test_what_a_refusal_quotes_is_in_no_span(spans: InMemorySpanExporter, entries: tuple[str, ...]) -> None:
    body = {"image": base64_of(picture()), "question": "what is this", "layer": 777}
    with serving(models=entries, backend="torch", tracing=True) as live, live.client() as client:
        spans.clear()
        assert "777" in client.post("/v1/attention", json=body).json()["detail"]
    found = spans.get_finished_spans()
    assert "model attention" in {span.name for span in found}
    for span in found:  # identifiers and times, of which some contain these digits, say nothing of a request
        said = [span.name, span.status.description, dict(span.attributes or {})]
        said += [(event.name, dict(event.attributes or {})) for event in span.events]
        assert "777" not in str(said)


@pytest.fixture
def backend() -> Iterator[Any]:
    """A backend that takes OTLP over HTTP; `received` holds path, headers and body of what came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((self.path, self.headers, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.received = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_spans_reach_a_backend_that_takes_otlp_with_the_headers_of_the_environment(backend: Any) -> None:
    environment = os.environ | {
        "ARCHLAB_TRACING": "true",
        "ARCHLAB_BACKEND": "torch",
        "ARCHLAB_DRAIN_SECONDS": "0",
        "OTEL_SERVICE_NAME": "archlab",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{backend.server_port}/api/public/otel",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20cHVibGljOnNlY3JldA==",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }
    command = [sys.executable, "-m", "archlab", "serve", "--port", "0", "--index", ":memory:"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stderr is not None
        url = re.search(r"http://\S+(?=/docs)", run.stderr.readline())
        assert url is not None
        with httpx.Client(transport=httpx.HTTPTransport(retries=50)) as client:
            assert client.get(f"{url[0]}/version", timeout=60).status_code == 200
        run.terminate()
        assert run.wait(60) == 0  # what is left is sent before it ends
    paths, headers, bodies = zip(*backend.received, strict=True)
    assert set(paths) == {"/api/public/otel/v1/traces"}
    assert headers[0]["Authorization"] == "Basic cHVibGljOnNlY3JldA=="
    sent = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    spans = [span for one in sent for each in one.resource_spans for scope in each.scope_spans for span in scope.spans]
    assert "GET /version" in {span.name for span in spans}
    assert "archlab" in str(sent[0].resource_spans[0].resource)


def test_tracing_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "archlab.serve.settings.find_spec", lambda name: None if "exporter" in name else util.find_spec(name)
    )
    with pytest.raises(UserError, match=r"pip install 'archlab\[otel\]'"):
        Settings.read(tracing=True)

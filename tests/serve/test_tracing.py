"""Promises of tracing: a request is a span with the steps inside it, and nothing of its payload."""

from __future__ import annotations

from importlib import util

import pytest
from opentelemetry import trace
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


def test_tracing_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "archlab.serve.settings.find_spec", lambda name: None if "exporter" in name else util.find_spec(name)
    )
    with pytest.raises(UserError, match=r"pip install 'archlab\[otel\]'"):
        Settings.read(tracing=True)

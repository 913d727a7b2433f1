"""Promises of the monitoring, kept by a real Prometheus that scrapes a live service under load: nothing stays empty."""

from __future__ import annotations

import json
import math
import runpy
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.deployment.queries import ALERTS, DASHBOARDS, MONITORING, RECORDS, expressions, filled_in, measured, metrics
from tests.deployment.tools import tool
from tests.serve.live import Live, base64_of, picture, serving, wait_for
from tests.serve.watching import watching

from archlab.serve.gpus import Gpus

_PATIENCE = 45  # seconds until what has no data counts as empty; all of it is there after about ten


class Prometheus:
    """A Prometheus of its own, with the committed configuration, that scrapes a service every second."""

    def __init__(self, service: Live, folder: Path) -> None:
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"], config["alerting"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(MONITORING / pattern) for pattern in config["rule_files"]]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=self.url, timeout=30)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def ready(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def has(self, expression: str) -> bool:
        """Whether an expression has a value; NaN, as 0 / 0 gives, is none."""
        found = self.get("query", query=expression)["result"]
        return any(not math.isnan(float(one["value"][1])) for one in found)

    def stop(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def service(entries: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with an index, and with a GPU as far as its metrics know."""
    place = str(tmp_path_factory.mktemp("scraped") / "index")
    with pytest.MonkeyPatch.context() as patch, serving(models=entries, backend="torch", index=place) as live:
        patch.setattr(Gpus, "memory", lambda _: {("0", "used"): 50, ("0", "total"): 80})
        with under_load(live):
            yield live


@pytest.fixture(scope="module")
def prometheus(service: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    found = Prometheus(service, tmp_path_factory.mktemp("prometheus"))
    try:
        wait_for(found.ready)
        yield found
    finally:
        found.stop()


def watch(live: Live) -> None:
    """Two frames as a stream, to its end."""
    with watching(live, interval=2) as client:
        for colour in ("red", "blue"):
            client.connection.send(picture(colour))
        client.say(type="finish")
        client.closed()


@contextmanager
def under_load(live: Live) -> Iterator[None]:
    """Everything that people do with a service, again and again inside the block: right, wrong, and left half-way."""
    over, failures = threading.Event(), []
    image = base64_of(picture())
    asks = [
        ("/v1/answer", {"image": image, "question": "what colour is it"}),
        ("/v1/classify", {"image": image, "labels": ["a red circle", "a blue square"]}),
        ("/v1/caption", {"image": image, "model": "scenes-token"}),
        ("/v1/embeddings", {"input": ["asked again and again", {"image": image}]}),
        ("/v1/collections/pictures/search", {"text": "a red circle"}),
    ]

    def load() -> None:
        with live.client() as client:
            assert client.post("/v1/collections", json={"name": "pictures"}).status_code == 201
            points = {"points": [{"id": "one", "image": image}]}
            assert client.put("/v1/collections/pictures/points", json=points).status_code == 200
            while not over.wait(0.1):
                for path, body in asks:
                    assert client.post(path, json=body).status_code == 200
                assert client.post("/v1/answer", json={"question": "without an image"}).status_code == 422
                leave(live, *asks[0])
                watch(live)

    def watched() -> None:
        try:
            load()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=watched, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures, failures


def leave(live: Live, path: str, body: dict[str, Any]) -> None:
    """Ask, and hang up before the answer."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + content)


def family(name: str) -> str:
    """The metric that a series belongs to."""
    return name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")


def empty(prometheus: Prometheus, asked: list[str]) -> list[str]:
    """The expressions that have no value however long one waits."""
    end = time.monotonic() + _PATIENCE
    while (asked := [one for one in asked if not prometheus.has(one)]) and time.monotonic() < end:
        threading.Event().wait(0.5)
    return asked


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_of_a_dashboard_has_data(prometheus: Prometheus, name: str) -> None:
    assert empty(prometheus, expressions(name)) == []


def test_every_recorded_series_has_data(prometheus: Prometheus) -> None:
    labelled = [
        rule["record"] + "".join(f'{{{name}="{value}"}}' for name, value in rule.get("labels", {}).items())
        for rule in RECORDS
    ]
    assert empty(prometheus, labelled) == []


def test_every_alert_compares_something_that_is_there(prometheus: Prometheus) -> None:
    """That it does not fire must not mean that it looks at nothing."""
    asked = [side for rule in ALERTS.values() for side in measured(rule["expr"])]
    assert len(asked) >= len(ALERTS)
    assert empty(prometheus, asked) == []


def test_prometheus_evaluates_every_rule_without_an_error(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_for(lambda: all(rule["health"] != "unknown" for rule in evaluated()))
    assert len(evaluated()) == len(ALERTS) + len(RECORDS)
    assert [rule for rule in evaluated() if rule["health"] != "ok"] == []


def test_what_is_empty_is_noticed(prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr("tests.serve.test_scraped._PATIENCE", 0)
    wait_for(lambda: prometheus.has("up"))
    asked = ["archlab_no_such_metric", 'up{job="other"}', "0 * up / (0 * up)", "up"]
    assert empty(prometheus, asked) == asked[:3]


def test_the_variables_of_the_dashboards_have_values(prometheus: Prometheus) -> None:
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = variable["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
                wait_for(lambda metric=metric: prometheus.has(filled_in(metric)))
                found = prometheus.get("query", query=filled_in(metric))["result"]
                assert all(one["metric"][label] for one in found)


def test_whatever_the_service_measures_is_seen_somewhere(prometheus: Prometheus) -> None:
    wait_for(lambda: prometheus.has("archlab_collection_points"))
    there = {name for name in prometheus.get("label/__name__/values") if name.startswith("archlab_")}
    asked = [expression for name in DASHBOARDS for expression in expressions(name)]
    seen = {
        name for expression in [*asked, *(rule["expr"] for rule in ALERTS.values())] for name in metrics(expression)
    }
    assert {family(name) for name in there} - {family(name) for name in seen} == set()


def test_the_smoke_test_passes_where_all_is_well(
    service: Live, prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = runpy.run_path(str(MONITORING.parent / "smoke.py"))["main"]
    smoke([service.url, "", "--search", "--prometheus", prometheus.url, "--seconds", "60"])
    told = capsys.readouterr().out
    for word in ("alive: yes", "ready: yes", "answers: ", "searches: yes", "scraped: yes"):
        assert word in told
    with service.client() as client:
        assert "smoke-test" not in [one["name"] for one in client.get("/v1/collections").json()["data"]]

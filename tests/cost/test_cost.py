"""The arithmetic by hand: 100 requests a second at 0.36 an hour is 0.001 for 1,000."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from archlab.cli import main
from archlab.cost.arithmetic import Capacity, break_even, throughput_to_pay
from archlab.cost.command import costs, markdown
from archlab.cost.measurements import Measurement, read_measurements
from archlab.cost.prices import read_prices

ROOT = Path(__file__).resolve().parents[2]
CPU = Capacity(throughput=100.0, price_per_hour=0.36, utilization=0.5)
ENTRY = {"device": "cpu", "cores": 2, "price_per_hour": 0.36, "source": "mine", "date": "2026-11-21"}
GPU = {**ENTRY, "device": "gpu", "price_per_hour": 3.6}


def listed(path: Path, **machines: Any) -> Path:
    path.write_text(yaml.safe_dump({"currency": "EUR", "machines": machines}, sort_keys=False))
    return path


def measured(
    path: Path, rate: float = 100.0, *, gpu: str | None = None, backend: str = "torch", **changes: Any
) -> Path:
    """Results of `bench serve`."""
    step = {"throughput_per_s": rate, "requests": 800, "errors": 0}
    scenarios = {"search": {"vljepa": step}, "classify": {"vljepa": step, "token": {**step, "throughput_per_s": 50.0}}}
    models = {arm: {"backend": backend} for arm in ("vljepa", "token")}
    content = {"machine": {"gpu": gpu, "cores": 2}, "models": models, "scenarios": scenarios, **changes}
    path.write_text(json.dumps(content))
    return path


def test_a_thousand_requests_cost_what_their_seconds_cost() -> None:
    full = Capacity(throughput=100.0, price_per_hour=0.36, utilization=1.0)
    assert full.per_1000 == pytest.approx(10 / 3600 * 0.36) == pytest.approx(0.001)
    assert CPU.per_1000 == pytest.approx(0.002)  # busy half of the time


@pytest.mark.parametrize(("traffic", "replicas"), [(0.1, 1), (50.0, 1), (50.1, 2), (100.0, 2), (1000.0, 20)])
def test_a_month_costs_whole_machines(traffic: float, replicas: int) -> None:
    assert CPU.replicas(traffic) == replicas
    assert CPU.monthly(traffic) == pytest.approx(replicas * 0.36 * 730)


def test_machines_that_are_not_full_make_a_request_dearer() -> None:
    assert CPU.per_1000_at(50.0) == pytest.approx(CPU.per_1000)
    assert CPU.per_1000_at(25.0) == pytest.approx(2 * CPU.per_1000)


def test_a_gpu_pays_where_it_costs_less_than_the_machines_that_it_replaces() -> None:
    gpu = Capacity(throughput=2000.0, price_per_hour=3.78, utilization=0.5)  # the price of 10.5 CPU machines
    assert throughput_to_pay(CPU, 3.78) == pytest.approx(1050)
    found = break_even(CPU, gpu)
    assert found == pytest.approx(500)  # ten machines are cheaper, eleven are not
    assert CPU.monthly(500) < gpu.monthly(500)
    assert CPU.monthly(500.1) > gpu.monthly(500.1)


def test_a_gpu_that_costs_more_per_request_never_pays() -> None:
    assert break_even(CPU, Capacity(throughput=1000.0, price_per_hour=3.6, utilization=0.5)) is None
    assert break_even(CPU, Capacity(throughput=1001.0, price_per_hour=3.6, utilization=0.5)) is not None


def test_a_gpu_that_was_not_measured_is_said_to_be_so_with_what_it_must_answer(tmp_path: Path) -> None:
    prices = read_prices(listed(tmp_path / "prices.yaml", small=ENTRY, big=GPU))
    report = costs(read_measurements(measured(tmp_path / "r.json")), prices, traffic=[10.0], utilization=0.5)
    assert [one["gpu"]["throughput_to_pay"] for one in report["requests"]] == pytest.approx([1000, 500, 1000])
    text = markdown(report)
    assert "| search | VL-JEPA | over HTTP | small | big | 1,000 requests/s | not measured | not measured |" in text
    assert "big: 2 cores, 3.6 EUR an hour, 2026-11-21 (mine)" in text


def test_a_gpu_that_was_measured_is_compared_request_by_request(tmp_path: Path) -> None:
    prices = read_prices(listed(tmp_path / "prices.yaml", small=ENTRY, big=GPU))
    found = read_measurements(measured(tmp_path / "cpu.json")) + read_measurements(
        measured(tmp_path / "gpu.json", 4000.0, gpu="a GPU")
    )
    report = costs(found, prices, traffic=[10.0], utilization=0.5)
    by_key = {(one["what"], one["arm"], one["device"]): one for one in report["requests"]}
    assert by_key["search", "vljepa", "cpu"]["gpu"]["break_even"] == pytest.approx(500)
    assert by_key["classify", "token", "cpu"]["gpu"]["break_even"] is None  # 50 a second on the GPU too
    assert by_key["search", "vljepa", "gpu"]["per_1000"] == pytest.approx(1000 / 2000 / 3600 * 3.6)
    assert "never: it costs more per request" in markdown(report)


def test_a_session_computes_on_the_processor_of_a_machine_with_a_gpu(tmp_path: Path) -> None:
    devices = {
        backend: {one.device for one in read_measurements(measured(tmp_path / "r.json", gpu="a GPU", backend=backend))}
        for backend in ("torch", "onnx", "onnx-int8")
    }
    assert devices == {"torch": {"gpu"}, "onnx": {"cpu"}, "onnx-int8": {"cpu"}}


def test_a_comparison_gives_the_models_alone_at_their_best_batch_size(tmp_path: Path) -> None:
    batches = {"1": {"throughput_per_s": 70.0}, "32": {"throughput_per_s": 430.0}}
    arms = {arm: {"inference": {"choose": batches, "embed": batches}} for arm in ("token", "vljepa")}
    (tmp_path / "r.json").write_text(json.dumps({"machine": {"gpu": None, "cores": 2}, "arms": arms}))
    found = read_measurements(tmp_path / "r.json")
    assert {(one.what, one.arm, one.throughput, one.layer) for one in found} == {
        (what, arm, 430.0, "model") for what in ("choose", "embed") for arm in ("token", "vljepa")
    }


def test_the_committed_comparison_can_be_priced_by_the_committed_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    results = ROOT / "04-comparisons" / "results" / "quick" / "results.json"
    assert main(["cost", str(results), "--prices", str(ROOT / "08-scalability" / "prices.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "not measured" in shown
    assert "edit" in shown


def test_what_failed_under_load_has_no_price(tmp_path: Path) -> None:
    step = {"throughput_per_s": 9.0, "requests": 9, "errors": 1}
    path = measured(
        tmp_path / "r.json", scenarios={"search": {"vljepa": step}, "caption": {"token": {**step, "errors": 0}}}
    )
    assert [one.what for one in read_measurements(path)] == ["caption"]


def test_the_report_is_written_as_numbers_and_as_tables(tmp_path: Path) -> None:
    prices, results = listed(tmp_path / "p.yaml", small=ENTRY), measured(tmp_path / "r.json")
    argv = ["cost", str(results), "--prices", str(prices), "--traffic", "75", "--utilization", "0.5"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "cost.json").read_text())
    search = next(one for one in report["requests"] if one["what"] == "search")
    assert (search["per_1000"], search["months"][0]["replicas"]) == (pytest.approx(0.002), 2)
    assert (tmp_path / "out" / "cost.md").read_text() == markdown(report)
    assert "| search | VL-JEPA | over HTTP | small | 525.60 (2) |" in markdown(report)
    assert "gpu" not in search  # the list has none


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--utilization", "0"], "--utilization 0.0: must be above 0 and at most 1"),
        (["--utilization", "1.5"], "--utilization 1.5"),
        (["--traffic", "0"], "--traffic 0: must be positive"),
        (["--cpu", "huge"], "--cpu huge: the price list has no cpu of that name; it has small"),
        (["--gpu", "h100"], "--gpu h100: the price list has no gpu of that name; it has none"),
        (["--prices", "there.yaml"], "price list there.yaml: No such file"),
        (["there.json"], "archlab bench serve --out ."),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices, results = listed(tmp_path / "p.yaml", small=ENTRY), measured(tmp_path / "r.json")
    assert main(["cost", str(results), "--prices", str(prices), *options]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"price_per_hour": -1.0}, "price_per_hour=-1.0: must be positive"),
        ({"price_per_hour": "cheap"}, "price_per_hour"),
        ({"date": "yesterday"}, "date='yesterday': must be a day"),
        ({"device": "tpu"}, "device"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_price_that_breaks_a_rule_is_named(
    changes: dict[str, Any], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices, results = listed(tmp_path / "p.yaml", small={**ENTRY, **changes}), measured(tmp_path / "r.json")
    assert main(["cost", str(results), "--prices", str(prices)]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("currency: EUR", "must have the keys"),
        ("{", "is no YAML"),
        ("currency: 2024-02-30", "is no YAML"),
        ("{currency: EUR, machines: {small: 3}}", "machine small: must be entries"),
    ],
)
def test_a_file_that_is_no_price_list_is_refused(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert main(["cost", str(measured(tmp_path / "r.json")), "--prices", str(tmp_path / "p.yaml")]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "{}", '{"machine": {"gpu": null, "cores": 2}, "scenarios": {}}'])
def test_a_file_without_throughput_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text(text)
    assert main(["cost", str(tmp_path / "r.json"), "--prices", str(listed(tmp_path / "p.yaml", small=ENTRY))]) == 2
    assert "results.json" in capsys.readouterr().err


def test_a_list_without_the_device_that_was_measured_on_is_refused(tmp_path: Path) -> None:
    from archlab.errors import UserError

    prices = read_prices(listed(tmp_path / "p.yaml", big=GPU))
    only = [Measurement("search", "vljepa", 1.0, "service", "cpu", 2, "r.json")]
    with pytest.raises(UserError, match=r"has no cpu, which r\.json was measured on"):
        costs(only, prices, traffic=[1.0], utilization=0.5)

"""Promises of the rules: every alert fires and keeps still as tested, and says what to do."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from tests.deployment.queries import ALERTS, DASHBOARDS, MONITORING, RECORDS, expressions, metrics, recorded
from tests.deployment.tools import tool

TESTS = sorted((MONITORING / "tests").glob("*.yml"))
CASES: list[dict[str, Any]] = [case for file in TESTS for case in yaml.safe_load(file.read_text())["tests"]]


def checked(*command: str) -> str:
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_with_all_rules() -> None:
    assert f"{len(ALERTS)} rules found" in checked(tool("promtool"), "check", "config", "prometheus.yml")


def test_alertmanager_takes_its_configuration() -> None:
    assert "SUCCESS" in checked(tool("amtool"), "check-config", "alertmanager.yml")


def test_an_instance_that_is_gone_silences_no_other_one_and_nothing_that_is_told_of_all() -> None:
    rules = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())["inhibit_rules"]
    (equal,) = (rule["equal"] for rule in rules if "ArchlabDown" in str(rule["source_matchers"]))
    assert "instance" in equal


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_where_they_should_and_nowhere_else(file: Any) -> None:
    assert "SUCCESS" in checked(tool("promtool"), "test", "rules", str(file))


@pytest.mark.slow
def test_a_bound_that_is_broken_fails_the_tests_of_the_rules(tmp_path: Any) -> None:
    """The control: they would notice."""
    for folder in ("rules", "tests"):
        (tmp_path / folder).mkdir()
        for file in (MONITORING / folder).glob("*.yml"):
            (tmp_path / folder / file.name).write_text(file.read_text().replace("> 0.95", "> 0.85"))
    command = [tool("promtool"), "test", "rules", "tests/alerts.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "ArchlabGpuMemoryHigh" in done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    labels = str([test["exp_samples"] for case in CASES for test in case["promql_expr_test"]])
    assert {name for name in ALERTS if f'alertname="{name}"' not in labels} == set()


def test_every_alert_keeps_still_in_a_world_that_has_all_that_it_looks_at() -> None:
    (well,) = (case for case in CASES if case["name"] == "a service that is well")
    assert all(test["expr"] == "ALERTS" and not test["exp_samples"] for test in well["promql_expr_test"])
    there = {series["series"].partition("{")[0] for series in well["input_series"]}
    assert {name: metrics(rule["expr"]) - there for name, rule in ALERTS.items() if metrics(rule["expr"]) - there} == {}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_its_runbook_stands(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (file, anchor) == ("07-deployment/monitoring/README.md", name.lower())
    runbook = (MONITORING / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL)
    assert section is not None
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in section[1]


def test_the_runbook_has_no_alert_that_does_not_exist() -> None:
    runbook = (MONITORING / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Archlab\w+)", runbook, re.MULTILINE)) == ALERTS.keys()


def test_a_window_in_the_name_of_a_record_is_the_one_it_looks_at() -> None:
    for rule in RECORDS:
        if window := re.search(r"rate(\d+[mhd])$", rule["record"]):
            assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {window[1]}, rule["record"]


def test_what_is_recorded_is_used() -> None:
    asked = [rule["expr"] for rule in [*ALERTS.values(), *RECORDS]]
    asked += [expression for name in DASHBOARDS for expression in expressions(name)]
    used = {name for expression in asked for name in recorded(expression)}
    assert {rule["record"] for rule in RECORDS} == used

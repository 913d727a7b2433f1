"""Promises of the dashboards: they are what the code says, and every panel explains itself."""

from __future__ import annotations

import re
import runpy
from itertools import combinations
from typing import Any

import pytest
import yaml
from tests.deployment.queries import DASHBOARDS, MONITORING, ROOT, panels

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PANELS = {f"{name}: {panel['title']}": panel for name, panel in panels()}


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    written = runpy.run_path(str(MONITORING / "dashboards.py"))["written"]()
    assert {path.stem for path in written} == DASHBOARDS.keys()
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run dashboards.py again"


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS.keys())
def test_a_panel_has_a_title_a_unit_a_sentence_and_a_legend(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["legendFormat"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side_on_the_grid(name: str) -> None:
    boxes = [one["gridPos"] for one in DASHBOARDS[name]["panels"]]
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in combinations(boxes, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_rows_are_filled(name: str) -> None:
    """No gap: panels of one height fill the width, so that nothing looks lost."""
    widths: dict[int, int] = {}
    for one in DASHBOARDS[name]["panels"]:
        widths[one["gridPos"]["y"]] = widths.get(one["gridPos"]["y"], 0) + one["gridPos"]["w"]
    assert set(widths.values()) == {24}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_ids_are_unique_and_variables_are_defined(name: str) -> None:
    dashboard = DASHBOARDS[name]
    ids = [one["id"] for one in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", str(dashboard["panels"]))) - {"__rate_interval"}
    assert used <= defined
    assert not dashboard["editable"]


def test_grafana_is_given_the_dashboards_and_the_source_that_compose_mounts_and_runs() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "archlab.yml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    mounts = dict(mount.split(":")[:2] for mount in COMPOSE["services"]["grafana"]["volumes"])
    assert mounts["./07-deployment/monitoring/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./07-deployment/monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert source["url"] == "http://prometheus:9090"
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/service.json"
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape

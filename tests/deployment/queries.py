"""What the committed rules and dashboards ask Prometheus, and what their expressions are made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "07-deployment" / "monitoring"
_COMPARISONS = {"==", "!=", ">", "<", ">=", "<=", "and", "or", "unless"}


def rules() -> list[dict[str, Any]]:
    """Every recording and alerting rule."""
    files = sorted((MONITORING / "rules").glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


RECORDS = [rule for rule in rules() if "record" in rule]
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
}


def panels() -> list[tuple[str, dict[str, Any]]]:
    """Dashboard and panel, without the rows."""
    return [(name, panel) for name, one in DASHBOARDS.items() for panel in one["panels"] if panel["type"] != "row"]


def expressions(dashboard: str) -> list[str]:
    """What the panels of a dashboard ask, with its variables as Grafana fills them in at first."""
    found = [target["expr"] for name, panel in panels() if name == dashboard for target in panel["targets"]]
    return [filled_in(expression) for expression in found]


def filled_in(expression: str) -> str:
    """An expression with every variable replaced."""
    values = {"$__rate_interval": "1m", "$job": "archlab", "$instance": ".+", "$model": ".+"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def measured(expression: str) -> list[str]:
    """What an alert compares: its sides without bounds, looking back no further than now."""
    now = re.sub(r" offset \w+", "", expression)
    return [str(side) for side in _sides(promql.parse(now))]


def _sides(node: Any) -> Iterator[Any]:
    if isinstance(node, promql.ParenExpr):
        yield from _sides(node.expr)
    elif isinstance(node, promql.BinaryExpr) and str(node.op) in _COMPARISONS:
        yield from _sides(node.lhs)
        yield from _sides(node.rhs)
    elif isinstance(node, promql.Call) and node.func.name == "absent":
        yield from _sides(node.args[0])
    elif not isinstance(node, promql.NumberLiteral):
        yield node


def metrics(expression: str) -> set[str]:
    """The names of the series in an expression; those that rules record are replaced by what they are made of."""
    made = {rule["record"]: [] for rule in RECORDS}
    for rule in RECORDS:
        made[rule["record"]].append(rule["expr"])
    names = set(_names(promql.parse(expression)))
    return {part for name in names for part in ([name] if name not in made else _of(made[name]))}


def recorded(expression: str) -> set[str]:
    """The recorded series in an expression."""
    return {name for name in _names(promql.parse(expression)) if ":" in name}


def _of(expressions: list[str]) -> set[str]:
    return {name for expression in expressions for name in metrics(expression)}


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, promql.VectorSelector):
        yield node.name
    for part in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if getattr(node, part, None) is not None:
            yield from _names(getattr(node, part))
    for argument in getattr(node, "args", []):
        yield from _names(argument)

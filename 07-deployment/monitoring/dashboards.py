"""The dashboards as code: `python 07-deployment/monitoring/dashboards.py [--check]` writes their JSON beside it.

A panel is a title, a sentence that says what to see in it, a unit, and expressions with their legends. `@` in an
expression stands for the instances that the variables at the head of the dashboard choose.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, LegendDisplayMode, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "[$__rate_interval]"  # Grafana's: at least four scrapes
GREEN, YELLOW, RED = "green", "yellow", "red"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
CHOSEN = 'job="$job",instance=~"$instance"'


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        title, text: what it shows, and what to see in it.
        unit: Grafana's name of it.
        queries: expression -> legend.
        kind: "lines", "number" or "table".
        width: in columns of the grid.
        steps: colour -> value from which on a number has it.
    """

    title: str
    text: str
    unit: str
    queries: dict[str, str]
    kind: str = "lines"
    width: int = 8
    steps: dict[str, float | None] | None = None


def quantiles(
    metric: str, by: str = "", where: str = "", wanted: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> dict[str, str]:
    """Expressions of the quantiles of a histogram, by a label if one is given."""
    grouping, legend = (f"{by}, le", f"{{{{{by}}}}} ") if by else ("le", "")
    buckets = f"sum by ({grouping}) (rate({metric}_bucket{{@{where}}}{RATE}))"
    return {f"histogram_quantile({q}, {buckets})": f"{legend}p{q * 100:.0f}" for q in wanted}


def rate(metric: str, by: str, where: str = "") -> dict[str, str]:
    """The rate of a counter by a label."""
    return {f"sum by ({by}) (rate({metric}{{@{where}}}{RATE}))": f"{{{{{by}}}}}"}


def burn(objective: str, window: str) -> str:
    """How fast an error budget burned within a window."""
    return f'archlab:slo_burn:rate{window}{{job="$job",slo="{objective}"}}'


V1 = ',route=~"/v1/.+"'
BURN = {GREEN: None, YELLOW: 1.0, RED: 6.0}

SERVICE = {
    "Is it well?": [
        Panel(
            title="Ready instances",
            text="Instances that take requests. Fewer than you run: one starts, drains, or a model of it fails.",
            unit="short",
            queries={"sum(archlab_ready{@})": "ready"},
            kind="number",
            width=4,
            steps={RED: None, GREEN: 1.0},
        ),
        Panel(
            title="Availability budget burns",
            text="Over the last hour; at 1 the error budget lasts exactly its 30 days, at 14.4 somebody is woken.",
            unit="suffix: ×",
            queries={burn("availability", "1h"): "burn rate"},
            kind="number",
            width=4,
            steps=BURN,
        ),
        Panel(
            title="Latency budget burns",
            text="The same for answers that take longer than a second.",
            unit="suffix: ×",
            queries={burn("latency", "1h"): "burn rate"},
            kind="number",
            width=4,
            steps=BURN,
        ),
        Panel(
            title="Requests",
            text="Requests to /v1 a second, of all instances.",
            unit="reqps",
            queries={'archlab:requests:rate5m{job="$job"}': "requests"},
            kind="number",
            width=4,
        ),
        Panel(
            title="95 % are answered within",
            text="Of the requests to /v1, whatever they ask for.",
            unit="s",
            queries=quantiles("archlab_request_seconds", where=V1, wanted=(0.95,)),
            kind="number",
            width=4,
        ),
        Panel(
            title="Fullest memory",
            text="Of any instance, as a share of its limit. The kernel ends a process that passes its limit.",
            unit="percentunit",
            queries={"max(archlab_memory_bytes{@} / archlab_memory_limit_bytes{@})": "memory"},
            kind="number",
            width=4,
            steps={GREEN: None, YELLOW: 0.8, RED: 0.9},
        ),
    ],
    "Requests": [
        Panel(
            title="Requests by route",
            text="What is asked for. A route that falls to nothing while others go on: look at its callers.",
            unit="reqps",
            queries=rate("archlab_requests_total", "route", V1),
        ),
        Panel(
            title="Requests by status",
            text="4xx are the callers' faults, 429 is too fast or too full, 499 left before the answer, 5xx are ours.",
            unit="reqps",
            queries=rate("archlab_requests_total", "status", V1),
        ),
        Panel(
            title="Problems by kind",
            text="internal, engine-failed, not-ready, expired and overloaded use up the budget, and no others do.",
            unit="reqps",
            queries=rate("archlab_problems_total", "kind"),
        ),
        Panel(
            title="Time to answer",
            text="From arrival to the last byte, of all requests to /v1.",
            unit="s",
            queries=quantiles("archlab_request_seconds", where=V1),
        ),
        Panel(
            title="Time to answer by route, 95 %",
            text="Which route is slow.",
            unit="s",
            queries=quantiles("archlab_request_seconds", "route", V1, (0.95,)),
        ),
        Panel(
            title="Clients that left",
            text="Requests whose client hung up before the answer; what they had asked for is not computed.",
            unit="reqps",
            queries=rate("archlab_disconnects_total", "route"),
        ),
        Panel(
            title="In progress",
            text="Requests, at most ARCHLAB_MAX_REQUESTS on each instance.",
            unit="short",
            queries={"archlab_requests_in_flight{@}": "{{instance}}"},
        ),
        Panel(
            title="Bodies in progress",
            text="Bytes that are reserved for bodies, at most ARCHLAB_MAX_REQUEST_MEMORY on each instance.",
            unit="bytes",
            queries={"archlab_request_bytes_in_flight{@}": "{{instance}}"},
        ),
        Panel(
            title="Time to decode an image",
            text="With its wait for a thread. It grows with ARCHLAB_DECODE_THREADS too few, and with huge images.",
            unit="s",
            queries=quantiles("archlab_image_decode_seconds"),
        ),
    ],
    "Promises": [
        Panel(
            title="Availability: how fast the budget burns",
            text="Alerts need a long and a short window above the same bound: 14.4 and 6 wake, 3 and 1 make a ticket.",
            unit="suffix: ×",
            queries={burn("availability", window): window for window in WINDOWS},
            width=12,
        ),
        Panel(
            title="Latency: how fast the budget burns",
            text="The same for answers that take longer than a second.",
            unit="suffix: ×",
            queries={burn("latency", window): window for window in WINDOWS},
            width=12,
        ),
    ],
    "Processes": [
        Panel(
            title="Memory",
            text="Of each instance with all its processes, and its limit.",
            unit="bytes",
            queries={
                "archlab_memory_bytes{@}": "{{instance}}",
                "archlab_memory_limit_bytes{@}": "{{instance}} limit",
            },
        ),
        Panel(
            title="Processor",
            text="Cores that each instance keeps busy, with all its processes.",
            unit="short",
            queries={f"rate(archlab_cpu_seconds_total{{@}}{RATE})": "{{instance}}"},
        ),
        Panel(
            title="GPU memory",
            text="Of the GPUs that models compute on; nothing where they compute on the processor.",
            unit="percentunit",
            queries={
                'archlab_gpu_memory_bytes{@,kind="used"} / ignoring (kind) archlab_gpu_memory_bytes{@,kind="total"}': (
                    "{{instance}} GPU {{device}}"
                )
            },
        ),
        Panel(
            title="Open files and connections",
            text="As a share of what the system allows.",
            unit="percentunit",
            queries={"process_open_fds{@} / process_max_fds{@}": "{{instance}}"},
        ),
        Panel(
            title="Runs since",
            text="A line that falls to 0 is a restart.",
            unit="s",
            queries={"time() - process_start_time_seconds{@}": "{{instance}}"},
        ),
        Panel(
            title="Versions",
            text="What runs where; two versions during a rollout are right, afterwards they are not.",
            unit="short",
            queries={"archlab_build_info{@}": "{{instance}} {{version}}"},
            kind="table",
        ),
    ],
}

MODEL = ',model=~"$model"'
MODELS = {
    "Models": [
        Panel(
            title="Loaded models",
            text="Their arms, backends and the digests of their weights.",
            unit="short",
            queries={f"archlab_model_info{{@{MODEL}}}": "{{model}}"},
            kind="table",
            width=16,
        ),
        Panel(
            title="Models that answer",
            text="1 where the last batch worked and the one in progress does not hang. 0 turns /readyz red.",
            unit="short",
            queries={f"archlab_model_ready{{@{MODEL}}}": "{{instance}} {{model}}"},
        ),
    ],
    "Queues": [
        Panel(
            title="Items that wait",
            text="Before each model. A queue that does not empty again needs another instance, or fewer items a call.",
            unit="short",
            queries={f"archlab_queue_items{{@{MODEL}}}": "{{instance}} {{model}}"},
        ),
        Panel(
            title="How full the queues are",
            text="Above 80 % for five minutes there is a ticket; full, requests are refused with 429.",
            unit="percentunit",
            queries={
                f"archlab_queue_items{{@{MODEL}}} / archlab_queue_limit_items{{@{MODEL}}}": "{{instance}} {{model}}"
            },
        ),
        Panel(
            title="Wait of an item",
            text="Before it is computed. Longer than a batch takes: more arrives than is computed.",
            unit="s",
            queries=quantiles("archlab_queue_wait_seconds", "model", MODEL, (0.5, 0.95)),
        ),
        Panel(
            title="Items without a result",
            text="refused: no room; expired: too late; cancelled: its client left; failed; wasted: done for nobody.",
            unit="cps",
            queries=rate("archlab_dropped_items_total", "reason", MODEL),
        ),
        Panel(
            title="Computed items",
            text="Texts and images a second.",
            unit="cps",
            queries=rate("archlab_batch_items_sum", "model", MODEL),
        ),
        Panel(
            title="Items being computed",
            text="At this moment, in one batch.",
            unit="short",
            queries={f"archlab_computing_items{{@{MODEL}}}": "{{instance}} {{model}}"},
        ),
    ],
    "Inference": [
        Panel(
            title="Time of a batch",
            text="In the engine alone.",
            unit="s",
            queries=quantiles("archlab_inference_seconds", "model", MODEL, (0.5, 0.95)),
        ),
        Panel(
            title="Items in a batch",
            text="Mean. Near ARCHLAB_BATCH_ITEMS the model is busy all the time.",
            unit="short",
            queries={
                f"sum by (model) (rate(archlab_batch_items_sum{{@{MODEL}}}{RATE}))"
                f" / sum by (model) (rate(archlab_batch_items_count{{@{MODEL}}}{RATE}))": "{{model}}"
            },
        ),
        Panel(
            title="How busy the models are",
            text="Share of the time that a batch is in the engine; at 100 % only another instance helps.",
            unit="percentunit",
            queries={f"rate(archlab_inference_seconds_sum{{@{MODEL}}}{RATE})": "{{instance}} {{model}}"},
        ),
    ],
    "Streams": [
        Panel(
            title="Open streams",
            text="Each holds a place until its client leaves, breaks a rule or falls silent.",
            unit="short",
            queries={"archlab_streams_open{@}": "{{instance}}"},
            width=6,
        ),
        Panel(
            title="Frames by outcome",
            text="Dropped frames: the service is slower than the camera, and the client chose to lose the oldest.",
            unit="cps",
            queries=rate("archlab_stream_frames_total", "outcome"),
            width=6,
        ),
        Panel(
            title="Texts and segments",
            text="Texts decoded, and segments spoken. Both stay far below the frames, or the threshold is too low.",
            unit="cps",
            queries={
                f"sum(rate(archlab_stream_decodes_total{{@}}{RATE}))": "texts",
                f"sum(rate(archlab_stream_segments_total{{@}}{RATE}))": "segments",
            },
            width=6,
        ),
        Panel(
            title="Streams that ended",
            text="By close code: 1000 finished, 1001 drained, 1008 broke a rule, 1011 failed, 1013 overload.",
            unit="cps",
            queries=rate("archlab_streams_total", "end"),
            width=6,
        ),
    ],
    "Caches and index": [
        Panel(
            title="Texts from the cache",
            text="Share of the texts whose embedding was known already.",
            unit="percentunit",
            queries={
                f"sum by (model) (rate(archlab_query_cache_hits_total{{@{MODEL}}}{RATE})) / ("
                f"sum by (model) (rate(archlab_query_cache_hits_total{{@{MODEL}}}{RATE}))"
                f" + sum by (model) (rate(archlab_query_cache_misses_total{{@{MODEL}}}{RATE})))": "{{model}}"
            },
            width=6,
        ),
        Panel(
            title="Points",
            text="Of each collection, as last seen.",
            unit="short",
            queries={"max by (collection) (archlab_collection_points{@})": "{{collection}}"},
            width=6,
        ),
        Panel(
            title="Time of work on the index",
            text="Searches, changes and all else, with the wait for a thread.",
            unit="s",
            queries=quantiles("archlab_index_seconds"),
            width=6,
        ),
        Panel(
            title="What the index could not do",
            text="request: collections answer 503; optimize: a graph was not built, and searches stay slow.",
            unit="cps",
            queries=rate("archlab_index_failures_total", "work"),
            width=6,
        ),
    ],
}


def dashboard(uid: str, title: str, text: str, rows: dict[str, list[Panel]], *, by_model: bool = False) -> Dashboard:
    """A dashboard of rows."""
    made = (
        Dashboard(title)
        .uid(uid)
        .description(f"{text} Written by dashboards.py: changes made here are lost.")
        .tags(["archlab"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            DashboardLink("archlab")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["archlab"])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "archlab_build_info", "job"))
        .with_variable(variable("instance", 'archlab_build_info{job="$job"}', "instance", several=True))
    )
    if by_model:
        made.with_variable(variable("model", 'archlab_model_info{job="$job"}', "model", several=True))
    ids = count(1)  # links to a panel go on leading there
    for name, panels in rows.items():
        made.with_row(Row(name).id(next(ids)))
        for panel in panels:
            made.with_panel(built(panel).id(next(ids)))
    return made


def variable(name: str, metric: str, label: str, *, several: bool = False) -> QueryVariable:
    """A choice at the head of a dashboard; where it may be of several, of all at first."""
    made = QueryVariable(name).label(name.capitalize()).datasource(SOURCE).query(f"label_values({metric}, {label})")
    made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return made.multi(True).include_all(True).all_value(".+") if several else made


def built(panel: Panel) -> Any:
    """The builder of a panel."""
    if panel.kind == "number":
        made: Any = stat.Panel().color_mode(BigValueColorMode.VALUE).height(4)
    elif panel.kind == "table":
        made = table.Panel().height(8)
    else:
        made = timeseries.Panel().height(8).min(0).fill_opacity(10)
        made.legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True))
        made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    made.title(panel.title).description(panel.text).unit(panel.unit).span(panel.width).datasource(SOURCE)
    if panel.steps:
        steps = [Threshold(value=value, color=colour) for colour, value in panel.steps.items()]
        made.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for at, (expression, legend) in enumerate(panel.queries.items()):
        query = Dataquery().expr(expression.replace("@", CHOSEN)).legend_format(legend).ref_id(chr(ord("A") + at))
        made.with_target(query.instant().format(PromQueryFormat.TABLE) if panel.kind == "table" else query.range())
    return made


ALL = {
    "service": dashboard("archlab-service", "archlab: the service", "Is it well, and what is asked.", SERVICE),
    "models": dashboard(
        "archlab-models", "archlab: models", "Queues, batches, caches and the index.", MODELS, by_model=True
    ),
}


def written() -> dict[Path, str]:
    """File -> text of every dashboard."""
    return {
        FOLDER / f"{name}.json": json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, made in ALL.items()
    }


def main() -> int:
    """The command; exit code 1 where a check finds a file out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    check = parser.parse_args().check
    late = {
        path: text for path, text in written().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in late.items():
        if check:
            print(f"{path}: is out of date; run this again without --check")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if check and late else 0


if __name__ == "__main__":
    raise SystemExit(main())

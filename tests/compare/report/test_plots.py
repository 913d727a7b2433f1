from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from archlab.compare import formatting as show
from archlab.compare import plots
from archlab.compare.plots import TOKEN, VLJEPA, Panel

Results = dict[str, Any]


def all_panels(results: Results) -> list[Panel]:
    tiles = [panel for panels in plots.confusion(results).values() for panel in panels]
    return [
        *plots.learning_curves(results),
        *plots.accuracy_against_latency(results),
        *plots.kinds(results),
        *plots.retrieval(results),
        *tiles,
    ]


def test_figures_share_a_page_without_clashing_ids_fixed_inks_or_remote_addresses(results: Results) -> None:
    panels = all_panels(results)
    assert len(panels) == 6 + 3 + 1 + 2 + 2 * len(results["confusion"])
    ids: list[str] = []
    for panel in panels:
        tree = ElementTree.fromstring(panel.svg)
        own = [element.get("id") for element in tree.iter() if element.get("id")]
        used = re.findall(r'(?:href="|url\()#([\w-]+)', panel.svg)
        assert set(used) <= set(own)
        ids += own
        assert "http" not in panel.svg
        assert plots._INK not in panel.svg
        assert "currentColor" in panel.svg
        assert tree.get("width") is None
        assert panel.title
        assert re.search(r"\d", panel.description)
    assert len(ids) == len(set(ids))


def test_drawing_twice_gives_the_same_bytes(results: Results) -> None:
    assert plots.kinds(results) == plots.kinds(results)


def test_arms_differ_in_line_and_marker_and_not_in_colour_alone(results: Results) -> None:
    svg = plots.learning_curves(results)[0].svg
    lines = {}
    for style in re.findall(r'style="(fill: none;[^"]*stroke: var\(--(?:token|vljepa)[^"]*)"', svg):
        lines[re.findall(r"--(token|vljepa)", style)[0]] = "dasharray" in style
    assert lines == {"token": False, "vljepa": True}
    assert plots._MARKERS["token"] != plots._MARKERS["vljepa"]
    assert plots._HATCHES["token"] != plots._HATCHES["vljepa"]


def test_a_description_tells_what_the_curve_shows(results: Results) -> None:
    first, last = (results["arms"]["token"]["curves"]["vqa/accuracy"][end] for end in (0, -1))
    description = plots.learning_curves(results)[0].description
    assert f"token from {show.scalar(first['mean'], 'accuracy')} after 3,200 samples" in description
    assert f"[{100 * last['low']:.1f}, {100 * last['high']:.1f}] after 102,400" in description


def test_a_moved_point_moves_the_curve(results: Results) -> None:
    before = plots.learning_curves(results)[0].svg
    results["arms"]["vljepa"]["curves"]["vqa/accuracy"][2]["mean"] -= 0.2
    assert plots.learning_curves(results)[0].svg != before


@pytest.mark.parametrize("low", [None, 0.1])
def test_a_curve_without_interval_is_drawn(results: Results, low: float | None) -> None:
    for point in results["arms"]["token"]["curves"]["vqa/accuracy"]:
        point["low"] = low
        del point["high"]
    assert plots.learning_curves(results)[0].svg


def test_hostile_labels_are_text(results: Results) -> None:
    results["confusion"] = {
        "<b>": {"labels": ["<script>", "$x$"], "token": [[1, 0], [0, 1]], "vljepa": [[0, 1], [1, 0]]}
    }
    for panel in plots.confusion(results)["<b>"]:
        assert "<script>" not in panel.svg
        assert "&lt;script&gt;" in panel.svg
        assert "$x$" in panel.svg


def test_what_was_not_measured_is_not_drawn(results: Results) -> None:
    for arm in results["arms"].values():
        arm["curves"], arm["inference"], arm["test"] = {}, {}, {}
    results["confusion"] = {}
    assert all_panels(results) == []


def test_the_hero_stands_alone_in_both_formats(results: Results, tmp_path: Path) -> None:
    svg, png = plots.write_hero(results, tmp_path)
    text = svg.read_text()
    ElementTree.fromstring(text)
    assert text.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in text
    assert "prefers-color-scheme:dark" in text
    assert TOKEN in text
    assert VLJEPA in text
    with Image.open(png) as image:
        assert image.width > 1200
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hero.png", "hero.svg"]


def test_the_hero_of_one_seed_says_so(make: Any, tmp_path: Path) -> None:
    assert "one seed: no winner" in plots.write_hero(make(1), tmp_path)[0].read_text()
    assert "one seed: no winner" not in plots.write_hero(make(3), tmp_path)[0].read_text()

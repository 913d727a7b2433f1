from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from archlab.compare import formatting as show
from archlab.compare.report import render_report, write_report

Results = dict[str, Any]
VOID = {"meta", "link", "img", "input", "br", "hr"}
SECTIONS = [
    *("findings", "headline", "learning", "efficiency", "kinds", "captions", "retrieval", "probes", "inference"),
    *("size", "budget", "confusion", "examples", "data", "provenance", "limits"),
]


class Page(HTMLParser):
    """Checks nesting while parsing, and collects text by section, elements and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.section = ""
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.section = str(dict(attrs)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"svg", "style"} & set(self.open):
            self.text[self.section] = self.text.get(self.section, "") + data.replace("\N{NO-BREAK SPACE}", " ") + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for one in value.values():
            yield from numbers(one)
    elif isinstance(value, list):
        for one in value:
            yield from numbers(one)
    elif show.is_number(value):
        yield value


@pytest.fixture(scope="module")
def page(make: Callable[..., Results]) -> Page:
    return Page(render_report(make()))


def test_the_page_is_well_formed_and_in_the_promised_order(page: Page) -> None:
    assert [one["id"] for one in page.all("section")] == SECTIONS
    links = [one["href"] for one in page.all("a")]
    assert links == ["#main", *(f"#{name}" for name in SECTIONS)]
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_the_file_needs_neither_network_nor_script(page: Page, results: Results) -> None:
    assert not page.all("script")
    assert not page.all("link")
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href", "data", "poster", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "http" not in render_report(results)
    assert "@import" not in render_report(results)
    assert not re.search(r"url\((?!#)", render_report(results))


def test_figures_and_images_have_text_and_tables_have_scoped_headers(page: Page) -> None:
    assert all(image["alt"] for image in page.all("img"))
    figures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(figures) == len(page.all("svg")) > 10
    assert all(figure["aria-label"] for figure in figures)
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_every_headline_score_is_printed_where_it_belongs(results: Results) -> None:
    count = 0
    for metrics in (split for arm in results["arms"].values() for split in arm["test"].values()):
        for one in metrics.values():
            count += 1
            one["value"] = (0.0 if one["unit"] == "CIDEr-D" else 0.1) + count / 1000
    text = Page(render_report(results)).text
    where = {"vqa/accuracy": "headline", "vqa/colour": "kinds", "vqa_normalised/accuracy": "kinds",
             "caption/exact": "captions", "retrieval/text_to_image_r10": "retrieval",
             "retrieval_pmi/image_to_text_r1": "retrieval", "classification/accuracy": "headline"}  # fmt: skip
    for arm in results["arms"].values():
        for metric, one in arm["test"]["test"].items():
            if metric in where:
                assert show.score(one) in text[where[metric]], metric
        assert show.score(arm["test"]["test_combinations"]["vqa/accuracy"]) in text["headline"]


def test_no_percentage_is_printed_that_the_results_do_not_hold(results: Results, page: Page) -> None:
    held = {f"{100 * abs(value):.1f}" for value in numbers(results)} | {"90.0"}  # the goal beside the supervised head
    for metric, head in results["controls"]["supervised_head"]["both"].items():
        held |= {
            f"{100 * arm['test']['test'][metric]['value'] / head['value']:.1f}" for arm in results["arms"].values()
        }
    printed = [number for text in page.text.values() for number in re.findall(r"(\d+\.\d) %", text)]
    assert len(printed) > 200
    assert set(printed) <= held


CHANGES = [
        ("arms/token/inference/choose/8/p99_ms", 123.4, "inference", "123 ms"),
        ("arms/vljepa/inference/embed/32/memory_mib", 777.0, "inference", "777 MiB"),
        ("arms/vljepa/cost/caption/cost_per_1000", 0.4321, "inference", "0.432"),
        ("arms/token/inference/choose/8/flops_per_sample", 4.56e9, "inference", "4.56 GFLOP"),
        ("arms/vljepa/inference/embed/32/gpu_memory", 876.0, "inference", "GPU memory: 876 MiB"),
        ("x_encoder/inference/encode/1/p50_ms", 4.56, "inference", "4.56 ms"),
        ("arms/token/tokens_per_second", 654.0, "inference", "654"),
        ("arms/vljepa/parameters/parts/target_encoder", 987654, "size", "987,654"),
        ("arms/vljepa/parameters/parts/decoder", 876543, "size", "876,543"),
        ("arms/token/training/peak_memory_mib", 999.0, "size", "999 MiB"),
        ("arms/token/training/flops", 7.77e15, "size", "7.77 PFLOP"),
        ("arms/token/training/gpu_memory", 555.0, "size", "555 MiB"),
        ("controls/decoder_ceiling/vljepa/caption/cider_d/value", 8.76, "captions", "8.76 ["),
        ("controls/nearest_caption/vljepa/caption/cider_d/value", 1.23, "captions", "1.23 ["),
        ("controls/supervised_head/both/vqa/colour/value", 0.9871, "kinds", "98.7 % ["),
        ("probes/knn/shape/features/value", 0.4441, "probes", "44.4 % ["),
        ("paired/test/vqa/colour/difference", 0.0771, "kinds", "+7.7 points ["),
        ("efficiency/0/token/samples", 5432, "efficiency", "5,432"),
        ("convergence/token/vqa/accuracy", 321, "efficiency", "321"),
        ("data/splits/train/images", 4321, "data", "4,321"),
        ("budget/differs/optimizer.learning_rate/1", 0.00345, "budget", "0.00345"),
        ("config/run/trunk/width", 7531, "provenance", "7531"),
        ("provenance/features_digest", "feed" * 8, "provenance", "feed" * 8),
        ("arms/token/test/test/retrieval/image_to_text_r1/n", 243, "retrieval", "243"),
        ("arms/vljepa/sweep/2/score", 0.4567, "budget", "0.457"),
        ("collapse/effective_rank", 17.3, "probes", "17.3"),
]  # fmt: skip


@pytest.fixture(scope="module")
def changed(make: Callable[..., Results]) -> Page:
    """The page of the same results with every one of `CHANGES` made."""
    results = make()
    for path, value, _, _ in CHANGES:
        put(results, path, value)
    return Page(render_report(results))


@pytest.mark.parametrize(("path", "value", "section", "text"), CHANGES)
def test_a_changed_number_changes_the_page(
    page: Page, changed: Page, path: str, value: Any, section: str, text: str
) -> None:
    assert text not in page.text[section]
    assert text in changed.text[section]


def put(target: Any, path: str, value: Any) -> None:
    """Set a leaf; names of metrics hold slashes, so the longest key that is there is taken."""
    parts = path.split("/")
    while parts:
        if isinstance(target, list):
            key: Any = int(parts.pop(0))
        else:
            size = next(n for n in range(len(parts), 0, -1) if "/".join(parts[:n]) in target)
            key, parts = "/".join(parts[:size]), parts[size:]
        if not parts:
            target[key] = value
        target = target[key]


def table(page: str, caption: str) -> list[list[str]]:
    """Cells of the table of that caption, row by row."""
    body = (
        page.partition(f"<caption>{caption}</caption>")[2].partition("</table>")[0].replace("\N{NO-BREAK SPACE}", " ")
    )
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def test_every_kind_stands_beside_its_share_of_the_supervised_head(results: Results) -> None:
    for metric, head in results["controls"]["supervised_head"]["both"].items():
        head["value"] = 0.5
        for arm, value in (("token", 0.375), ("vljepa", 0.4375 if metric == "vqa/count" else 0.45)):
            results["arms"][arm]["test"]["test"][metric]["value"] = value
    page = render_report(results)
    _, *rows = table(page, "Share of the accuracy of the supervised head, test split")
    assert {row[0] for row in rows} >= {
        "questions about the image",
        "colour",
        "exists",
        "open-vocabulary classification",
    }
    for name, head, token, vljepa, goal in rows:
        assert head.startswith("50.0 % [")
        assert token == "75.0 %"
        assert (vljepa, goal) == (("87.5 %", "missed") if name == "count" else ("90.0 %", "reached"))
    assert "Goal: 90.0 % for the better arm, missed by count." in page


def test_both_read_outs_of_the_token_arm_stand_side_by_side(results: Results) -> None:
    own = results["arms"]["token"]["test"]["test"]
    own["vqa_normalised/colour"] = dict(own["vqa/colour"], value=0.4321)
    header, *rows = table(render_report(results), "Read-outs of the token arm, test split")
    assert header[1:] == ["summed log-probability", "length-normalised log-probability"]
    assert rows == [
        [name, *(show.score(own[metric]) for metric in (f"vqa/{kind}", f"vqa_normalised/{kind}"))]
        for name, kind in (("questions about the image", "accuracy"), ("colour", "colour"))
    ]


def test_converging_costs_samples_operations_and_time_a_bound_where_it_was_not_seen(results: Results) -> None:
    curve = results["arms"]["token"]["curves"]["vqa/accuracy"]
    last = results["arms"]["vljepa"]["curves"]["vqa/accuracy"][-1]
    results["convergence"]["token"]["vqa/accuracy"] = curve[2]["step"]
    results["convergence"]["vljepa"]["vqa/accuracy"] = last["step"]
    curve[2] |= {"samples": 4321, "flops": 5.67e12, "seconds": 42.0}
    row = next(
        row for row in table(render_report(results), "Cost of converging") if row[0] == "questions about the image"
    )
    assert row[1::2] == [str(curve[2]["step"]), "4,321", "5.67 TFLOP", "42.0 s"]
    assert row[2] == f"{last['step']} (the last: not seen)"
    assert row[4] == f"≥ {last['samples']:,}"
    assert row[6::2] == [f"≥ {show.quantity(last['flops'], 'FLOP')}", f"≥ {show.seconds(last['seconds'])}"]


def test_a_task_without_scores_is_named_with_the_reason(results: Results) -> None:
    assert "not measured on both arms" not in Page(render_report(results)).text["headline"]
    results["untested"]["open-vocabulary classification"] = "nobody asked"
    for arm in results["arms"].values():
        del arm["test"]["test"]["classification/accuracy"]
    text = Page(render_report(results)).text["headline"]
    assert "Open-vocabulary classification: not measured on both arms, nobody asked." in text


@pytest.mark.parametrize("questions", [True, False])
def test_one_seed_never_prints_a_winner(make: Callable[..., Results], questions: bool) -> None:
    results = make(1, questions=questions)
    for split in results["paired"].values():
        for paired in split.values():
            paired |= {"winner": "vljepa", "why": "interval excludes zero"}
    page = Page(render_report(results))
    assert "one seed: no winner" in page.text["findings"]
    everything = " ".join(page.text.values())
    assert not re.search(r"\bwins?\b", everything)
    assert set(re.findall(r"[^ ]+ [^ ]+ [^ ]+ winner", everything)) == {"one seed: no winner"}


def test_several_seeds_print_the_winner_of_the_paired_difference(results: Results) -> None:
    paired = results["paired"]["test"]["vqa/relation"]
    paired |= {"winner": "undecided"}
    assert Page(render_report(results)).text["kinds"].count("token wins") == 1
    paired |= {"winner": "token"}
    for arm in results["controls"]["shuffled_image"]:
        for control in results["controls"].values():
            (control.get(arm) or control.get("both") or {}).get("vqa/relation", {}).update(value=0.1, high=0.12)
    assert Page(render_report(results)).text["kinds"].count("token wins") == 2


def test_text_of_the_data_is_escaped(results: Results) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    example = results["examples"][0]
    example |= {"query": hostile, "token": hostile, "answer": hostile, "kind": hostile}
    example["image_png_base64"] = '"><script>alert(2)</script>'
    results["data"] |= {"name": hostile, "skipped": [hostile], "notes": [hostile]}
    results["command"] = results["untested"]["x"] = hostile
    results["confusion"][hostile] = results["confusion"].pop("colour")
    for arm in results["arms"].values():
        arm["test"]["test"][f"vqa/{hostile}"] = arm["test"]["test"].pop("vqa/colour")
    page = Page(render_report(results))
    assert not page.all("script")
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in page.all("img"))
    assert len(page.all("img")) == len(results["examples"]) - 1
    assert "<script>alert(1)</script>" in page.text["examples"]


def test_examples_mark_right_and_wrong_by_sign_and_word(results: Results) -> None:
    results["examples"] = results["examples"][:2]
    results["examples"][0] |= {"token_right": True, "vljepa_right": False}
    results["examples"][1] |= {"token_right": False, "vljepa_right": True}
    marks = re.findall(r"[✓✗] [a-z ]+", Page(render_report(results)).text["examples"])
    expected = ["✓ right", "✗ wrong", "✗ not as the reference", "✓ as the reference"]
    assert [mark.strip() for mark in marks] == expected


def test_data_with_captions_alone_say_why_questions_are_missing(make: Callable[..., Results]) -> None:
    text = Page(render_report(make(3, questions=False))).text
    for section in ("kinds", "confusion", "probes"):
        assert "Not measured: the data have captions but no question-answer pairs." in " ".join(text[section].split())
    assert "3 captions of the test split are also in train" in text["data"]


def test_inputs_that_were_left_out_are_counted_and_listed_one_a_row(make: Callable[..., Results]) -> None:
    results = make(1)
    assert "Inputs left out: none." in Page(render_report(results)).text["data"]
    results["data"]["skipped"] = ["a.jsonl, line 3: image x.png: is empty", "a.jsonl, line 9: is not UTF-8"]
    page = render_report(results)
    text = " ".join(Page(page).text["data"].split())
    assert "Inputs left out: 2 input what is wrong with it" in text
    assert re.findall(r'<th scope="row">(a\.jsonl.*?)</th><td>(.*?)</td>', page.replace("\N{NO-BREAK SPACE}", " ")) == [
        ("a.jsonl, line 3", "image x.png: is empty"),
        ("a.jsonl, line 9", "is not UTF-8"),
    ]
    assert "none." not in text


def test_a_long_list_of_what_was_left_out_is_folded_and_ends(make: Callable[..., Results]) -> None:
    results = make(1)
    results["data"]["skipped"] = [f"line {n}: is empty" for n in range(20)]
    assert "<summary>Inputs" not in render_report(results)
    results["data"]["skipped"] = [f"line {n}: is empty" for n in range(1234)]
    page = render_report(results)
    assert "<summary>Inputs left out: 1,234</summary>" in page
    assert page.count("<td>is empty</td>") == 500
    assert "The first 500 are listed here, all of them in results.json." in page


@pytest.mark.parametrize("name", ["probes", "efficiency", "controls", "paired", "confusion", "examples", "x_encoder",
                                  "convergence", "collapse", "untested", "provenance", "machine", "data", "budget",
                                  "config"])  # fmt: skip
def test_a_missing_part_is_no_failure(results: Results, name: str) -> None:
    del results[name]
    assert [one["id"] for one in Page(render_report(results)).all("section")] == SECTIONS


def test_arms_without_any_measurement_still_make_a_report_that_says_so(results: Results) -> None:
    bare = {"arms": {"token": {}, "vljepa": {}}}
    page = Page(render_report(bare))
    for section in SECTIONS:
        if section in ("headline", "learning", "efficiency", "kinds", "captions", "retrieval", "probes", "inference"):
            assert "Not measured:" in page.text[section]
    assert "not measured" in page.text["size"]


@pytest.mark.parametrize(("calls", "marked"), [(20, True), (99, True), (100, False)])
def test_a_p99_of_few_calls_is_marked_with_their_number(results: Results, calls: int, marked: bool) -> None:
    for timed in (*(arm["inference"] for arm in results["arms"].values()), results["x_encoder"]["inference"]):
        for row in (row for batches in timed.values() for row in batches.values()):
            row["calls"], row["p99_ms"] = calls, 123.4
    text = Page(render_report(results)).text["inference"]
    assert ("123 ms *" in text) == (f"* From {calls} calls" in text) == marked


def test_gpu_memory_reads_not_measured_without_a_gpu(results: Results) -> None:
    text = Page(render_report(results)).text
    assert "GPU memory: not measured" in text["inference"]
    assert re.search(r"GPU memory\s+not measured\s+not measured", text["size"])


def test_no_price_leaves_machine_time(make: Callable[..., Results]) -> None:
    text = Page(render_report(make(1, price=0))).text["inference"]
    assert "no price given" in text
    assert "always busy; no machine price was given." in text


def test_what_only_vljepa_has_does_not_apply_to_the_token_arm(results: Results) -> None:
    del results["arms"]["token"]["training"]["flops_parts"]["target_encoder"]
    text = " ".join(Page(render_report(results)).text["captions"].split())
    assert "CIDEr-D: decoder ceiling does not apply" in text
    assert "CIDEr-D: nearest training caption does not apply" in text
    text = " ".join(Page(render_report(results)).text["size"].split())
    assert "operations: target encoder none" in text


def test_the_report_appears_whole_or_not_at_all(results: Results, tmp_path: Path) -> None:
    assert write_report(results, tmp_path / "run") == tmp_path / "run" / "report.html"
    before = (tmp_path / "run" / "report.html").read_text()
    broken = copy.deepcopy(results)
    broken["efficiency"] = [{}]
    with pytest.raises(KeyError):
        write_report(broken, tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text() == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]


def test_monitors_of_the_embedding_space_are_drawn_and_an_alarm_is_told(results: Results) -> None:
    point = {"spread_target": 0.02, "loss": 4.1, "log_batch": 4.2, "verdict": "collapsed targets: x", "alarm": True}
    seeds = [{"alarm": "collapsed targets: x", "points": [{"step": step, **point} for step in (10, 100)]}]
    plain, watched = Page(render_report(results)), Page(render_report(results | {"monitor": seeds}))
    assert "Alarm, VL-JEPA: collapsed targets: x." in watched.text["probes"]
    assert "collapsed targets in 1 of 1" in watched.text["probes"]
    assert "Alarm" not in plain.text["probes"]
    assert len(watched.all("svg")) == len(plain.all("svg")) + 2

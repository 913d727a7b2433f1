from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import pytest

from archlab.compare.caveats import REFERENCES, caveats, shares
from archlab.compare.readme import findings_markdown
from archlab.compare.report import render_report
from archlab.compare.scores import best_blind

Results = dict[str, Any]
BLIND, HEAD = "Not above the blind control", "Below 90.0 % of the supervised head"
CONTROLS = ("shuffled_image", "no_query", "majority", "trained_blind")


def score(value: float) -> dict[str, Any]:
    """A score with an interval of four points to either side."""
    return {"value": value, "low": value - 0.04, "high": value + 0.04, "n": 100, "seeds": 3, "unit": "accuracy"}


def put(results: Results, metric: str, token: float, vljepa: float, blind: float, head: float = 0.9) -> None:
    """Give a metric these scores."""
    for arm, value in (("token", token), ("vljepa", vljepa)):
        results["arms"][arm]["test"]["test"][metric] = score(value)
    for name in CONTROLS:
        for own in results["controls"][name].values():
            own[metric] = score(blind if name == "trained_blind" else blind - 0.01)
    results["controls"]["supervised_head"]["both"][metric] = score(head)


def said(results: Results, heading: str, kind: str) -> list[str]:
    return [text for text in caveats(results).get(heading, []) if text.startswith(kind)]


def test_a_kind_on_which_both_arms_are_blind_is_named_with_all_intervals(results: Results) -> None:
    put(results, "vqa/exists", 0.52, 0.55, 0.5, head=0.51)
    assert said(results, BLIND, "exists") == [
        "exists, both arms: token 52.0 % [48.0, 56.0] against 50.0 % [46.0, 54.0] (trained blind, one seed), "
        "VL-JEPA 55.0 % [51.0, 59.0] against 50.0 % [46.0, 54.0] (trained blind, one seed); "
        "supervised head 51.0 % [47.0, 55.0], not above it either"
    ]
    put(results, "vqa/exists", 0.52, 0.55, 0.5)
    assert said(results, BLIND, "exists")[0].endswith("supervised head 90.0 % [86.0, 94.0]")
    put(results, "vqa/exists", 0.7, 0.7, 0.5)
    assert said(results, BLIND, "exists") == []


def test_one_blind_arm_is_named_alone(results: Results) -> None:
    put(results, "vqa/exists", 0.7, 0.52, 0.5)
    (text,) = said(results, BLIND, "exists")
    assert text.startswith("exists, VL-JEPA alone: VL-JEPA 52.0 % [48.0, 56.0] against")
    assert "token" not in text


def test_tasks_are_held_against_their_controls_as_kinds_are(results: Results) -> None:
    put(results, "classification/accuracy", 0.2, 0.2, 0.19)
    assert len(said(results, BLIND, "open-vocabulary classification, both arms")) == 1


def test_a_kind_far_below_the_supervised_head_is_named_and_one_at_the_goal_is_not(results: Results) -> None:
    put(results, "vqa/count", 0.375, 0.4375, 0.3, head=0.5)
    assert said(results, HEAD, "count") == [
        "count: VL-JEPA, the better arm, 43.8 % [39.8, 47.8], which is 87.5 % of its 50.0 % [46.0, 54.0]"
    ]
    put(results, "vqa/count", 0.375, 0.45, 0.3, head=0.5)
    assert said(results, HEAD, "count") == []
    assert next(one for one in shares(results, REFERENCES[0]) if one.metric == "vqa/count").of_arm[
        "token"
    ] == pytest.approx(0.75)


def test_arms_far_below_a_network_trained_end_to_end_are_named_in_page_and_findings(results: Results) -> None:
    heading = "Below 95.0 % of the network trained end to end"
    put(results, "vqa/count", 0.8, 0.9, 0.3)
    assert heading not in caveats(results)
    results["controls"]["end_to_end"] = {"both": {"vqa/count": results["arms"]["vljepa"]["test"]["test"]["vqa/count"]}}
    assert heading not in caveats(results)  # one arm reaches it
    put(results, "vqa/count", 0.8, 0.84, 0.3)
    results["controls"]["end_to_end"]["both"]["vqa/count"] = {
        **results["controls"]["supervised_head"]["both"]["vqa/count"]
    }
    assert len(said(results, heading, "count: VL-JEPA, the better arm, 84.0 %")) == 1
    assert "Share of the accuracy of the network trained end to end" in render_report(results)


def test_without_a_supervised_head_there_are_no_shares_of_it(results: Results) -> None:
    assert HEAD in caveats(results)
    del results["controls"]["supervised_head"]
    assert shares(results, REFERENCES[0]) == []
    assert HEAD not in caveats(results)
    assert "Share of the accuracy of the supervised head" not in render_report(results)


def test_caveats_stand_among_the_key_findings_of_page_and_readme_under_any_number_of_seeds(
    make: Callable[..., Results],
) -> None:
    for seeds in (1, 3):
        results = make(seeds)
        put(results, "vqa/exists", 0.52, 0.55, 0.5)
        page = html.unescape(render_report(results)).replace("\N{NO-BREAK SPACE}", " ")
        findings = page.partition('id="findings"')[2].partition('id="headline"')[0]
        block = findings_markdown(results)
        for heading, texts in caveats(results).items():
            assert f"- **{heading}:** {'; '.join(texts)}." in block
            assert f"<h3>{heading}</h3>" in findings
            assert all(text in findings for text in texts)


def test_a_run_without_weaknesses_has_no_caveats(results: Results) -> None:
    for metric in list(results["arms"]["token"]["test"]["test"]):
        if metric.startswith(("vqa/", "classification/")):
            put(results, metric, 0.85, 0.85, 0.3)
        elif metric in results["controls"]["shuffled_image"]["token"]:
            for arm in ("token", "vljepa"):
                for name in ("shuffled_image", "trained_blind"):
                    results["controls"][name][arm][metric] |= {"value": 0.0, "high": 0.0}
    for copy in results["controls"]["nearest_caption"]["vljepa"].values():
        copy |= {"value": 0.0, "high": 0.0}
    results["convergence"] = {arm: dict.fromkeys(steps, 1) for arm, steps in results["convergence"].items()}
    assert caveats(results) == {}


def test_a_decoder_that_does_not_beat_the_copy_is_named(results: Results) -> None:
    heading = "Text decoder not above copying the nearest training caption"
    for metric, value in (("caption/cider_d", 0.1), ("caption/slots", 0.99)):
        copy = results["controls"]["nearest_caption"]["vljepa"][metric]
        copy |= {"value": value, "low": value, "high": value}
    (text,) = caveats(results)[heading]
    assert text.startswith("captions, facts right: VL-JEPA ")
    assert text.endswith("against 99.0 % [99.0, 99.0]")


def test_retrieval_that_does_not_beat_simple_means_is_named_in_page_and_findings(results: Results) -> None:
    heading = "Not above a regression from gradients and colours to words"
    metric = "retrieval/image_to_text_r10"
    assert heading not in caveats(results)
    assert "regression from gradients" not in render_report(results)
    own = results["arms"]["vljepa"]["test"]["test"][metric]
    results["controls"]["retrieval_floor"] = {"both": {metric: score(own["value"])}}
    results["arms"]["token"]["test"]["test"][metric] = score(min(1.0, own["value"] + 0.2))
    text = said(results, heading, "image to text, R@10")[0]
    assert "VL-JEPA" in text
    assert "token" not in text
    page = render_report(results)
    assert heading in page
    assert "the words of" not in page
    assert "what is reached without a representation of the image" in page


def test_classes_that_simple_means_tell_as_well_are_named_in_page_and_findings(results: Results) -> None:
    heading = "Not above a regression from gradients and colours to classes"
    own = results["arms"]["vljepa"]["test"]["test"]["classification/accuracy"]["value"]
    results["controls"]["image_floor"] = {"both": {"classification/accuracy": score(own)}}
    put(results, "vqa/count", 0.8, 0.9, 0.3)  # of which the floor says nothing
    text = said(results, heading, "open-vocabulary classification")[0]
    assert "token" in text
    assert "VL-JEPA" in text
    assert "regression from gradients and colours to classes</th>" in render_report(results)
    results["controls"]["image_floor"]["both"]["classification/accuracy"] = score(0.01)
    assert heading not in caveats(results)


def test_a_classifier_of_the_question_alone_is_a_blind_control(results: Results) -> None:
    metric = "vqa/accuracy"
    put(results, metric, 0.6, 0.8, 0.3)
    results["controls"]["question_floor"] = {"both": {metric: score(0.79)}}
    blind = best_blind(results, "vljepa", metric)
    assert blind is not None
    assert blind.name == "question_floor"
    assert any("classifier of the question alone" in text for text in caveats(results)["Not above the blind control"])


def test_what_was_still_moving_at_the_last_checkpoint_is_named(results: Results) -> None:
    heading, steps = "Not seen to converge within the run", results["arms"]["token"]["training"]["steps"]
    results["convergence"] = {arm: dict.fromkeys(found, 1) for arm, found in results["convergence"].items()}
    results["convergence"]["token"]["vqa/accuracy"] = steps
    assert caveats(results)[heading] == ["questions about the image, token"]
    results["convergence"]["vljepa"]["vqa/accuracy"] = steps
    assert caveats(results)[heading] == ["questions about the image, both arms"]

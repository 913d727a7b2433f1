from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archlab.compare import formatting as show
from archlab.compare import scores
from archlab.compare.findings import NEEDS, Finding, key_findings, summary, when_to_use
from archlab.errors import UserError

Results = dict[str, Any]
WINS = {"winner": "vljepa", "why": "interval excludes zero and all seeds agree in sign"}


def find(results: Results, subject: str) -> Finding:
    return next(finding for finding in key_findings(results) if finding.subject == subject)


def test_every_need_of_a_reader_is_answered_or_called_untested(results: Results) -> None:
    findings = key_findings(results)
    assert {finding.topic for finding in findings} == set(NEEDS.values())
    assert [row.need for row in when_to_use(findings)] == list(NEEDS)
    assert all(finding.evidence for finding in findings if finding.verdict != "untested")


@pytest.mark.parametrize("winner", ["token", "vljepa", "undecided"])
def test_the_verdict_is_the_paired_winner_even_against_the_scores(results: Results, winner: str) -> None:
    results["paired"]["test"]["caption/cider_d"] |= {"winner": winner}
    assert find(results, "captions, CIDEr-D").verdict == winner


def test_a_statement_quotes_scores_difference_and_blind_controls_with_their_intervals(results: Results) -> None:
    statement = find(results, "questions about the image").statement
    for arm in scores.ARMS:
        assert show.score(results["arms"][arm]["test"]["test"]["vqa/accuracy"]) in statement
        blind = max(
            (results["controls"][name].get(arm) or results["controls"][name]["both"] for name in
             ("shuffled_image", "no_query", "majority", "trained_blind")),
            key=lambda control: control["vqa/accuracy"]["value"],
        )  # fmt: skip
        assert show.score(blind["vqa/accuracy"]) in statement
    assert show.difference(results["paired"]["test"]["vqa/accuracy"], "accuracy") in statement


@pytest.mark.parametrize("questions", [True, False])
def test_one_seed_names_no_winner_whatever_the_results_claim(make: Callable[..., Results], questions: bool) -> None:
    results = make(1, questions=questions)
    for split in results["paired"].values():
        for paired in split.values():
            paired |= WINS
    findings = key_findings(results)
    assert {finding.verdict for finding in findings} == {"undecided", "untested"}
    assert {finding.why for finding in findings if finding.verdict == "undecided"} == {"one seed: no winner"}
    assert list(summary(results, findings)) == ["Untested"]
    assert {row.verdict for row in when_to_use(findings)} == {"undecided", "untested"}


def test_a_win_that_the_blind_control_explains_is_taken_back_and_said(results: Results) -> None:
    results["paired"]["test"]["vqa/accuracy"] |= WINS
    own = results["arms"]["vljepa"]["test"]["test"]["vqa/accuracy"]
    assert find(results, "questions about the image").verdict == "vljepa"
    results["controls"]["trained_blind"]["vljepa"]["vqa/accuracy"] |= {"value": own["value"], "high": own["high"]}
    finding = find(results, "questions about the image")
    assert finding.verdict == "undecided"
    assert finding.why == "VL-JEPA is not clearly above its blind control"
    assert "The VL-JEPA arm is not clearly above its blind control" in finding.statement


def test_asking_nothing_is_no_control_for_captions_which_all_have_one_query(results: Results) -> None:
    results["controls"]["no_query"]["token"]["caption/cider_d"] |= {"value": 99.0, "high": 99.0}
    assert "no query" not in find(results, "captions, CIDEr-D").statement
    assert "99" not in find(results, "captions, CIDEr-D").statement


def test_an_untested_topic_gives_the_reason_of_the_run(make: Callable[..., Results]) -> None:
    results = make(3, questions=False)
    finding = find(results, "multimodal input")
    assert (finding.verdict, finding.why) == ("untested", "the data have captions but no question-answer pairs")
    results["untested"]["multimodal input"] = "no camera"
    assert find(results, "multimodal input").conclusion == "Untested: no camera."


def test_a_metric_of_one_arm_alone_is_no_comparison(results: Results) -> None:
    del results["arms"]["token"]["test"]["test"]["retrieval/image_to_text_r1"]
    assert find(results, "image to text, R@1").conclusion == "Untested: this run has no such numbers."
    del results["paired"]["test"]["vqa/accuracy"]
    assert find(results, "questions about the image").verdict == "untested"


def test_a_task_that_was_not_measured_is_untested_beside_those_of_its_topic_that_were(results: Results) -> None:
    results["paired"]["test"]["vqa/accuracy"] |= WINS
    results["untested"]["open-vocabulary classification"] = "nobody asked"
    for arm in results["arms"].values():
        del arm["test"]["test"]["classification/accuracy"]
    findings = key_findings(results)
    finding = find(results, "open-vocabulary classification")
    assert (finding.statement, finding.conclusion) == ("Open-vocabulary classification.", "Untested: nobody asked.")
    assert "open-vocabulary classification" in summary(results, findings)["Untested"]
    row = next(row for row in when_to_use(findings) if row.need == "multimodal input")
    assert (row.verdict, row.reason) == ("vljepa", "wins questions about the image")


def test_texts_that_training_never_read_say_what_carries_over(results: Results) -> None:
    metric, split = "retrieval/image_to_text_r1", "test_held_out_keywords"
    for arm in results["arms"].values():
        arm["test"][split] = {metric: arm["test"]["test"][metric]}
        del arm["test"]["test_combinations"]
    results["paired"][split] = {metric: results["paired"]["test"][metric] | WINS}
    (finding,) = [one for one in key_findings(results) if one.topic == "zero-shot transfer"]
    assert finding.subject == "image to text, R@1 on keywords never trained on"
    assert finding.verdict == "vljepa"


def test_slots_that_only_the_scenes_have_are_untested_with_the_run_s_reason(results: Results) -> None:
    results["untested"]["slots"] = "no ground truth"
    for arm in results["arms"].values():
        del arm["test"]["test"]["caption/slots"]
    assert find(results, "captions, facts right").why == "no ground truth"


@pytest.mark.parametrize(("control", "unused"), [("no_query", "the question"), ("shuffled_image", "the image")])
def test_a_weak_arm_has_not_shown_to_use_what_its_control_lacks(results: Results, control: str, unused: str) -> None:
    results["controls"][control]["token"]["vqa/accuracy"] |= {"value": 0.99, "high": 0.99}
    statement = find(results, "questions about the image").statement
    assert f"The token arm is not clearly above its blind control: nothing shows that it uses {unused}." in statement


def test_an_arm_is_advised_only_if_it_wins_every_comparison_of_the_need(results: Results) -> None:
    def advice() -> tuple[str, str]:
        row = next(row for row in when_to_use(key_findings(results)) if row.need == "text generation")
        return row.verdict, row.reason

    paired = results["paired"]["test"]
    paired["caption/cider_d"] |= {"winner": "token", "why": "excludes"}
    paired["caption/slots"] |= {"winner": "undecided", "why": "interval includes zero"}
    assert advice() == ("undecided", "token wins captions, CIDEr-D; the rest: interval includes zero")
    paired["caption/slots"] |= {"winner": "vljepa"}
    assert advice()[0] == "undecided"
    paired["caption/slots"] |= {"winner": "token"}
    assert advice() == ("token", "wins captions, CIDEr-D; captions, facts right")


def test_where_tokens_win_is_said_even_where_they_win_nothing(results: Results) -> None:
    assert "captions, CIDEr-D" in summary(results, key_findings(results))["Where tokens win"]
    for split in results["paired"].values():
        for paired in split.values():
            paired["winner"] = "undecided"
    assert summary(results, key_findings(results))["Where tokens win"] == ["nothing in this run"]


def test_samples_to_a_score_are_bracketed_and_never_reached_is_said(results: Results) -> None:
    row = max((row for row in results["efficiency"] if row["metric"] == "vqa/accuracy"), key=lambda r: r["threshold"])
    row["token"], row["vljepa"] = {"samples": 6400, "samples_before": 3200, "flops": 1.0, "seconds": 30.0}, None
    finding = find(results, "learning curve of questions about the image")
    assert "token between 3,200 and 6,400 samples and VL-JEPA did not reach it" in finding.statement
    assert [(one.value, one.low, one.high) for one in finding.evidence] == [(6400, 3200, 6400)]
    row["vljepa"] = {"samples": 800, "samples_before": 0, "flops": 1.0, "seconds": 12.0}
    statement = find(results, "learning curve of questions about the image").statement
    assert "VL-JEPA at most 800 samples" in statement
    assert "token took 2.50 times the seconds" in statement


def test_training_and_latency_are_undecided_without_a_paired_interval_and_decided_by_one(decided: Results) -> None:
    subjects = ("learning curve of questions about the image", "time for choosing an answer", "linear probes")
    assert [find(decided, subject).verdict for subject in subjects] == ["vljepa"] * 3
    assert "2.77 times [2.61, 2.93] at batch 1" in find(decided, subjects[1]).statement
    del decided["paired"]["curves"], decided["paired"]["inference"]
    for name in [name for name in decided["paired"]["test"] if name.startswith("probe/")]:
        del decided["paired"]["test"][name]
    assert [find(decided, subject).verdict for subject in subjects] == ["undecided"] * 3


def test_latency_is_a_ratio_of_the_medians_of_one_run(results: Results) -> None:
    results["arms"]["token"]["inference"]["choose"]["8"]["p50_ms"] = 50.0
    results["arms"]["vljepa"]["inference"]["choose"]["8"]["p50_ms"] = 12.5
    statement = find(results, "time for choosing an answer").statement
    assert "4.00 times at batch 8" in statement
    assert " ms" not in statement


def test_a_probe_target_that_the_other_arm_wins_leaves_the_probes_undecided(decided: Results) -> None:
    decided["paired"]["test"]["probe/linear/shape"]["winner"] = "token"
    finding = find(decided, "linear probes")
    assert (finding.verdict, finding.why) == ("undecided", "not every target is won by one arm")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("[]", "no arm 'token'"), (json.dumps({"arms": {"token": {}}}), "no arm 'vljepa'")],
)
def test_results_that_are_none_are_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        scores.load_results(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="No such file"):
        scores.load_results(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (show.score({"value": 0.712, "low": 0.68, "high": 0.741, "unit": "accuracy"}), "71.2 % [68.0, 74.1]"),
        (show.score({"value": 2.314, "low": 2.1, "high": 2.5, "unit": "CIDEr-D"}), "2.31 [2.10, 2.50]"),
        (show.score({"value": float("nan"), "unit": "accuracy"}), "not measured"),
        (show.difference({"difference": -0.021, "low": -0.05, "high": 0.01}, "accuracy"), "−2.1 points [−5.0, +1.0]"),
        (show.seconds(0.0079), "7.90 ms"),
        (show.threshold(0.0095, "CIDEr-D"), "0.0095"),
        (show.threshold(0.63, "CIDEr-D"), "0.63"),
        (show.threshold(0.56, "accuracy"), "56.0 %"),
        (show.seconds(0.9999), "1,000 ms"),
        (show.seconds(42), "42.0 s"),
        (show.seconds(750), "12.5 min"),
        (show.seconds(11160), "3.10 h"),
        (show.quantity(3.5e15, "FLOP"), "3.50 PFLOP"),
        (show.quantity(12, "FLOP"), "12.0 FLOP"),
        (show.mebibytes(1536), "1.50 GiB"),
        (show.times(1, 0), "not measured"),
        (show.commit("0123456789abcdef0123-dirty"), "0123456789-dirty"),
    ],
)  # fmt: skip
def test_numbers_read_as_their_unit_asks(text: str, expected: str) -> None:
    assert text == expected


def test_retrieval_by_likelihood_stands_beside_the_embeddings_where_both_were_scored(results: Results) -> None:
    subject = "image to text, token by likelihood (PMI), R@1 of 100"
    assert subject not in [finding.subject for finding in key_findings(results)]
    test = {arm: results["arms"][arm]["test"]["test"] for arm in ("token", "vljepa")}
    metric = "retrieval_pmi/image_to_text_r1"
    test["vljepa"][metric] = test["token"][metric] | {"value": 0.5, "low": 0.4, "high": 0.6}
    results["paired"]["test"][metric] = results["paired"]["test"]["caption/slots"] | {"winner": "vljepa"}
    finding = find(results, subject)
    assert finding.verdict == "vljepa"
    assert "VL-JEPA 50.0 % [40.0, 60.0]" in finding.statement

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archlab.errors import UserError
from archlab.train.text.results import main, page, record, write_page

RESULTS = Path(__file__).resolve().parents[3] / "02-transformer-impl" / "results"


def finished(folder: Path, model: str, accuracy: float, source: str = "imdb") -> Path:
    """The folder of a run, weights included."""
    folder.mkdir(parents=True)
    floor = {"model": "majority", "parameters": None, "test accuracy": 0.5}
    metrics: dict[str, Any] = {
        "task": f"sentiment, {model}",
        "source": source,
        "note": f"Accuracy on {source}.",
        "seed": 0,
        "steps": 10,
        "seconds": 90.0,
        "commit": f"{'0123456789abcdef':0<40}-dirty",
        "table": [floor, {"model": model, "parameters": 1000, "test accuracy": accuracy}],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in ("config.yaml", "curve.png", "model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(b"x")
    return folder


def test_what_was_measured_is_kept_and_no_weights(tmp_path: Path) -> None:
    record(finished(tmp_path / "scratch", "A", 0.7), tmp_path / "results")
    kept = {path.name for path in (tmp_path / "results" / "scratch").iterdir()}
    assert kept == {"config.yaml", "metrics.json", "curve.png"}


def test_the_page_has_every_model_once_and_a_shared_floor_once(tmp_path: Path) -> None:
    runs = [finished(tmp_path / name, name.upper(), 0.7) for name in ("a", "b")]
    assert main([str(tmp_path / "results"), *map(str, runs)]) == 0
    text = (tmp_path / "results" / "README.md").read_text()
    assert text.count("| majority |") == 1
    assert "| A | 1,000 | 0.7 | a | 10 | 0 | 1.5 | `0123456789-dirty` |" in text
    assert "| B | 1,000 | 0.7 | b |" in text
    assert text.count("## Sentiment, imdb") == 1
    assert text.count("Accuracy on imdb.") == 1


def test_scores_on_different_data_are_in_different_tables(tmp_path: Path) -> None:
    record(finished(tmp_path / "one", "A", 0.7), tmp_path / "results")
    record(finished(tmp_path / "two", "A", 0.8, "sst2:/a/download"), tmp_path / "results")
    text = page(tmp_path / "results")
    first, second = text.index("## Sentiment, imdb"), text.index("## Sentiment, sst2\n")
    assert first < text.index("| A | 1,000 | 0.7 |") < second < text.index("| A | 1,000 | 0.8 |")


def test_a_page_that_was_edited_is_found_out(tmp_path: Path) -> None:
    main([str(tmp_path / "results"), str(finished(tmp_path / "a", "A", 0.7))])
    assert main([str(tmp_path / "results"), "--check"]) == 0
    path = tmp_path / "results" / "README.md"
    path.write_text(path.read_text().replace("0.7", "0.9"))
    assert main([str(tmp_path / "results"), "--check"]) == 1
    assert not write_page(tmp_path / "results")
    assert path.read_text() == page(tmp_path / "results")


def test_the_page_says_first_what_was_to_be_reached(tmp_path: Path) -> None:
    record(finished(tmp_path / "a", "A", 0.7), tmp_path / "results")
    (tmp_path / "results" / "goals.yaml").write_text("goals: [{run: a, score: test accuracy, above: majority}]")
    row = "| a | test accuracy | above that of majority | 1 | 0.7 | 0.7 | 0.7 | passed by 0.2 |"
    text = page(tmp_path / "results")
    assert text.index("## Goals") < text.index(row) < text.index("## Sentiment")


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"config\.yaml is missing"):
        record(tmp_path / "run", tmp_path / "results")


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    if not RESULTS.is_dir():
        pytest.skip("no results were recorded yet")
    assert write_page(RESULTS, check=True)

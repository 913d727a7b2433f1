from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archlab.bench.speed import Row, speed_markdown, write_speed

COMPARISONS = Path(__file__).resolve().parents[2] / "04-comparisons"


def ratio(value: float, low: float, high: float) -> dict[str, Any]:
    return {"ratio": {"value": value, "low": low, "high": high}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Files as the three benchmarks write them, no more in them than is read."""
    attention = {
        "sections": [
            {
                "causal": True,
                "pass": "forward",
                "shapes": [
                    {"tokens": 64, "contenders": {"archlab": ratio(1.5, 1.4, 1.6)}},
                    {"tokens": 256, "contenders": {"archlab": ratio(0.99, 0.98, 1.0)}},
                    {"tokens": 512, "contenders": {"archlab": ratio(1.01, 0.99, 1.02)}},
                ],
            }
        ]
    }
    measured = ratio(1.6, 1.4, 1.7) | {
        "share_of_limit": 0.95,
        "share_of_products": {"value": 0.88, "low": 0.85, "high": 0.91},
    }
    sizes = {
        size: {"batches": {"1": {"float32": {"archlab": measured, "transformers": {}}}}} for size in ("10M", "124M")
    }
    train = {
        "precision": "float32",
        "shapes": {"wide": {"contenders": {"archlab": {}, "torch.nn": ratio(1.2, 1.1, 1.3)}}},
    }
    for name, content in (("attention", attention), ("generate", {"shapes": sizes}), ("train", train)):
        path = tmp_path / f"bench-{name}" / "results.json"
        path.parent.mkdir()
        path.write_text(json.dumps(content | {"git": f"{'0123456789abcdef':0<40}-dirty", "threads": 2}))
    return tmp_path


def test_every_ratio_stands_beside_its_goal(results: Path) -> None:
    text = speed_markdown(results)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row[1:] for row in rows[2:]] == [
        ["at most 1.03", "1.01 [0.99, 1.02]", "reached"],  # the worst of the long ones; the short one has no goal
        ["at least 1.5", "1.60 [1.40, 1.70]", "undecided"],
        ["at least 1", "1.60 [1.40, 1.70]", "reached"],
        ["at least 0.9", "0.88 [0.85, 0.91]", "undecided"],
        ["at least 0.9", "0.95", "reached"],
        ["at most 1", "1.20 [1.10, 1.30]", "missed"],
    ]
    assert text.startswith("3 of 6 reached")
    assert "`bench-train/results.json`: commit `0123456789-dirty`, 2 threads" in text


@pytest.mark.parametrize(
    ("at_most", "low", "high", "verdict"),
    [
        (True, 0.8, 1.0, "reached"),
        (True, 0.9, 1.1, "undecided"),
        (True, 1.1, 1.2, "missed"),
        (False, 1.0, 1.2, "reached"),
        (False, 0.9, 1.1, "undecided"),
        (False, 0.8, 0.9, "missed"),
    ],
)
def test_the_whole_interval_decides(at_most: bool, low: float, high: float, verdict: str) -> None:
    assert Row("", 1.0, at_most, (low + high) / 2, low, high).verdict == verdict


def test_the_committed_document_is_that_of_the_committed_results() -> None:
    assert write_speed(COMPARISONS / "README.md", COMPARISONS / "results", check=True)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archlab.compare import formatting as show
from archlab.compare.readme import BLOCK, findings_markdown, main, write_readme_block
from archlab.documents import markers
from archlab.errors import UserError

Results = dict[str, Any]
START, END = markers(BLOCK)


@pytest.fixture
def files(tmp_path: Path, results: Results) -> tuple[Path, Path]:
    readme, path = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(f"# archlab\n\n{START}\nold\n{END}\n\nMIT licence.\n")
    path.write_text(json.dumps(results))
    return readme, path


def test_the_block_is_replaced_between_its_markers_and_then_up_to_date(
    files: tuple[Path, Path], results: Results
) -> None:
    assert write_readme_block(*files) is False
    text = files[0].read_text()
    assert text == f"# archlab\n\n{START}\n{findings_markdown(results)}\n{END}\n\nMIT licence.\n"
    assert write_readme_block(*files) is True


def test_a_check_finds_other_results_and_writes_nothing(files: tuple[Path, Path], results: Results) -> None:
    write_readme_block(*files)
    assert main([*map(str, files), "--check"]) == 0
    assert sorted(files[0].parent.iterdir()) == sorted(files)
    results["arms"]["token"]["test"]["test"]["vqa/accuracy"]["value"] += 0.01
    files[1].write_text(json.dumps(results))
    before = files[0].read_text()
    assert main([*map(str, files), "--check"]) == 1
    assert files[0].read_text() == before
    assert main([*map(str, files)]) == 0
    assert main([*map(str, files), "--check"]) == 0


def test_the_picture_is_drawn_beside_the_results(files: tuple[Path, Path]) -> None:
    main([*map(str, files)])
    assert {path.name for path in files[1].parent.iterdir()} == {"README.md", "results.json", "hero.svg", "hero.png"}


@pytest.mark.parametrize("text", ["no markers", START, f"{END} {START}"])
def test_a_readme_without_both_markers_in_order_is_refused(files: tuple[Path, Path], text: str) -> None:
    files[0].write_text(text)
    with pytest.raises(UserError, match="needs the lines"):
        write_readme_block(*files)
    with pytest.raises(SystemExit) as exit_code:
        main([*map(str, files)])
    assert exit_code.value.code == 2
    assert files[0].read_text() == text


def test_the_table_holds_every_headline_score_with_its_interval(results: Results) -> None:
    block = findings_markdown(results)
    for arm in ("token", "vljepa"):
        for metric in ("vqa/accuracy", "caption/cider_d", "retrieval/text_to_image_r1"):
            assert f"| {show.score(results['arms'][arm]['test']['test'][metric])} |" in block
    for said in (results["command"], "3 seeds", "2026-01-02", results["provenance"]["git"][:10]):
        assert said in block


@pytest.mark.parametrize("swept", [True, False])
def test_the_time_of_training_says_that_a_sweep_is_not_in_it(results: Results, swept: bool) -> None:
    results["training_seconds"] = 7200.0
    for arm in results["arms"].values():
        arm["sweep"] = [{"learning_rate": 1e-3, "score": 0.5}] if swept else []
    said = findings_markdown(results).rpartition("Its runs trained for ")[2]
    assert said.startswith("2.00 h in all, one after another")
    assert ("the trials of the learning-rate sweep not counted" in said) == swept


def test_one_seed_is_said_exactly_and_no_arm_wins(make: Callable[..., Results]) -> None:
    block = findings_markdown(make(1))
    assert "**one seed: no winner**" in block.splitlines()
    assert "wins" not in block
    assert "tokens win" not in block
    assert "over test images only" in block


def test_text_of_the_data_cannot_break_the_markdown(results: Results) -> None:
    results["untested"]["text-only tasks"] = "a | b\n<img src=x>[click](x) `"
    results["command"] = "archlab `compare`\n| x"
    block = findings_markdown(results)
    assert r"a \| b &lt;img src=x&gt;\[click\](x) \`" in block
    assert "`archlab 'compare' | x`" in block

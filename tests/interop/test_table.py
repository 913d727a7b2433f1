"""The table of models says what the results and the registry say, and nothing that they do not."""

import dataclasses
import json

import pytest

from archlab.documents import markers
from archlab.errors import UserError
from archlab.interop.table import BLOCK, main, models_markdown, write_models
from archlab.models.registry import FAMILIES, find

T5 = find("t5")
ONLY = {"t5": T5}


def check(name, error, passed=True):
    return {"name": name, "attention": "fused", "error": error, "passed": passed, "where": ""}


def one(family, variant, *checks, noticed=(True, True)):
    controls = [{"fault": "", "noticed": found, "first": "", "cause": ""} for found in noticed]
    return {"family": family, "variant": variant, "checks": list(checks), "controls": controls}


def results():
    return {
        "versions": {"archlab": "0", "torch": "2.9", "transformers": "5.1"},
        "git": "0123456789abcdef" * 2 + "01234567-dirty",
        "families": [
            one("t5", "", check("output", 2e-6), check("gradients", 0.0), noticed=(True, False, True)),
            one("t5", "version 1.0", check("output", 3e-6), check("output", 1e-6, False), check("gradients", 4e-5)),
            one("bert", "", check("output", 1.0, False), check("gradients", 1.0, False)),
        ],
    }


def row(block):
    return [cell.strip() for cell in block.splitlines()[2].strip("|").split("|")]


def test_a_row_sums_up_a_family_and_its_variants():
    family, name, summary, sizes, variants, equal, output, gradients, noticed = row(models_markdown(results(), ONLY))
    assert family == "`t5`"
    assert name == "T5 ([arXiv 1910.10683](https://arxiv.org/abs/1910.10683))"
    assert summary.startswith("an encoder-decoder with relative positions")
    assert "t5-small (60.5 M)" in sizes
    assert "t5-3b (2.85 B)" in sizes
    assert variants == "version 1.0"
    assert (equal, output, gradients, noticed) == ("4/5", "3.0e-06", "4.0e-05", "4/5")


def test_the_block_says_where_the_figures_come_from():
    last = models_markdown(results(), ONLY).splitlines()[-1]
    assert "transformers 5.1, torch 2.9, commit `0123456789-dirty`" in last


def test_every_registered_family_has_a_name_a_paper_and_a_description():
    everything = results() | {
        "families": [
            one(family.name, variant, check("output", 0.0), check("gradients", 0.0))
            for family in FAMILIES.values()
            for variant in ("", *family.variants)
        ]
    }
    rows = models_markdown(everything).splitlines()[2 : 2 + len(FAMILIES)]
    assert len({line.split("|")[2] for line in rows}) == len(FAMILIES)
    assert "gemma-3-1b (1.00 B)" in rows[list(FAMILIES).index("gemma")]  # 999,885,952
    assert all(line.count(" | ") == 8 for line in rows)
    assert sum("](https://arxiv.org/abs/" in line for line in rows) == len(FAMILIES) - 1  # GPT-2 is not on arXiv


def test_a_family_or_a_variant_without_results_is_refused():
    more = dataclasses.replace(T5, variants={**T5.variants, "other": T5.variants["version 1.0"]})
    with pytest.raises(UserError, match="hold nothing about t5 other; run archlab parity --out FILE again"):
        models_markdown(results(), {"t5": more})
    with pytest.raises(UserError, match="hold nothing about gpt2; run"):
        models_markdown(results(), {"gpt2": find("gpt2")})


@pytest.mark.parametrize("text", [None, "{", "[1]", "{}"])
def test_a_file_of_something_else_is_refused(text, tmp_path):
    document, path = tmp_path / "README.md", tmp_path / "parity.json"
    document.write_text("\n".join(markers(BLOCK)))
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="archlab parity --out"):
        write_models(document, path)


def test_the_command_writes_and_checks(tmp_path, monkeypatch):
    monkeypatch.setattr("archlab.interop.table.models_markdown", lambda read: read["git"])
    document, path = tmp_path / "README.md", tmp_path / "parity.json"
    document.write_text("\n".join(["before", *markers(BLOCK), "after"]))
    path.write_text(json.dumps(results()))
    arguments = [str(document), str(path)]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    assert document.read_text().splitlines() == [
        "before",
        markers(BLOCK)[0],
        results()["git"],
        markers(BLOCK)[1],
        "after",
    ]

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from archlab.compare.selective.protocol import load_selective
from archlab.errors import UserError

COMMITTED = sorted((Path(__file__).parents[3] / "04-comparisons" / "protocols").glob("selective-*.yaml"))
PLAIN = {"question": "q", "hypothesis": "h", "decision": "d"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_protocol_asks_what_the_experiment_promises(path: Path) -> None:
    protocol = load_selective(path)
    asked = {(one.policy, one.over, one.claim) for one in protocol.expect}
    assert {("trigger-settled", "uniform-pooled", "share"), ("trigger-settled", "ward-features", "higher")} <= asked
    assert {("ward", "uniform-pooled", "higher"), ("ward-exact", "uniform", "higher")} <= asked
    assert {"interval", "contrast"} <= protocol.sweep.keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"expect": [{"policy": "triger", "over": "uniform"}]}, "did you mean 'trigger'?"),
        ({"expect": [{"policy": "trigger", "over": "unifrm"}]}, "did you mean 'uniform'?"),
        ({"expect": [{"policy": "trigger", "over": "uniform", "at": "interval=7"}]}, "expect.at: 'interval=7'"),
        ({"expect": {"policy": "trigger"}}, "expect: must be a list"),
        ({"expect": [{"policy": "ward", "over": "uniform"}]}, "'ward' speaks of the mean of a segment's frames"),
        ({"expect": [{"policy": "trigger", "over": "random"}]}, "compare 'trigger' with one of uniform, ward-exact"),
        ({"sweep": {"intervall": [3.0]}}, "did you mean 'interval'?"),
        ({"sweep": {"contrast": ["extreme"]}}, "must be one of low, medium, high"),
        ({"budgets": [0.5, 2.0]}, "must hold 1.0"),
        ({"hypothesis": ""}, "hypothesis=''"),
        ({"streams": {"frame": 3}}, "did you mean 'streams.frames'?"),
    ],
)
def test_a_mistake_in_a_protocol_is_named(change: dict[str, object], named: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(PLAIN | change))
    with pytest.raises(UserError, match=r"protocol .*p\.yaml: ") as caught:
        load_selective(path)
    assert named in str(caught.value)

from __future__ import annotations

from pathlib import Path

import pytest

from archlab.errors import UserError
from archlab.index.embedded import EmbeddedIndex
from archlab.index.exact import ExactIndex
from archlab.index.places import Spread, open_index
from archlab.index.server import ServerIndex


def test_the_name_of_a_place_says_what_keeps_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_index(":memory:"), ExactIndex)
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_index("~/index") as index:
        assert isinstance(index, EmbeddedIndex)
        assert index.folder == tmp_path / "index"
    spread = Spread(shards=3, replicas=2, consistency=1)
    with open_index("https://example.org:6333", spread=spread) as index:  # connects with the first call only
        assert isinstance(index, ServerIndex)
        assert (index.settings.shards, index.settings.replicas, index.settings.write_consistency) == (3, 2, 1)


def test_a_search_makes_no_index_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: does not exist; make it with 'archlab index FOLDER --out"):
        open_index(str(tmp_path / "nothing"), create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"shards": 0}, {"replicas": 0}])
def test_a_collection_has_at_least_one_part_and_one_copy(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="=0: must be at least 1"):
        Spread(**options)


def test_no_more_copies_are_waited_for_than_there_are() -> None:
    with pytest.raises(UserError, match="consistency=3: must be at most replicas=2"):
        Spread(replicas=2, consistency=3)

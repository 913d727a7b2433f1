from __future__ import annotations

import numpy as np
import pytest

from archlab.serve.query_cache import QueryCache


def vector(number: int) -> np.ndarray:
    return np.full(2, number, np.float32)


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache = QueryCache(2)
    cache.keep({"a": vector(1), "b": vector(2)})
    assert cache.look_up(["a"])["a"].tolist() == [1, 1]
    cache.keep({"c": vector(3)})
    assert set(cache.look_up(["a", "b", "c"])) == {"a", "c"}
    assert len(cache) == 2


def test_every_text_asked_for_is_a_hit_or_a_miss() -> None:
    cache = QueryCache(5)
    cache.keep({"a": vector(1)})
    cache.look_up(["a", "b", "a", "b", "c"])
    assert (cache.hits, cache.misses) == (2, 3)


def test_a_cache_of_size_zero_keeps_nothing() -> None:
    cache = QueryCache(0)
    cache.keep({"a": vector(1)})
    assert cache.look_up(["a"]) == {}
    assert cache.misses == 1


def test_nobody_can_change_what_is_kept() -> None:
    cache = QueryCache(1)
    mine = vector(1)
    cache.keep({"a": mine})
    with pytest.raises(ValueError, match="read-only"):
        mine += 1

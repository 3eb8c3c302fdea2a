"""Rows come and go, and each keeps its own keys and values, in room of few sizes."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

from inference import rows
from inference.rows import PaddedKVCache

STEP = PaddedKVCache.step


def of(*lengths: int, first: int = 0) -> PaddedKVCache:
    """A batch whose row r holds 1000 (r + 1), 1000 (r + 1) + 1, ..., and the same below zero."""
    caches = []
    for number, length in enumerate(lengths, first):
        cache = KVCache()
        places = mx.broadcast_to(mx.arange(length)[None, None, :, None], (1, 2, length, 4))
        cache.update_and_fetch(1000.0 * (number + 1) + places, -1000.0 * (number + 1) - places)
        caches.append(cache)
    return PaddedKVCache.merge(caches)


def held(cache: PaddedKVCache) -> list[tuple[float, int]]:
    """The rows of a batch, by what their numbers begin with and how many there are."""
    found = []
    for row, padding in enumerate(cache.padding):
        keys = np.array(cache.keys[row, :, padding : cache._idx])
        values = np.array(cache.values[row, :, padding : cache._idx])
        length = cache._idx - padding
        assert (keys == keys[0, 0, 0] + np.arange(length)[None, :, None]).all()
        assert (values == -keys).all()
        found.append((float(keys[0, 0, 0]), length))
    return found


@pytest.fixture(params=[False, True])
def is_ragged(request: pytest.FixtureRequest) -> Iterator[bool]:
    PaddedKVCache.is_ragged = request.param
    yield request.param
    PaddedKVCache.is_ragged = False


lengths = st.lists(st.integers(1, 3 * STEP), min_size=1, max_size=4)


@given(mine=lengths, its=lengths)
def test_who_joins_is_beside_those_who_are_there(mine: list[int], its: list[int]) -> None:
    cache = of(*mine)
    cache.extend(of(*its, first=len(mine)))
    assert held(cache) == [(1000.0 * (n + 1), length) for n, length in enumerate([*mine, *its])]
    room = cache.keys.shape[2]
    assert room % STEP == 0
    assert cache._idx < room <= cache._idx + STEP
    before = cache.keys
    rows.reserve([cache])
    assert cache.keys is before


@given(data=st.data(), all_of=lengths)
def test_who_stays_keeps_what_is_his(data: st.DataObject, all_of: list[int]) -> None:
    stay = data.draw(st.lists(st.sampled_from(range(len(all_of))), min_size=1, unique=True))
    PaddedKVCache.is_ragged = data.draw(st.booleans())
    try:
        cache = of(*all_of)
        cache.filter(stay)
        assert held(cache) == [(1000.0 * (n + 1), all_of[n]) for n in stay]
        assert min(cache.padding) < (STEP if PaddedKVCache.is_ragged else 1)
        longest = max(all_of[n] for n in stay)
        assert -(-(cache._idx + 1) // STEP) == -(-(longest + 1) // STEP)
    finally:
        PaddedKVCache.is_ragged = False


def test_room_goes_in_whole_steps_where_padding_costs_nothing(is_ragged: bool) -> None:
    cache = of(10, STEP + 20)
    cache.extend(of(15, first=2))
    assert cache.keys.shape[2] == 2 * STEP
    cache.filter([0, 2])
    assert cache.keys.shape[2] == (STEP if is_ragged else 2 * STEP - (STEP + 5))
    assert held(cache) == [(1000.0, 10), (3000.0, 15)]

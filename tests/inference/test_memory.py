"""What caches will come to take is known before they take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from inference import memory
from inference.memory import Budget, Growth, growth_of
from parts import Unavailable


def filled(cache: Any, num_tokens: int) -> Any:
    keys, values = mx.zeros((1, 2, num_tokens, 8)), mx.zeros((1, 2, num_tokens, 4))
    cache.update_and_fetch(keys, values)
    return cache


@pytest.mark.parametrize("num_tokens", [3, 256, 1000])
def test_a_plain_cache_grows_with_every_token(num_tokens: int) -> None:
    [growth] = growth_of(filled(KVCache(), 3))
    assert growth == Growth(per_token=2 * (8 + 4) * 4)
    budget = Budget(limit=10**9, layers=(growth,))
    assert budget.cost(num_tokens) == filled(KVCache(), num_tokens).nbytes


def test_a_sliding_window_grows_no_further_than_its_size() -> None:
    [growth] = growth_of(filled(RotatingKVCache(max_size=64), 3))
    assert growth.num_bytes(10**6) == growth.num_bytes(64) == 64 * 2 * (8 + 4) * 4


def test_a_state_does_not_grow_and_a_list_of_caches_is_all_of_them() -> None:
    state = ArraysCache(2)
    state[0], state[1] = mx.zeros((1, 10)), mx.zeros((1, 6))
    both = growth_of(CacheList(state, filled(KVCache(), 5)))
    assert both == [Growth(at_once=64), Growth(per_token=96)]


BUDGETS = st.builds(
    lambda limit, fixed, growths: Budget(limit, fixed, tuple(growths)),
    st.integers(1, 10**7),
    st.integers(0, 10**6),
    st.lists(st.builds(Growth, st.integers(0, 999), st.integers(1, 99)), min_size=1, max_size=4),
)


@given(BUDGETS, st.integers(2, 40_000))
def test_the_most_tokens_fit_and_one_more_step_does_not(budget: Budget, window: int) -> None:
    most = budget.max_tokens(window)
    assert 0 <= most <= window
    assert not most or budget.fits([most])
    assert most == window or not budget.fits([most + memory.STEP])


@given(BUDGETS, st.lists(st.integers(1, 5000), min_size=1, max_size=9))
def test_rows_are_as_wide_as_the_widest(budget: Budget, lengths: list[int]) -> None:
    cost = budget.cost(max(lengths), len(lengths))
    assert cost == sum(budget.cost(max(lengths)) for _ in lengths)
    assert budget.fits(lengths) == (cost <= budget.for_caches)


def test_where_nothing_is_known_everything_fits() -> None:
    assert Budget().fits([10**9] * 100)
    assert Budget().max_tokens(4096) == 4096


def test_a_model_too_large_is_refused_with_what_would_fit() -> None:
    device = {"free_memory": 10 * 10**9}
    memory.check_weights(9 * 10**9, device)
    with pytest.raises(Unavailable) as caught:
        memory.check_weights(16 * 10**9, device)
    for said in ("16.0 GB", "10.0 GB", "8.5 GB", "--force"):
        assert said in caught.value.message


def test_what_a_device_recommends_comes_before_what_it_has() -> None:
    device = {"max_recommended_working_set_size": 11, "total_memory": 16}
    assert memory.recommended(device) == 11
    assert memory.recommended({"total_memory": 16}) == 16
    assert memory.recommended({}) > 2**28
    assert 0 < memory.available({}) <= memory.recommended({})


def test_a_container_has_what_it_may_have_and_has_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert memory.available({}) > 2**28  # no control groups here: the machine's own
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("40000000\n")
    (tmp_path / "memory.stat").write_text("anon 9\ninactive_file 10000000\n")
    assert memory.available({}) == 70_000_000
    assert memory.recommended({}) == 100_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available({}) > 2**28


def test_a_model_beside_which_nothing_fits_is_refused_with_what_would_help() -> None:
    layers = (Growth(per_token=1_000_000),)
    memory.check_room(Budget(limit=10**10, fixed=8 * 10**9, layers=layers), 4096)
    memory.check_room(Budget(limit=10**10, fixed=95 * 10**8, layers=layers), 256)
    with pytest.raises(Unavailable) as caught:
        memory.check_room(Budget(limit=10**10, fixed=95 * 10**8, layers=layers), 4096)
    for said in ("1,024 tokens", "10.5 GB", "10.0 GB", "--memory-limit", "--force"):
        assert said in caught.value.message


@pytest.mark.parametrize(
    ("error", "is_shortage"),
    [
        (MemoryError(), True),
        (RuntimeError("[malloc] Unable to allocate 10 bytes"), True),
        (RuntimeError("cudaMallocAsync failed: out of memory"), True),
        (RuntimeError("the device has gone away"), False),
    ],
)
def test_a_shortage_is_known_by_what_it_says(error: Exception, is_shortage: bool) -> None:
    assert memory.is_shortage(error) == is_shortage

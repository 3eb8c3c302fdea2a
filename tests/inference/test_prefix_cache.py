"""A prefix is found by its tokens and is the caller's own; the least recently used is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, ChunkedKVCache, KVCache, RotatingKVCache

from inference.prefix_cache import PrefixCache

LONG = list(range(100, 140))


def write(layer: Any, tokens: Sequence[int]) -> None:
    """Put each token's number into the layer, as its key and its value."""
    if isinstance(layer, ArraysCache):
        layer[0] = mx.array([[float(sum(tokens))]])
        return
    if tokens:
        numbers = mx.array(tokens, dtype=mx.float32)[None, None, :, None]
        layer.update_and_fetch(numbers, numbers)


def filled(tokens: Sequence[int], *, is_hybrid: bool = False) -> list[Any]:
    layers = [KVCache(), ArraysCache(1)] if is_hybrid else [KVCache()]
    for layer in layers:
        write(layer, tokens)
    return layers


def held_by(cache: list[Any]) -> list[int]:
    layer = cache[0]
    return [int(n) for n in layer.keys[0, 0, : layer.offset, 0].tolist()]


def test_a_prompt_that_goes_on_is_computed_from_where_the_last_one_ended() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    found, length = cache.match([*LONG, 1, 2])
    assert found is not None
    assert (length, held_by(found)) == (40, LONG)


def test_a_prompt_that_branches_off_shares_what_came_before() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    found, length = cache.match([*LONG[:25], 1, 2])
    assert found is not None
    assert (length, held_by(found)) == (25, LONG[:25])


def test_the_last_token_is_always_left_to_compute() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    assert cache.match(LONG)[1] == 39


def test_a_cache_that_cannot_be_trimmed_is_used_whole_or_not_at_all() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG, is_hybrid=True))
    assert cache.match([*LONG, 1])[1] == 40
    assert cache.match(LONG) == (None, 0)
    assert cache.match([*LONG[:30], 1]) == (None, 0)


def test_of_caches_that_cannot_be_trimmed_every_length_is_kept() -> None:
    cache = PrefixCache(10**9)
    for length in (20, 30, 40):
        cache.insert(LONG[:length], filled(LONG[:length], is_hybrid=True))
    assert [cache.match([*LONG[:n], 1])[1] for n in (20, 25, 30, 40)] == [20, 20, 30, 40]


def test_a_rotating_cache_that_has_turned_over_is_used_whole_or_not_at_all() -> None:
    cache = PrefixCache(10**9)
    layer = RotatingKVCache(16)
    write(layer, LONG)
    cache.insert(LONG, [layer])
    assert cache.match([*LONG, 1])[1] == 40
    assert cache.match([*LONG[:30], 1]) == (None, 0)


def test_a_chunked_cache_that_has_lost_its_front_is_used_whole_or_not_at_all() -> None:
    cache = PrefixCache(10**9)
    layer = ChunkedKVCache(8)
    for token in LONG:
        layer.maybe_trim_front()
        write(layer, [token])
    cache.insert(LONG, [layer])
    assert cache.match([*LONG, 1])[1] == 40
    assert cache.match([*LONG[:20], 1]) == (None, 0)


def test_what_is_given_is_the_callers_own() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    mine, _ = cache.match([*LONG, 1])
    assert mine is not None
    write(mine[0], [7, 8, 9])
    again, _ = cache.match([*LONG, 1])
    assert again is not None
    assert held_by(again) == LONG


def test_short_prompts_are_not_kept() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG[:15], filled(LONG[:15]))
    assert len(cache) == 0


def test_a_longer_entry_stands_for_its_prefixes() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG[:20], filled(LONG[:20]))
    cache.insert(LONG, filled(LONG))
    cache.insert(LONG[:30], filled(LONG[:30]))
    assert len(cache) == 1
    assert cache.match([*LONG, 1])[1] == 40


def test_the_least_recently_used_is_forgotten_first() -> None:
    size = filled(LONG)[0].nbytes
    cache = PrefixCache(2 * size)
    first, second, third = ([n, *LONG] for n in (1, 2, 3))
    cache.insert(first, filled(first))
    cache.insert(second, filled(second))
    assert cache.match([*first, 5])[1] == 41
    cache.insert(third, filled(third))
    assert cache.num_bytes == 2 * size
    assert [cache.match([*p, 5])[1] for p in (first, second, third)] == [41, 0, 41]


def test_what_is_larger_than_the_whole_cache_pushes_nothing_out() -> None:
    small, large = [1, *LONG], [2, *LONG] * 10
    cache = PrefixCache(filled(small)[0].nbytes)
    cache.insert(small, filled(small))
    cache.insert(large, filled(large))
    assert cache.match([*small, 5])[1] == 41


@pytest.mark.parametrize("tokens", [[], [1], LONG])
def test_an_empty_cache_knows_nothing(tokens: list[int]) -> None:
    assert PrefixCache(10**9).match(tokens) == (None, 0)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.booleans(), st.lists(st.integers(0, 1), min_size=0, max_size=10), st.integers(0, 20)
        ),
        max_size=14,
    ),
    st.booleans(),
    st.integers(1, 5),
)
def test_a_match_holds_exactly_a_prefix_of_what_was_asked_for(
    steps: list[tuple[bool, list[int], int]], is_hybrid: bool, num_entries: int
) -> None:
    size = sum(layer.nbytes for layer in filled(LONG, is_hybrid=is_hybrid))
    cache = PrefixCache(num_entries * size)
    for is_insert, branch, length in steps:
        tokens = [*LONG[: 10 + length], *branch]
        if is_insert:
            cache.insert(tokens, filled(tokens, is_hybrid=is_hybrid))
        else:
            found, num_cached = cache.match(tokens)
            assert num_cached < max(len(tokens), 1)
            assert (found is None) == (num_cached == 0)
            if found is not None:
                assert held_by(found) == tokens[:num_cached]
                assert not is_hybrid or found[1][0].item() == sum(tokens[:num_cached])
        assert 0 <= cache.num_bytes <= cache.max_bytes
        assert len(cache) <= num_entries

"""The chunks that a prompt comes in: few shapes where each is planned for, and not too long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

from inference.cuda_attention import MOST_SCORES, _are_few
from inference.prefix_cache import PrefixCache
from inference.runner import SHORT, Runner
from inference.sequence import Sequence
from inference.shapes import AS_THEY_ARE, Shapes
from parts import SamplingParams
from tests.inference.test_batch import Guest, make_sequence


def test_chunks_divide_what_comes_before_them() -> None:
    shapes = Shapes(is_planned=True, few=256, grid=512)
    chunks = [
        shapes.chunk(start, number, 10_000)
        for start, number in ((0, 9000), (4096, 4095), (6144, 4095), (2048 + 512, 4096))
    ]
    assert chunks == [4096, 2048, 2048, 512]
    # What comes after a prefix of any length, or in less time than a chunk takes, is few.
    assert [shapes.chunk(start, 4096, 10_000) for start in (100, 512 + 400)] == [256, 112]
    for start in (1024, 1000, 700):
        found = [shapes.chunk(start, number, 10_000) for number in (511, 256, 100, 1)]
        assert found == [min(size, -start % 512 or 512) for size in (256, 256, 64, 1)]
    assert Shapes(is_planned=True).chunk(100, 1, 10_000) == 156


def test_the_last_chunk_is_filled_up_unless_much_would_be_wasted() -> None:
    shapes = Shapes(is_planned=True, few=256, grid=512)
    assert [shapes.chunk(4096, 4096, left) for left in (4000, 3072, 3000, 600)] == [
        4096,
        4096,
        2048,
        512,
    ]
    ends = [shapes.end(4096, number) for number in (2, 256, 257, 600, 3072, 4096)]
    assert ends == [2, 256, 512, 1024, 4096, 4096]
    short = replace(shapes, most_scores=MOST_SCORES)
    assert [short.end(12_288, number) for number in (128, 129)] == [128, 512]


@given(
    lengths=st.integers(1, 20_000),
    numbers=st.lists(st.integers(32, 4096), min_size=1, max_size=5),
)
def test_every_chunk_of_many_tokens_is_one_of_those_planned(
    lengths: int, numbers: list[int]
) -> None:
    shapes = Shapes(is_planned=True, few=256, grid=512, most_scores=MOST_SCORES)
    planned = set(shapes.planned(lengths))
    start, step = 0, 0
    while start < lengths:
        number = numbers[step % len(numbers)]
        chunk = min(shapes.chunk(start, number, lengths - start), lengths - start)
        computed = shapes.end(start, chunk) if start + chunk == lengths else chunk
        # Few that begin a prompt come in few shapes.
        is_few = _are_few(computed, start + computed) or (start == 0 and computed <= shapes.few)
        assert is_few or (computed, start + computed) in planned
        assert computed <= 2 * number
        start, step = start + chunk, step + 1


@pytest.fixture(scope="module")
def runner(float32_model: Path) -> Runner:
    model, tokenizer = mlx_lm.load(str(float32_model))[:2]
    return Runner(model, tokenizer, vocab_size=9, prefix_cache=PrefixCache(0))


class Found(PrefixCache):
    """Has the first tokens of every prompt."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.number = number

    def match(self, tokens: Any) -> tuple[list[KVCache], int]:
        layer = KVCache()
        layer.offset = self.number
        return [layer], self.number


def chunks(
    runner: Runner,
    shapes: Shapes,
    length: int,
    allowed: list[int],
    *,
    is_beside: bool = False,
    num_found: int = 0,
) -> list[tuple[int, int, int]]:
    """How many tokens of so many may come next, do come next, and stand before them, in turn."""
    runner.shapes = shapes
    runner._batches = [object()] if is_beside else []  # type: ignore[list-item]
    sequence: Sequence = make_sequence(runner.tokenizer, Guest((1,) * length, SamplingParams()))
    if num_found:
        runner.prefix_cache = Found(num_found)
        runner._begin(sequence)
    found: list[tuple[int, int, int]] = []
    while (start := sequence.num_computed) < length:
        most = allowed[len(found) % len(allowed)]
        sequence.num_computed = runner._end_of_chunk(sequence, most)
        assert sequence.num_computed > start
        found.append((most, sequence.num_computed - start, start))
    return found


SIZES = st.lists(st.integers(32, 4096), min_size=1, max_size=3)


@given(
    length=st.integers(1, 16_000),
    num_found=st.sampled_from([0, 0, 100, 700, 8_392, 12_300]),
    allowed=SIZES,
    is_beside=st.booleans(),
)
def test_all_but_the_end_of_a_prompt_comes_in_planned_shapes(
    runner: Runner, length: int, num_found: int, allowed: list[int], is_beside: bool
) -> None:
    shapes = Shapes(is_planned=True, few=256, grid=512, most_scores=MOST_SCORES)
    planned = set(shapes.planned(16_384))
    *found, (_, last, before) = chunks(
        runner,
        shapes,
        length,
        allowed,
        is_beside=is_beside,
        num_found=min(num_found, length - 1),
    )
    for _, number, start in found:
        size = shapes.end(start, number)
        is_few = _are_few(size, start + size) or (start == 0 and size <= shapes.few)
        assert is_few or (size, start + size) in planned
    assert last <= SHORT if not before else _are_few(last, before + last) or last == 1


@given(
    length=st.integers(1, 16_000),
    allowed=st.integers(32, 4096),
    shapes=st.sampled_from(
        (AS_THEY_ARE, Shapes(is_planned=True, few=256, grid=512, most_scores=MOST_SCORES))
    ),
)
def test_the_end_of_a_prompt_waits_for_no_long_chunk_beside_others(
    runner: Runner, length: int, allowed: int, shapes: Shapes
) -> None:
    found = [n for _, n, _ in chunks(runner, shapes, length, [allowed], is_beside=True)]
    alone = [n for _, n, _ in chunks(runner, shapes, length, [allowed], is_beside=False)]
    if len(found) > 1:
        assert found[-2] <= max(allowed // 2, shapes.least)
    if shapes.least <= allowed:
        assert all(number >= shapes.least for number in found[:-2])
    assert len(found) <= len(alone) + 2
    # Only the last ones differ.
    num_same = max(len(alone) - 3, 0)
    assert found[:num_same] == alone[:num_same]


@pytest.mark.parametrize("num_found", [8_392, 20_580, 41_060, 102_500])
def test_a_turn_behind_a_long_one_comes_in_one_chunk_and_its_end(
    runner: Runner, num_found: int
) -> None:
    shapes = Shapes(is_planned=True, few=256, grid=512, most_scores=MOST_SCORES)
    found = chunks(runner, shapes, num_found + 700, [4_096], num_found=num_found)
    assert [number for _, number, _ in found] == [num_found % 512 + 699, 1]


def test_where_a_context_is_too_long_for_few_no_small_chunks_come(runner: Runner) -> None:
    shapes = Shapes(is_planned=True, few=256, grid=512, most_scores=MOST_SCORES)
    found = chunks(runner, shapes, 102_400 + 2_000, [300], num_found=102_400 + 300)
    assert [number for _, number, _ in found] == [212, 512, 512, 463, 1]

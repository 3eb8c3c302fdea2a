"""Attention in our ways is what MLX's own gives; on a CPU, with a mask in the kernel's place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import cuda_attention, self_test
from inference.cuda_attention import CudaAttention, Ragged
from inference.loader import LoadOptions, load
from inference.prefix_cache import PrefixCache
from inference.rows import PaddedKVCache
from inference.runner import Runner
from inference.shapes import Shapes
from parts import SamplingParams
from tests.inference.test_batch import Guest, answers, solo

ON_CUDA = pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA here")


class MaskedAttention(CudaAttention):
    """What the kernel computes, in MLX's own operations; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.num_ragged = self.num_few = 0

    def ragged(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        ragged: Ragged,
        new: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        self.num_ragged += 1
        if new is not None:
            put(keys, new[0], ragged)
            put(values, new[1], ragged)
        places = mx.arange(keys.shape[2])
        mask = (ragged.padding[:, None, None, None] <= places) & (places < ragged.end)
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)

    def few(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        self.num_few += 1
        return super().few(queries, keys, values, scale)


def put(array: mx.array, last: mx.array, ragged: Ragged) -> None:
    """Write the last position in place, behind MLX's back, as the kernel does."""
    mx.eval(array, last, ragged.end)
    np.array(array, copy=False)[:, :, ragged.end.item() - 1] = np.array(last)[:, :, 0]


@contextlib.contextmanager
def installed(model: Any, attention: CudaAttention) -> Iterator[None]:
    undo = cuda_attention.install(model, attention)
    PaddedKVCache.is_ragged = True
    try:
        yield
    finally:
        PaddedKVCache.is_ragged = False
        undo()


@pytest.fixture(scope="module")
def loaded(float32_model: Path) -> Any:
    return load(LoadOptions(folder=float32_model, name="demo")).runner


def test_rows_of_different_lengths_are_answered_as_each_alone(loaded: Any) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    words = tokenizer.encode("Hello! My name is Ada and I live in a green house.")
    guests = [
        Guest(tuple(words[:number]), SamplingParams(temperature=0, max_tokens=8), comes=comes)
        for number, comes in ((3, 0), (11, 1), (7, 4))
    ]
    alone = [solo(model, tokenizer, guest) for guest in guests]
    attention = MaskedAttention()
    runner = Runner(model, tokenizer, vocab_size=loaded.vocab_size, prefix_cache=PrefixCache(0))
    with installed(model, attention):
        assert answers(runner, tokenizer, guests) == alone
    assert attention.num_ragged
    assert [solo(model, tokenizer, guest) for guest in guests] == alone


@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    shared=st.integers(0, 60),
    chunk=st.sampled_from([4, 8, 20, 64]),
    few=st.sampled_from([0, 5, 16]),
)
def test_prompts_computed_on_a_grid_are_answered_as_without_one(
    loaded: Any, lengths: list[int], shared: int, chunk: int, few: int
) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    beginning = [5 + i % 50 for i in range(shared)]
    guests = [
        Guest(
            (*beginning, *(60 + (7 * i + k) % 50 for i in range(length))),
            SamplingParams(temperature=0, max_tokens=4),
            comes=3 * k,
        )
        for k, length in enumerate(lengths)
    ]
    alone = [solo(model, tokenizer, guest) for guest in guests]
    runner = Runner(
        model,
        tokenizer,
        vocab_size=loaded.vocab_size,
        prefix_cache=PrefixCache(2**28),
        shapes=Shapes(is_planned=True, few=few, grid=8),
    )
    runner.is_short = lambda sequence: False  # type: ignore[method-assign]
    with installed(model, MaskedAttention()):
        assert answers(runner, tokenizer, guests, chunk=chunk) == alone


def test_only_what_cudnn_takes_is_planned_for() -> None:
    def heads(width: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
        return mx.zeros((1, 2, 4, width), dtype)

    assert CudaAttention().is_planned(heads(128), heads(64))
    assert CudaAttention().is_planned(heads(128, mx.float16), heads(128))
    assert not CudaAttention().is_planned(heads(128, mx.float32), heads(128))
    assert not CudaAttention().is_planned(heads(256), heads(256))
    assert not CudaAttention().is_planned(heads(64), heads(132))
    assert not CudaAttention(has_cudnn=False).is_planned(heads(64), heads(64))


def test_what_was_asked_for_once_is_planned() -> None:
    class Planned(CudaAttention):
        asked: ClassVar[list[tuple[int, ...]]] = []

        def causal(self, queries: mx.array, *others: Any) -> mx.array:
            self.asked.append((*queries.shape, others[0].shape[1], others[0].shape[2]))
            return super().causal(queries, *others)

    attention = Planned()
    attention.plan([(4, 8)])
    assert not attention.asked
    queries, keys = mx.zeros((1, 4, 16, 8)), mx.zeros((1, 2, 16, 8))
    attention.causal(queries, keys, keys, 0.5)
    planned = Shapes(is_planned=True, grid=4).planned(30)
    assert (planned[0], planned[-1]) == ((4, 4), (32, 32))
    attention.plan(planned)
    assert attention.asked[1:] == [(1, 4, n, 8, 2, m) for n, m in planned]


def test_a_few_queries_see_what_causal_ones_see() -> None:
    mx.random.seed(0)
    queries = mx.random.normal((2, 6, 5, 16))
    keys, values = mx.random.normal((2, 2, 2, 31, 16))
    found = CudaAttention().few(queries, keys, values, 0.25)
    wanted = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.25, mask="causal")
    assert mx.allclose(found, wanted, atol=1e-5)


def test_a_model_that_does_not_answer_as_before_is_found_out(loaded: Any) -> None:
    class Wrong(MaskedAttention):
        def few(self, *given: Any) -> mx.array:
            return super().few(*given) * 2

    class Unable(MaskedAttention):
        def ragged(self, *given: Any) -> mx.array:
            raise ValueError("no attention without a mask")

    for attention, found in ((MaskedAttention(), True), (Wrong(), False), (Unable(), False)):
        with installed(loaded.model, attention):
            assert (self_test.run(loaded.model, 2048) == (True, True)) is found


@ON_CUDA
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize(
    ("heads", "groups", "length", "width"), [(16, 8, 77, 128), (4, 1, 1_500, 64), (8, 2, 600, 256)]
)
def test_the_kernel_gives_what_a_mask_gives(
    dtype: mx.Dtype, heads: int, groups: int, length: int, width: int
) -> None:
    mx.random.seed(0)
    queries = mx.random.normal((3, 1, heads, width)).astype(dtype).transpose(0, 2, 1, 3)
    room = mx.random.normal((2, 3, groups, length + 9, width)).astype(dtype)
    keys, values = room[..., :length, :]
    ragged = Ragged(mx.array([0, length // 2, length - 1]), mx.array([length]))
    found = CudaAttention().ragged(queries, keys, values, 0.1, ragged)
    wanted = MaskedAttention().ragged(queries, keys, values, 0.1, ragged)
    error = mx.abs(found.astype(mx.float32) - wanted.astype(mx.float32)).max().item()
    assert error < (1e-5 if dtype == mx.float32 else 0.03)
    new = (mx.contiguous(keys[..., -1:, :]), mx.contiguous(values[..., -1:, :]))
    kept = mx.array(np.array(room.astype(mx.float32))).astype(dtype)
    kept[..., length - 1, :] = 9
    kept_keys, kept_values = mx.contiguous(kept[0]), mx.contiguous(kept[1])
    mx.eval(kept_keys, kept_values, new)
    again = CudaAttention().ragged(queries, kept_keys, kept_values, 0.1, ragged, new)
    assert mx.array_equal(again, found)
    assert mx.array_equal(kept_keys[..., :length, :], keys)
    assert mx.array_equal(kept_values[..., :length, :], values)

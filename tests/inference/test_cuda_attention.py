"""Attention in our ways is what MLX's own gives; on a CPU, with a mask in the kernel's place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import cuda_attention, self_test
from inference.cuda_attention import CudaAttention, Ragged
from inference.loader import LoadOptions, load
from inference.prefix_cache import PrefixCache
from inference.rows import PaddedKVCache
from inference.runner import Runner, Shapes
from parts import SamplingParams
from tests.inference.test_batch import Guest, answers, solo

ON_CUDA = pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA here")


class MaskedAttention(CudaAttention):
    """What the kernel computes, in MLX's own operations; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.num_ragged = self.num_few = 0

    def ragged(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, ragged: Ragged
    ) -> mx.array:
        self.num_ragged += 1
        mask = ragged.padding[:, None, None, None] <= mx.arange(keys.shape[2])
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)

    def few(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        self.num_few += 1
        return super().few(queries, keys, values, scale)


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


def test_chunks_divide_what_comes_before_them() -> None:
    shapes = Shapes(is_planned=True, few=128)
    assert shapes.chunk(0, 9000) == 4096
    assert shapes.chunk(4096, 4095) == 2048
    assert shapes.chunk(6144, 4095) == 3072
    assert shapes.chunk(2048 + 512, 4096) == 512
    assert shapes.chunk(0, 1) == 256
    assert shapes.chunk(100, 4096) == 156
    ends = [shapes.end(number) for number in (2, 256, 257, 600, 3000, 4096)]
    assert ends == [256, 256, 512, 768, 3072, 4096]


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

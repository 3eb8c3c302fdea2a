"""A kernel for CUDA that applies masks: what may not come next becomes -inf, in one pass.

It reads a mask where that lies in the host's memory, each word once.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import mlx.core as mx

from inference.cuda_kernel import that_works

SPAN = 2048
"""Tokens of one block of threads."""
THREADS = 256

MASK = """
__shared__ unsigned words[SPAN / 32];
const int size = logits_shape[1];
const int row = blockIdx.y;
const int first = blockIdx.x * SPAN;
const int word = first / 32 + threadIdx.x;
if (threadIdx.x < SPAN / 32 && word < mask_shape[1]) {
  words[threadIdx.x] = mask[row * mask_strides[0] + word];
}
__syncthreads();
const T* from = logits + row * logits_strides[0];
T* to = masked + (long long)row * size;
for (int i = threadIdx.x; i < SPAN && first + i < size; i += THREADS) {
  const bool may = words[i / 32] >> (i % 32) & 1;
  to[first + i] = may ? from[(first + i) * logits_strides[1]] : T(__uint_as_float(0xff800000u));
}
"""


class MaskKernel:
    """The kernel, compiled when it is first used."""

    def __init__(self) -> None:
        self._apply: Any = mx.fast.cuda_kernel(
            name="masked_logits",
            input_names=["logits", "mask"],
            output_names=["masked"],
            source=MASK,
            ensure_row_contiguous=False,
        )

    def __call__(self, logits: mx.array, mask: mx.array) -> mx.array:
        """`logits` ([B, V]) where `mask` ([B, ⌈V / 32⌉] uint32) has its bit set, lowest first."""
        num_rows, size = logits.shape
        [masked] = self._apply(
            inputs=[logits, mask],
            template=[("T", logits.dtype), ("SPAN", SPAN), ("THREADS", THREADS)],
            grid=(-(-size // SPAN) * THREADS, num_rows, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[logits.shape],
            output_dtypes=[logits.dtype],
        )
        return cast(mx.array, masked)


@functools.cache
def kernel() -> MaskKernel | None:
    """The kernel, where there is one that works."""
    return that_works(MaskKernel, _is_right, otherwise="masks cost some speed")


def _is_right(apply: MaskKernel) -> bool:
    mask = mx.array([[5]], mx.uint32)
    return all(
        mx.isinf(apply(mx.zeros((1, 4), dtype), mask)).tolist() == [[False, True, False, True]]
        for dtype in (mx.bfloat16, mx.float16, mx.float32)
    )

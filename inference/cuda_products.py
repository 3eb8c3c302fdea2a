"""Products of few rows on CUDA: what a decode step multiplies by the matrices of a small model.

cuBLAS chooses among many ways, which takes the host 10 to 20 µs each time, longer than the device
then needs for the product. The kernel here knows one way. A block of threads makes 16 columns; its
warps share out what is summed up, on tensor cores (PTX ISA, `mma.m16n8k16`).
"""

from __future__ import annotations

import functools
from typing import Any, cast

import mlx.core as mx

from inference.cuda_kernel import that_works

MOST_ROWS = 32
LARGEST = 2**24
"""Numbers of a matrix, at most. Of larger ones the device makes more than the host can save."""
COLUMNS = 16
"""That a block of threads makes."""
DEPTH = 64
"""Numbers of a row that a warp takes at once."""
THREADS = 256

HEADER = """
// sum += a * b, with 16 columns of the matrix in a, and eight rows in b.
template <bool IS_BFLOAT>
__device__ inline void multiply(
    float (&sum)[4], const unsigned (&a)[4], unsigned low, unsigned high) {
  if constexpr (IS_BFLOAT) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low), "r"(high));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low), "r"(high));
  }
}
"""

PRODUCT = """
constexpr int WARPS = 8;
const int num_rows = x_shape[0];
const int size = x_shape[1];
const int num_columns = weight_shape[0];
const int first = blockIdx.x * 16;
const int lane = threadIdx.x % 32;
const int warp = threadIdx.x / 32;
const int group = lane / 4;
const int quarter = lane % 4;

// In which order numbers are summed up is free, as long as it is the same on both sides. So each
// thread loads 16 that lie side by side.
float sum[TILES][4] = {};
const T* upper = weight + (size_t)(first + group) * size;
const T* lower = upper + (size_t)8 * size;
for (int at = warp * 64 + quarter * 16; at < size; at += WARPS * 64) {
  uint4 above[2], below[2];
  for (int i = 0; i < 2; i++) {
    above[i] = *reinterpret_cast<const uint4*>(upper + at + 8 * i);
    below[i] = *reinterpret_cast<const uint4*>(lower + at + 8 * i);
  }
  const unsigned* u = reinterpret_cast<const unsigned*>(above);
  const unsigned* l = reinterpret_cast<const unsigned*>(below);
  for (int tile = 0; tile < TILES; tile++) {
    const int row = tile * 8 + group;
    uint4 here[2] = {};
    if (row < num_rows) {
      here[0] = *reinterpret_cast<const uint4*>(x + row * size + at);
      here[1] = *reinterpret_cast<const uint4*>(x + row * size + at + 8);
    }
    const unsigned* b = reinterpret_cast<const unsigned*>(here);
    for (int s = 0; s < 4; s++) {
      const unsigned a[4] = {u[2 * s], l[2 * s], u[2 * s + 1], l[2 * s + 1]};
      multiply<IS_BFLOAT>(sum[tile], a, b[2 * s], b[2 * s + 1]);
    }
  }
}

__shared__ float sums[WARPS][TILES * 8][16];
for (int tile = 0; tile < TILES; tile++) {
  for (int i = 0; i < 4; i++) {
    sums[warp][tile * 8 + quarter * 2 + i % 2][group + 8 * (i / 2)] = sum[tile][i];
  }
}
__syncthreads();
for (int i = threadIdx.x; i < TILES * 8 * 16; i += WARPS * 32) {
  const int row = i / 16;
  const int column = i % 16;
  if (row < num_rows) {
    float total = 0;
    for (int other = 0; other < WARPS; other++) {
      total += sums[other][row][column];
    }
    product[row * num_columns + first + column] = T(total);
  }
}
"""


class FewRows:
    """Products of few rows. The kernel is compiled when it is first used."""

    @functools.cached_property
    def _kernel(self) -> Any:
        return mx.fast.cuda_kernel(
            name="few_rows_product",
            input_names=["x", "weight"],
            output_names=["product"],
            source=PRODUCT,
            header=HEADER,
        )

    def __call__(self, x: mx.array, weight: mx.array) -> mx.array:
        """The product of `x` ([..., K]) and `weight` ([N, K]), transposed: [..., N]."""
        if not self.fits(x, weight):
            return x @ weight.T
        *rows, size = x.shape
        return self._computed(x.reshape(-1, size), weight).reshape(*rows, -1)

    @staticmethod
    def fits(x: mx.array, weight: mx.array) -> bool:
        """Whether the kernel is for such arrays, and better than what else there is."""
        num_columns, size = weight.shape
        is_half = x.dtype == weight.dtype and x.dtype in (mx.bfloat16, mx.float16)
        is_even = num_columns % COLUMNS == 0 and size % DEPTH == 0
        # For a single row MLX has a kernel of its own.
        return is_half and is_even and 1 < x.size // size <= MOST_ROWS and weight.size <= LARGEST

    def _computed(self, x: mx.array, weight: mx.array) -> mx.array:
        num_rows, num_columns = x.shape[0], weight.shape[0]
        tiles = next(n for n in (1, 2, 4) if 8 * n >= num_rows)
        template = [("T", x.dtype), ("TILES", tiles), ("IS_BFLOAT", x.dtype == mx.bfloat16)]
        [product] = self._kernel(
            inputs=[x, weight],
            template=template,
            grid=(num_columns // COLUMNS * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_rows, num_columns)],
            output_dtypes=[x.dtype],
        )
        return cast(mx.array, product)


@functools.cache
def few_rows() -> FewRows | None:
    """The kernel, where there is one that works."""
    return that_works(FewRows, _is_right, otherwise="products of few rows cost some speed")


def _is_right(multiply: FewRows) -> bool:
    def agrees(dtype: mx.Dtype) -> bool:
        x, weight = mx.ones((3, DEPTH), dtype), mx.ones((COLUMNS, DEPTH), dtype)
        return bool(mx.array_equal(multiply(x, weight), x @ weight.T).item())

    return agrees(mx.bfloat16) and agrees(mx.float16)

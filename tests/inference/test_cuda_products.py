"""Products of few rows are what MLX's own are; which ones they are is told without a device."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from inference import fused
from inference.cuda_products import LARGEST, FewRows, few_rows

ON_CUDA = pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA here")


def arrays(
    rows: tuple[int, ...], size: int, columns: int, dtype: mx.Dtype = mx.bfloat16
) -> tuple[mx.array, mx.array]:
    return mx.random.normal((*rows, size)).astype(dtype), mx.random.normal((columns, size)).astype(
        dtype
    )


@pytest.mark.parametrize("rows", [(2, 1), (1, 2), (32,), (4, 8)])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_a_few_rows_by_a_small_matrix_are_for_the_kernel(
    rows: tuple[int, ...], dtype: mx.Dtype
) -> None:
    assert FewRows.fits(*arrays(rows, 128, 32, dtype))


@pytest.mark.parametrize(
    ("rows", "size", "columns", "dtype"),
    [
        ((1, 1), 128, 32, mx.bfloat16),  # MLX has a kernel for one
        ((33,), 128, 32, mx.bfloat16),
        ((2,), 96, 32, mx.bfloat16),
        ((2,), 128, 24, mx.bfloat16),
        ((2,), 128, 32, mx.float32),
    ],
)
def test_all_others_are_left_to_mlx(
    rows: tuple[int, ...], size: int, columns: int, dtype: mx.Dtype
) -> None:
    x, weight = arrays(rows, size, columns, dtype)
    assert not FewRows.fits(x, weight)
    assert mx.array_equal(FewRows()(x, weight), x @ weight.T)


def test_so_are_large_matrices_and_mixed_types() -> None:
    x = mx.zeros((2, 64), mx.bfloat16)
    assert not FewRows.fits(x, mx.zeros((LARGEST // 64 + 16, 64), mx.bfloat16))
    assert not FewRows.fits(x, mx.zeros((16, 64), mx.float16))


def test_every_projection_of_a_model_is_multiplied_in_the_way_that_is_given() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, n) for n in (24, 8, 8))
            self.o_proj = nn.Linear(24, 16, bias=False)
            self.odd_one = nn.Linear(16, 16)

        def __call__(self, x: mx.array) -> mx.array:
            return self.odd_one(self.o_proj(self.q_proj(x) + self.k_proj(x).sum())) + x

    seen = []

    def product(x: mx.array, weight: mx.array) -> mx.array:
        seen.append(weight.shape)
        return x @ weight.T

    layer, x = Layer(), mx.random.normal((2, 3, 16))
    wanted = layer(x)
    names = set(dict(nn.utils.tree_flatten(layer.parameters())))
    assert fused.fuse(layer, product) == 2
    assert mx.allclose(layer(x), wanted, atol=1e-5)
    assert seen == [(40, 16), (16, 24), (16, 16)]
    left = set(dict(nn.utils.tree_flatten(layer.parameters())))
    assert left == {name for name in names if name.startswith("o")}


def test_there_is_no_kernel_without_cuda() -> None:
    assert (few_rows() is None) == (not mx.cuda.is_available())


@ON_CUDA
@pytest.mark.parametrize("rows", [2, 3, 8, 9, 16, 17, 31, 32])
@pytest.mark.parametrize(("size", "columns"), [(64, 16), (576, 48), (1024, 3072), (3072, 1024)])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_the_kernel_gives_the_products(rows: int, size: int, columns: int, dtype: mx.Dtype) -> None:
    x, weight = arrays((rows,), size, columns, dtype)
    multiply = few_rows()
    assert multiply is not None
    found = multiply(x, weight).astype(mx.float32)
    wanted = x.astype(mx.float32) @ weight.astype(mx.float32).T
    assert mx.allclose(found, wanted, rtol=0.02, atol=0.02 * size**0.5)

"""Attention on CUDA where MLX's own is slow there: for one query a row, for a few, and for many.

One query and a mask have no fused kernel in MLX: what it does instead is half a dozen operations a
layer, a quarter of a step's time. The kernel here is told where each row of a batch begins, and
needs no mask. Long rows are cut into parts, whose sums a second kernel puts together
(Flash-Decoding, Dao et al. 2023). It also puts the keys and values of the new position into their
place, where nobody has looked yet. An update of MLX's would do so too, in two operations a layer
more, and copy whole caches while the device still reads them.

Many queries go to cuDNN, which plans each layout anew, for 50 ms and more: other lengths, and other
strides, which in a KV cache follow from the room that it has. So it is given copies that have no
strides of their own, and of lengths there are few, planned for beforehand. A few queries are
computed by plain products, which nobody has to plan: so ends a prompt whose beginning is known.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

import mlx.core as mx

FEW = 256
"""Queries, at most, for which plain products are cheap."""
MOST_SCORES = 2**21
"""Scores of a head, at most, that are made for them: memory that nobody has reckoned with."""
WIDEST = 128
"""Numbers of a head, at most, for which cuDNN has an attention."""
LONGEST_PART = 528
"""Keys for one block of threads, two steps of a growing cache. More are shared out."""
MAX_PARTS = 32
THREADS = 256

HEADER = """
template <typename T>
struct alignas(16) Load {
  T numbers[16 / sizeof(T)];
};
"""

PART = """
constexpr int PER_LOAD = 16 / sizeof(T);
constexpr int LOADS = WIDTH / (8 * PER_LOAD);
constexpr int GROUPS = 32;
// Eight lanes share a key: each has LOADS pieces of it, which lie side by side with the others'.
const int lane = threadIdx.x % 8;
const int group = threadIdx.x / 8;
const unsigned mine = 0xffu << (threadIdx.x & 24);

const int head = blockIdx.x;
const int part = blockIdx.y;
const int row = blockIdx.z;
const int num_parts = gridDim.y;
const int num_keys = ends[0];
const int first = padding[row];
const int length = (num_keys - first + num_parts - 1) / num_parts;
const int begin = first + part * length;
const int end = min(begin + length, num_keys);

const int kv_head = head / (queries_shape[1] / keys_shape[1]);
const T* q = queries + row * queries_strides[0] + head * queries_strides[1];
const T* k = keys + row * keys_strides[0] + kv_head * keys_strides[1];
const T* v = values + row * values_strides[0] + kv_head * values_strides[1];
const T* new_k = new_keys + row * new_keys_strides[0] + kv_head * new_keys_strides[1];
const T* new_v = new_values + row * new_values_strides[0] + kv_head * new_values_strides[1];
const bool keeps = head % (queries_shape[1] / keys_shape[1]) == 0;

float query[LOADS][PER_LOAD];
float sum[LOADS][PER_LOAD];
for (int l = 0; l < LOADS; l++) {
  for (int i = 0; i < PER_LOAD; i++) {
    const int place = (l * 8 + lane) * PER_LOAD + i;
    query[l][i] = float(q[place * queries_strides[3]]) * scale[0] * 1.44269504f;
    sum[l][i] = 0;
  }
}
float top = -1e30f;
float weight = 0;

#pragma unroll 2
for (int at = begin + group; at < end; at += GROUPS) {
  const bool is_new = at == num_keys - 1;
  const T* k_here = is_new ? new_k : k + at * keys_strides[2];
  const T* v_here = is_new ? new_v : v + at * values_strides[2];
  Load<T> key[LOADS], value[LOADS];
  for (int l = 0; l < LOADS; l++) {
    const int place = (l * 8 + lane) * PER_LOAD;
    key[l] = *reinterpret_cast<const Load<T>*>(k_here + place);
    value[l] = *reinterpret_cast<const Load<T>*>(v_here + place);
  }
  if (is_new && keeps) {
    for (int l = 0; l < LOADS; l++) {
      const int place = (l * 8 + lane) * PER_LOAD;
      *reinterpret_cast<Load<T>*>(const_cast<T*>(k) + at * keys_strides[2] + place) = key[l];
      *reinterpret_cast<Load<T>*>(const_cast<T*>(v) + at * values_strides[2] + place) = value[l];
    }
  }
  float score = 0;
  for (int l = 0; l < LOADS; l++) {
    for (int i = 0; i < PER_LOAD; i++) {
      score += query[l][i] * float(key[l].numbers[i]);
    }
  }
  score += __shfl_xor_sync(mine, score, 4);
  score += __shfl_xor_sync(mine, score, 2);
  score += __shfl_xor_sync(mine, score, 1);

  const float new_top = fmaxf(top, score);
  const float fade = exp2f(top - new_top);
  const float share = exp2f(score - new_top);
  top = new_top;
  weight = weight * fade + share;
  for (int l = 0; l < LOADS; l++) {
    for (int i = 0; i < PER_LOAD; i++) {
      sum[l][i] = sum[l][i] * fade + share * float(value[l].numbers[i]);
    }
  }
}

__shared__ float tops[GROUPS], weights[GROUPS], sums[GROUPS][WIDTH];
if (lane == 0) {
  tops[group] = top;
  weights[group] = weight;
}
for (int l = 0; l < LOADS; l++) {
  for (int i = 0; i < PER_LOAD; i++) {
    sums[group][(l * 8 + lane) * PER_LOAD + i] = sum[l][i];
  }
}
__syncthreads();

const int place = threadIdx.x;
if (place < WIDTH) {
  for (int g = 0; g < GROUPS; g++) {
    top = fmaxf(top, tops[g]);
  }
  float total = 0, number = 0;
  for (int g = 0; g < GROUPS; g++) {
    const float share = exp2f(tops[g] - top);
    total += weights[g] * share;
    number += sums[g][place] * share;
  }
  const int index = row * queries_shape[1] + head;
  if (num_parts == 1) {
    out[index * WIDTH + place] = T(number / total);
  } else {
    parts[(index * num_parts + part) * WIDTH + place] = number;
    if (place == 0) {
      tails[(index * num_parts + part) * 2] = top;
      tails[(index * num_parts + part) * 2 + 1] = total;
    }
  }
}
"""
"""What one block computes: a part of the keys of one row, for one head."""

WHOLE = """
const int place = threadIdx.x;
const int index = blockIdx.x;
const int num_parts = tails_shape[1];
const float* tail = tails + index * num_parts * 2;
float top = -1e30f;
for (int part = 0; part < num_parts; part++) {
  top = fmaxf(top, tail[part * 2]);
}
float total = 0, number = 0;
for (int part = 0; part < num_parts; part++) {
  const float share = exp2f(tail[part * 2] - top);
  total += tail[part * 2 + 1] * share;
  number += parts[(index * num_parts + part) * WIDTH + place] * share;
}
out[index * WIDTH + place] = T(number / total);
"""
"""What puts the parts of one head together."""


class Ragged:
    """Where each row of a batch begins, and where all end; stands where models expect a mask."""

    def __init__(self, padding: mx.array, end: mx.array) -> None:
        """`padding` ([B] int32) is how many keys before each row's first are not its own.

        `end` ([1] int32) is how many there are; what may stand behind them is nobody's yet.
        """
        self.padding, self.end = padding, end


class CudaAttention:
    """All three kinds. The kernels are compiled when they are first used."""

    def __init__(self, *, has_cudnn: bool = True) -> None:
        """`has_cudnn` where cuDNN has an attention for this device."""
        self._has_cudnn = has_cudnn
        self._scales: dict[float, mx.array] = {}
        self._kinds: set[tuple[int, int, int, mx.Dtype, float]] = set()
        """Of causal attention that was asked for: heads, width, groups, type, scale."""
        self._causal = mx.array(True)

    @functools.cached_property
    def _part(self) -> Any:
        return mx.fast.cuda_kernel(
            name="ragged_attention_part",
            input_names=[
                *("queries", "keys", "values", "new_keys", "new_values"),
                *("padding", "ends", "scale"),
            ],
            output_names=["out", "parts", "tails"],
            source=PART,
            header=HEADER,
            ensure_row_contiguous=False,
        )

    @functools.cached_property
    def _whole(self) -> Any:
        return mx.fast.cuda_kernel(
            name="ragged_attention_whole",
            input_names=["parts", "tails"],
            output_names=["out"],
            source=WHOLE,
        )

    def ragged(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        ragged: Ragged,
        new: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """Attend from `queries` ([B, H, 1, D]) to `keys` and `values` ([B, H_kv, N, D]).

        `new` ([B, H_kv, 1, D] each) are those of the last position, which are written into `keys`
        and `values`, whatever stood there: these must be nobody else's. None where they stand there
        already.

        Gives [B, H, 1, D]. D is a multiple of 64 up to 256, and the numbers of a key lie side by
        side. Raises `ValueError` for another D.
        """
        new_keys, new_values = new or (keys[..., -1:, :], values[..., -1:, :])
        num_rows, num_heads, _, width = queries.shape
        if width % 64 or width > THREADS or values.shape[3] != width:
            raise ValueError(f"no attention without a mask for heads {width} wide")
        num_keys = keys.shape[2]
        num_parts = min(1 << (-(-num_keys // LONGEST_PART) - 1).bit_length(), MAX_PARTS)
        heads = num_rows * num_heads
        in_parts = (heads, num_parts) if num_parts > 1 else (1, 1)
        # How many parts there are is no part of it: it changes while a stream is read, and to
        # compile a kernel takes seconds.
        template = [("T", queries.dtype), ("WIDTH", width)]
        shape = (num_rows, num_heads, 1, width)
        out, parts, tails = self._part(
            inputs=[
                *(queries, keys, values, new_keys, new_values),
                *(ragged.padding, ragged.end, self._scale(scale)),
            ],
            template=template,
            grid=(num_heads * THREADS, num_parts, num_rows),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[shape if num_parts == 1 else (1,), (*in_parts, width), (*in_parts, 2)],
            output_dtypes=[queries.dtype, mx.float32, mx.float32],
        )
        if num_parts == 1:
            return cast(mx.array, out)
        [out] = self._whole(
            inputs=[parts, tails],
            template=template,
            grid=(heads * width, 1, 1),
            threadgroup=(width, 1, 1),
            output_shapes=[shape],
            output_dtypes=[queries.dtype],
        )
        return cast(mx.array, out)

    def _scale(self, scale: float) -> mx.array:
        if scale not in self._scales:
            self._scales[scale] = mx.array([scale], mx.float32)
        return self._scales[scale]

    def few(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        """Attend from the last positions ([B, H, n, D]) to all before them and to themselves.

        `keys` and `values` are [B, H_kv, N, D]; gives [B, H, n, D].
        """
        num_rows, num_heads, num_queries, width = queries.shape
        num_groups, num_keys = keys.shape[1:3]
        together = (num_rows, num_groups, -1, width)
        scores = (queries * scale).reshape(together) @ keys.swapaxes(-1, -2)
        shape = scores.shape
        scores = scores.reshape(num_rows, num_heads, num_queries, num_keys)
        scores = mx.where(self._seen(num_queries, num_keys), scores, -mx.inf)
        shares = mx.softmax(scores, axis=-1, precise=True)
        return (shares.reshape(shape) @ values).reshape(num_rows, num_heads, num_queries, width)

    def causal(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        """The same for many positions, as cuDNN does it."""
        _, num_heads, _, width = queries.shape
        self._kinds.add((num_heads, width, keys.shape[1], queries.dtype, scale))
        arrays = map(mx.contiguous, (queries, keys, values))
        return mx.fast.scaled_dot_product_attention(*arrays, scale=scale, mask="causal")

    def is_planned(self, queries: mx.array, values: mx.array) -> bool:
        """Whether cuDNN takes such heads; what it does not take, MLX computes in plain products."""
        widths = queries.shape[-1], values.shape[-1]
        is_half = queries.dtype in (mx.bfloat16, mx.float16)
        fits = all(width % 8 == 0 and width <= WIDEST for width in widths)
        return self._has_cudnn and is_half and fits

    def plan(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Have planned what comes, `shapes` of so many queries and so many keys."""
        for num_queries, num_keys in shapes:
            for num_heads, width, num_groups, dtype, scale in self._kinds:
                queries = mx.zeros((1, num_heads, num_queries, width), dtype)
                keys = mx.zeros((1, num_groups, num_keys, width), dtype)
                mx.eval(self.causal(queries, keys, keys, scale))

    def _seen(self, num_queries: int, num_keys: int) -> mx.array:
        """The keys that each query sees ([n, N]); the same for every layer."""
        if self._causal.shape != (num_queries, num_keys):
            places = mx.arange(num_keys)
            self._causal = places <= places[num_keys - num_queries :, None]
        return self._causal


def _are_few(num_queries: int, num_keys: int) -> bool:
    return num_queries < num_keys and num_queries <= min(FEW, MOST_SCORES // num_keys)


def install(model: Any, attention: CudaAttention) -> Callable[[], None]:
    """Let a model's layers attend by a `CudaAttention`, where it is asked to.

    mlx-lm's layers call the one function that every module of a model imports; here the modules of
    this model get another. What is returned undoes it.
    """
    replaced = []
    for name in {type(part).__module__ for part in model.modules()}:
        module = sys.modules[name]
        given = getattr(module, "scaled_dot_product_attention", None)
        if given is not None:
            vars(module)["scaled_dot_product_attention"] = _through(attention, given)
            replaced.append((module, given))

    def undo() -> None:
        for module, given in replaced:
            vars(module)["scaled_dot_product_attention"] = given

    return undo


def _through(attention: CudaAttention, given: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def scaled_dot_product_attention(
        queries: mx.array,
        keys: Any,
        values: Any,
        cache: Any,
        scale: float,
        mask: Any,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if isinstance(mask, Ragged):
            if sinks is not None:
                raise ValueError("no attention without a mask where there are sinks")
            new = getattr(cache, "new", None)
            return attention.ragged(queries, keys, values, scale, mask, new)
        is_causal = isinstance(mask, str) and isinstance(keys, mx.array) and sinks is None
        if is_causal and _are_few(queries.shape[2], keys.shape[2]):
            return attention.few(queries, keys, values, scale)
        if is_causal and attention.is_planned(queries, values):
            return attention.causal(queries, keys, values, scale)
        return given(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    return scaled_dot_product_attention

"""The nucleus is what top_k, min_p and top_p leave of a distribution; a token is drawn from it.

Sorting a large vocabulary to find it costs a batch a third of its time. But whether one token is
in it can be told without: by the mass of the likelier ones. So a token is drawn from all that min_p
and top_k leave; if it is outside the nucleus, it is drawn again, from the likelier ones. That is
exact, and needs a pass over the row for each draw, of which there are seldom more than two (the
rejection sampling of FlashInfer, Ye et al. 2025).

A kernel for CUDA. Elsewhere tokens are drawn by `sampling`, which sorts.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from inference.cuda_kernel import that_works

THREADS = 1024

HEADER = """
struct Scanned {
  float before;
  float total;
};

__device__ inline unsigned rank_of(float number) {
  const unsigned bits = __float_as_uint(number);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float number_of(unsigned rank) {
  return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}

__device__ inline float nothing() {
  return __uint_as_float(0xff800000u);  // -inf
}

// The sum of what the threads before this one have, and of what all have.
__device__ inline Scanned scanned(float mine, float* shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  float upto = mine;
  for (int far = 1; far < 32; far *= 2) {
    const float other = __shfl_up_sync(0xffffffffu, upto, far);
    upto += lane >= far ? other : 0;
  }
  __syncthreads();
  if (lane == 31) {
    shared[warp] = upto;
  }
  __syncthreads();
  float before = 0, total = 0;
  for (int w = 0; w < 32; w++) {
    before += w < warp ? shared[w] : 0;
    total += shared[w];
  }
  const float inside = __shfl_up_sync(0xffffffffu, upto, 1);
  return {before + (lane ? inside : 0), total};
}

__device__ inline float largest(float mine, float* shared) {
  for (int far = 16; far; far /= 2) {
    mine = fmaxf(mine, __shfl_xor_sync(0xffffffffu, mine, far));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = mine;
  }
  __syncthreads();
  for (int w = 0; w < 32; w++) {
    mine = fmaxf(mine, shared[w]);
  }
  return mine;
}

// splitmix64 (Steele et al. 2014).
__device__ inline unsigned long long mixed(unsigned long long bits) {
  bits += 0x9E3779B97F4A7C15ull;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
  return bits ^ (bits >> 31);
}

// A number in [0, 1).
__device__ inline float uniform(unsigned long long bits) {
  return float(mixed(bits) >> 40) * 5.9604645e-8f;
}
"""

DRAW = """
// A step of the search for the k-th number settles a bit. Numbers of 16 bits have no more than 19.
constexpr int LAST_BIT = sizeof(T) == 2 ? 13 : 0;
__shared__ float shared[32];
__shared__ int chosen, best, broken;

const int size = logits_shape[1];
const T* row = logits + blockIdx.x * logits_strides[0];
const unsigned long long bits = mixed(states[blockIdx.x]);
const float p = top_p[blockIdx.x];
const float least = min_p[blockIdx.x];
const int k = top_k[blockIdx.x];

float top = nothing();
int place = size, wrong = size;
for (int i = threadIdx.x; i < size; i += THREADS) {
  const float number = float(row[i]);
  if (number > top || place == size) {
    top = number;
    place = i;
  }
  if (number != number) {
    wrong = i;
  }
}
if (threadIdx.x == 0) {
  best = broken = size;
}
const float mine_of_top = top;
top = largest(top, shared);
if (mine_of_top == top) {
  atomicMin(&best, place);
}
if (wrong < size) {
  atomicMin(&broken, wrong);
}
__syncthreads();

const float scale = inverse_temperature[blockIdx.x] * 1.44269504f;
float under = nothing();  // what is not above it is out
if (k < size) {
  unsigned rank = 0;
  for (int bit = 31; bit >= LAST_BIT; bit--) {
    const float number = number_of(rank | (1u << bit));
    float count = 0;
    for (int i = threadIdx.x; i < size; i += THREADS) {
      count += float(row[i]) >= number;
    }
    if (scanned(count, shared).total >= k) {
      rank |= 1u << bit;
    }
  }
  under = rank < 0x00800000u ? nothing() : number_of(rank - 1);
}

float mine = 0;
for (int i = threadIdx.x; i < size; i += THREADS) {
  const float number = float(row[i]);
  const float weight = exp2f((number - top) * scale);
  mine += number > under && weight >= least ? weight : 0;
}
Scanned mass = scanned(mine, shared);
const float wanted = p * mass.total;

int token = best;
if (broken < size) {
  token = broken;
} else {
  for (unsigned long long draw = 0;; draw++) {
    if (threadIdx.x == 0) {
      chosen = size;
    }
    __syncthreads();
    const float far = uniform(bits + draw * 0x9E3779B97F4A7C15ull) * mass.total;
    if (mine > 0 && mass.before <= far && far < mass.before + mine) {
      float sum = 0;
      int last = size;
      for (int i = threadIdx.x; i < size; i += THREADS) {
        const float number = float(row[i]);
        const float weight = exp2f((number - top) * scale);
        if (number > under && weight >= least) {
          sum += weight;
          last = i;
          if (mass.before + sum > far) {
            break;
          }
        }
      }
      atomicMin(&chosen, last);
    }
    __syncthreads();
    token = chosen < size ? chosen : best;
    if (p >= 1) {
      break;
    }
    under = float(row[token]);
    mine = 0;
    for (int i = threadIdx.x; i < size; i += THREADS) {
      const float number = float(row[i]);
      const float weight = exp2f((number - top) * scale);
      mine += number > under && weight >= least ? weight : 0;
    }
    mass = scanned(mine, shared);
    if (mass.total < wanted || mass.total == 0) {
      break;
    }
  }
}
if (threadIdx.x == 0) {
  tokens[blockIdx.x] = token;
}
"""
"""One block of threads draws for one row. Each thread has every `THREADS`-th token."""


class NucleusKernel:
    """The kernel, compiled when it is first used."""

    def __init__(self) -> None:
        self._draw: Any = mx.fast.cuda_kernel(
            name="draw_from_nucleus",
            input_names=["logits", "inverse_temperature", "top_p", "min_p", "top_k", "states"],
            output_names=["tokens"],
            source=DRAW,
            header=HEADER,
            ensure_row_contiguous=False,
        )

    def __call__(
        self,
        logits: mx.array,
        inverse_temperature: mx.array,
        top_p: mx.array,
        min_p: mx.array,
        top_k: mx.array,
        states: mx.array,
    ) -> mx.array:
        """Draw a token for each row of `logits` ([B, V]); gives [B] uint32.

        The rules are [B, 1]: float32, `top_k` int32, and `states` uint64, of which a row's random
        bits are made. Where a row has numbers that are none, the first of their places is given.

        The numbers of a row of `logits` lie side by side, and so do those of a rule.
        """
        [tokens] = self._draw(
            inputs=[logits, inverse_temperature, top_p, min_p, top_k, states],
            template=[("T", logits.dtype), ("THREADS", THREADS)],
            grid=(logits.shape[0] * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(logits.shape[0],)],
            output_dtypes=[mx.uint32],
        )
        return tokens


@functools.cache
def kernel() -> NucleusKernel | None:
    """The kernel, where there is one that works."""
    return that_works(NucleusKernel, _is_right, otherwise="tokens are drawn by sorting")


def _is_right(draw: NucleusKernel) -> bool:
    one, state = mx.ones((1, 1)), mx.array([[0]], mx.uint64)
    rules = (one, one, one, mx.array([[64]]), state)
    return all(
        draw(mx.where(mx.arange(64) == 7, 99, mx.zeros((1, 64))).astype(dtype), *rules).item() == 7
        for dtype in (mx.bfloat16, mx.float32)
    )

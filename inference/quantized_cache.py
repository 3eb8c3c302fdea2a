"""Quantised KV caches: keys and values kept in 4 or 8 bits, for one row and for several.

mlx-lm has the cache of one row, and the attention over it; here is the one of several rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache

from inference.rows import PaddedKVCache
from parts import Unavailable

Arrays = tuple[mx.array, ...]
"""Packed numbers, scales and biases; each [rows, heads, tokens, width of its own]."""


class PaddedQuantizedKVCache(PaddedKVCache):
    """Rows of different lengths, aligned to the right, as `QuantizedKVCache` keeps each."""

    def __init__(self, padding: Sequence[int], group_size: int, bits: int) -> None:
        super().__init__(padding)
        self._idx: int = 0
        self.group_size = group_size
        self.bits = bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Arrays, Arrays]:
        """Take in new tokens ([rows, heads, tokens, width]), and give all, quantised."""
        begin, self._idx = self._idx, self._idx + keys.shape[2]
        self.keys = self._written(self.keys, self._quantized(keys), begin)
        self.values = self._written(self.values, self._quantized(values), begin)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Arrays, Arrays]:
        """What is kept, padding included."""
        return _cut(self.keys, 0, self._idx), _cut(self.values, 0, self._idx)

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep these rows, and no more padding than they need."""
        kept = mx.array(list(batch_indices))
        self.padding = [self.padding[i] for i in batch_indices]
        spare = min(self.padding)
        self.keys = tuple(array[kept, :, spare:] for array in self.keys)
        self.values = tuple(array[kept, :, spare:] for array in self.values)
        self.padding = [p - spare for p in self.padding]
        self._idx -= spare

    def extend(self, other: PaddedKVCache) -> None:
        """Take in the rows of another."""
        longest = max(self._idx, other._idx)
        parts = [(c.keys, c.values, c._idx) for c in (self, other)]
        self.keys = _stacked([(keys, length) for keys, _, length in parts], longest)
        self.values = _stacked([(values, length) for _, values, length in parts], longest)
        self.padding = [p + longest - c._idx for c in (self, other) for p in c.padding]
        self._idx = longest

    def extract(self, idx: int) -> QuantizedKVCache:
        """Give one row as a cache of its own."""
        cache = QuantizedKVCache(self.group_size, self.bits)
        begin = self.padding[idx]
        for name in ("keys", "values"):
            row = tuple(array[idx : idx + 1] for array in getattr(self, name))
            setattr(cache, name, tuple(map(mx.contiguous, _cut(row, begin, self._idx))))
        cache.offset = self._idx - begin
        return cache

    @classmethod
    def merge(cls, caches: Sequence[QuantizedKVCache]) -> PaddedQuantizedKVCache:
        """Put caches of one row each into one. None may be empty."""
        longest = max(cache.offset for cache in caches)
        padding = [longest - cache.offset for cache in caches]
        merged = cls(padding, caches[0].group_size, caches[0].bits)
        merged.keys = _stacked([(cache.keys, cache.offset) for cache in caches], longest)
        merged.values = _stacked([(cache.values, cache.offset) for cache in caches], longest)
        merged._idx = longest
        return merged

    @property
    def nbytes(self) -> int:
        """What the arrays take."""
        return sum(array.nbytes for part in (self.keys, self.values) for array in part or ())

    def _quantized(self, array: mx.array) -> Arrays:
        return tuple(mx.quantize(array, group_size=self.group_size, bits=self.bits))

    def _written(self, kept: Arrays | None, new: Arrays, begin: int) -> Arrays:
        """What is kept with new tokens behind its first `begin`, and room for more to come."""
        end = begin + new[0].shape[2]
        if kept is None or end > kept[0].shape[2]:
            room = -(-end // self.step) * self.step - begin
            before = [_room(array, 0) for array in new] if kept is None else _cut(kept, 0, begin)
            kept = tuple(
                mx.concatenate([old, _room(array, room)], axis=2)
                for old, array in zip(before, new, strict=True)
            )
        for array, its in zip(kept, new, strict=True):
            array[:, :, begin:end] = its
        return kept


def quantize(cache: list[Any], bits: int, group_size: int) -> list[Any]:
    """Put quantised caches in the place of plain ones, all empty. Others stay: sliding windows and
    recurrent states are small."""
    return [
        QuantizedKVCache(group_size, bits) if type(layer) is KVCache else layer for layer in cache
    ]


def group_size_for(model: Any, bits: int) -> int:
    """Find how many numbers share a scale, by computing a few tokens.

    Raises:
        Unavailable: the model's attention cannot use quantised caches.
    """
    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, 2), mx.uint32), cache=cache))
    plain = [layer for layer in cache if type(layer) is KVCache]
    widths = [array.shape[-1] for layer in plain for array in (layer.keys, layer.values)]
    sizes = [size for size in (64, 32) if all(width % size == 0 for width in widths)]
    if not plain or not sizes:
        raise Unavailable("This model's KV caches cannot be quantised: start without --kv-bits.")
    try:
        quantized = quantize(make_prompt_cache(model), bits, sizes[0])
        for length in (2, 1):
            mx.eval(model(mx.zeros((1, length), mx.uint32), cache=quantized))
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise Unavailable(
            "This model's attention cannot use quantised KV caches: start without --kv-bits."
        ) from error
    return sizes[0]


def _room(like: mx.array, length: int) -> mx.array:
    rows, heads, _, width = like.shape
    return mx.zeros((rows, heads, length, width), like.dtype)


def _cut(arrays: Any, begin: int, end: int) -> Arrays:
    return tuple(array[:, :, begin:end] for array in arrays)


def _stacked(parts: list[tuple[Any, int]], longest: int) -> Arrays:
    """The first tokens of several caches, as many as each has, aligned to the right."""
    aligned = [
        [
            mx.pad(array, [(0, 0), (0, 0), (longest - length, 0), (0, 0)])
            for array in _cut(arrays, 0, length)
        ]
        for arrays, length in parts
    ]
    return tuple(mx.concatenate(list(same)) for same in zip(*aligned, strict=True))

"""Cache layers are what mlx-lm keeps of a prompt, one a layer: copied, cut, and counted here.

MLX writes into a slice of an array by giving its Python object new contents; whatever else refers
to the old contents keeps them. So a copy needs new objects for layers and arrays, and no new bytes.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    CacheList,
    KVCache,
    QuantizedKVCache,
    can_trim_prompt_cache,
    trim_prompt_cache,
)

Cache = list[Any]
"""One mlx-lm cache a layer, of one row."""

_PLAIN = (int, float, str, bool, type(None), mx.Dtype)


def copied(cache: Cache) -> Cache:
    """Give a cache of its own that shares every byte until one of the two is written to."""
    return [_copied(layer) for layer in cache]


def trimmed(cache: Cache, num_tokens: int) -> Cache:
    """Give a copy without the last `num_tokens`, from a cache that `can_trim`.

    What it shares is cut too, where that pays: its first write copies the whole of a shared array.
    """
    mine = copied(cache)
    if num_tokens > 0:
        trim_prompt_cache(mine, num_tokens)
        for layer in mine:
            _narrow(layer, spare=KVCache.step)
    return mine


def compact(cache: Cache, num_tokens: int) -> Cache:
    """Give a trimmed copy that shares nothing, layer by layer, so that it needs little memory.

    `cache` is emptied on the way.
    """
    found = []
    for index, layer in enumerate(cache):
        [mine] = trimmed([layer], num_tokens)
        _narrow(mine, spare=0)
        mx.eval(mine.state)
        found.append(mine)
        cache[index] = None
    return found


def can_trim(cache: Cache) -> bool:
    """Whether tokens can be taken off the end, and all that came before them is still there.

    mlx-lm says so of chunked caches (Llama 4) even when they have dropped their beginning.
    """
    is_whole = not any(getattr(layer, "start_position", 0) for layer in cache)
    return is_whole and bool(can_trim_prompt_cache(cache))


def num_bytes(cache: Cache) -> int:
    """What the arrays of a cache take, with the room they keep for more tokens."""
    return sum(layer.nbytes for layer in cache)


def _copied(value: Any) -> Any:
    if type(value) is mx.array:
        return value.__copy__()
    if isinstance(value, _PLAIN):
        return value
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if hasattr(value, "is_trimmable") and hasattr(value, "__dict__"):
        mine: Any = object.__new__(type(value))
        for name, item in vars(value).items():
            mine.__dict__[name] = _copied(item)
        return mine
    return copy.deepcopy(value)


def _narrow(layer: Any, *, spare: int) -> None:
    """Let go of the room behind a layer's last token, if it is more than `spare` tokens."""
    if isinstance(layer, CacheList):
        for inner in layer.caches:
            _narrow(inner, spare=spare)
    elif isinstance(layer, KVCache | QuantizedKVCache) and layer.keys is not None:
        layer.keys = _narrowed(layer.keys, layer.offset, spare)
        layer.values = _narrowed(layer.values, layer.offset, spare)


def _narrowed(value: Any, length: int, spare: int) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_narrowed(item, length, spare) for item in value)
    if value.shape[2] <= length + spare:
        return value if spare else mx.contiguous(value)
    cut = value[:, :, :length]
    return cut if spare else mx.contiguous(cut)

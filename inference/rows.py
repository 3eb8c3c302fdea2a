"""The KV caches of several rows, which decode together, and how rows come and go.

Rows of different lengths are aligned to the right. mlx-lm's batch caches do that; `PaddedKVCache`
is its plain one, but for what waits on the device or asks for a mask without need.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache, QuantizedKVCache

from inference.cuda_attention import Ragged

Cache = list[Any]
"""One mlx-lm cache a layer."""


class PaddedKVCache(BatchKVCache):  # type: ignore[misc]
    """mlx-lm's `BatchKVCache`, whose paddings are known on the host too.

    So rows leave without a wait for the device, and rows of one length need no attention mask.
    """

    is_ragged = False
    """Whether this process' model takes a `Ragged` for a mask."""

    def __init__(self, padding: Sequence[int]) -> None:
        self.padding = list(padding)
        super().__init__(list(padding))
        self.keys: Any
        self.values: Any
        self._idx: int

    @property
    def left_padding(self) -> mx.array:
        """What each row begins with that is not its own: [B] int32, the same for all layers."""
        return _numbers(tuple(self.padding))

    @left_padding.setter
    def left_padding(self, _: mx.array) -> None:
        """Follows from `padding`. mlx-lm would add it up on the device, anew in every layer."""

    @property
    def offset(self) -> mx.array:
        """How many tokens each row has: [B] int32, the same for all layers."""
        return _numbers(tuple(self._idx - p for p in self.padding))

    @offset.setter
    def offset(self, _: mx.array) -> None:
        """Follows from `padding` and from where the batch ends."""

    def make_mask(self, N: int, return_array: bool = False, **kwargs: Any) -> Any:
        """None where every row sees all that is there, "causal" where a prompt is computed."""
        is_plain = not (return_array or kwargs.get("window_size") is not None)
        if is_plain and N == 1 and self.is_ragged and any(self.padding):
            return Ragged(self.left_padding, _numbers((self._idx + 1,)))
        if any(self.padding) or not is_plain:
            mask = super().make_mask(N, return_array=return_array, **kwargs)
            return mask | self._is_self(N) if N > 1 else mask
        return None if N == 1 else "causal"

    def _is_self(self, N: int) -> mx.array:
        """Padding sees itself: what sees nothing at all would become NaN, and spread."""
        columns = mx.arange(self._idx + N)
        return columns[self._idx :, None] == columns

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep these rows, and no more padding than they need.

        Where padding costs a step nothing, it stays unless room for a step is won: the caches of a
        batch are large, and memory of a size that was there before is found at once.
        """
        kept = _numbers(tuple(batch_indices))
        self.padding = [self.padding[i] for i in batch_indices]
        spare = min(self.padding)
        whole = spare - spare % self.step
        if self.is_ragged and _room(self._idx - whole) == _room(self._idx - spare):
            spare = whole
        self.keys, self.values = self.keys[kept, :, spare:], self.values[kept, :, spare:]
        self.padding = [p - spare for p in self.padding]
        self._idx -= spare

    def extend(self, other: PaddedKVCache) -> None:
        """Take in the rows of another, with room for one more position, in whole steps."""
        longest = max(self._idx, other._idx)
        room = _room(longest)
        mine, its = longest - self._idx, longest - other._idx
        self.keys, self.values = (
            mx.concatenate([_placed(a, self._idx, mine, room), _placed(b, other._idx, its, room)])
            for a, b in ((self.keys, other.keys), (self.values, other.values))
        )
        self.padding = [p + mine for p in self.padding] + [p + its for p in other.padding]
        self._idx = longest

    def extract(self, idx: int) -> KVCache:
        """Give one row as a plain cache."""
        cache = KVCache()
        here = slice(self.padding[idx], self._idx)
        cache.keys = mx.contiguous(self.keys[idx : idx + 1, :, here])
        cache.values = mx.contiguous(self.values[idx : idx + 1, :, here])
        cache.offset = cache.keys.shape[2]
        return cache

    @classmethod
    def merge(cls, caches: Sequence[KVCache]) -> PaddedKVCache:
        """Put plain caches into one."""
        longest = max(cache.offset for cache in caches)
        merged = cls([longest - cache.offset for cache in caches])
        rows = [(cache.keys, cache.values, cache.offset) for cache in caches]
        merged.keys = mx.concatenate([_right(k, n, longest) for k, _, n in rows])
        merged.values = mx.concatenate([_right(v, n, longest) for _, v, n in rows])
        merged._idx = longest
        return merged


@functools.lru_cache(256)
def _numbers(values: tuple[int, ...]) -> mx.array:
    """Numbers of the host's as an int32 array, made once: all layers ask for the same ones."""
    return mx.array(values)


def _room(taken: int) -> int:
    """For one position more than are taken, in whole steps."""
    return -(-(taken + 1) // KVCache.step) * KVCache.step


def _placed(array: mx.array, length: int, start: int, room: int) -> mx.array:
    """The first `length` positions of [B, heads, ≥ length, width], from `start` on in so much room.

    What stands around them is of no account.
    """
    if start == 0 and array.shape[2] == room:
        return array
    around = [(0, 0), (0, 0), (start, room - start - length), (0, 0)]
    return mx.pad(array[..., :length, :], around)


def _right(array: mx.array, length: int, longest: int) -> mx.array:
    """The first `length` positions of [1, heads, ≥ length, width], moved to the right."""
    array = array[..., :length, :]
    return mx.pad(array, [(0, 0), (0, 0), (longest - length, 0), (0, 0)])


def empty(cache: Cache, padding: Sequence[int]) -> Cache:
    """Caches for rows that start with so much padding; `cache` is empty, and says of what kind."""
    return [PaddedKVCache(padding) for _ in cache]


def can_pad(cache: Cache) -> bool:
    """Whether prompts of different lengths can be computed in one go.

    Only where every layer keeps all keys and values: what else there is (recurrent states, sliding
    windows) takes padding for the beginning of the text.
    """
    return all(type(layer) is KVCache for layer in cache)


def padded(cache: Cache, padding: int) -> Cache:
    """The plain caches of one row, behind so much padding."""
    rows = []
    for layer in cache:
        row, length = PaddedKVCache([padding]), padding + layer.offset
        row.keys = _right(layer.keys, layer.offset, length)
        row.values = _right(layer.values, layer.offset, length)
        row._idx = length
        rows.append(row)
    return rows


def end(layer: Any) -> int:
    """How many positions of a `KVCache` or `PaddedKVCache` are taken, padding among them."""
    taken: int = layer._idx if isinstance(layer, PaddedKVCache) else layer.offset
    return taken


def reserve(cache: Cache) -> None:
    """Make room for one more position, up to the next multiple of the caches' step.

    Caches grow by a step from wherever they are; so rounded, batches that come and go meet in a
    few sizes.
    """
    taken, room = end(cache[0]), cache[0].keys.shape[2]
    if taken == room or room % KVCache.step:
        _move(cache)


def own(cache: Cache) -> None:
    """Let one row's caches share nothing, where attention will write into them.

    What is kept of a prompt may be read on another thread, for the disk, and MLX may move it for
    that: what is written where it was would be lost. MLX too would copy it, at the first update.
    """
    if PaddedKVCache.is_ragged and can_pad(cache):
        _move(cache)


def make_room(cache: Cache, length: int) -> None:
    """Make room for so many positions and one more in one row's caches, in whole steps.

    Grown by what comes, they would have a size that no memory had before, and again when they
    decode.
    """
    if can_pad(cache) and cache[0].keys is not None and cache[0].keys.shape[2] != _room(length):
        _move(cache, length)


def finish_writing() -> None:
    """Wait until attention has written what is under way, which MLX does not know of."""
    if PaddedKVCache.is_ragged:
        mx.synchronize()


def _move(cache: Cache, length: int | None = None) -> None:
    """Put what is taken into other memory, with room for so many positions and one more.

    As many as are taken, if nothing is said.
    """
    taken = end(cache[0])
    wanted = _room(taken if length is None else length)
    for layer in cache:
        more = [(0, 0), (0, 0), (0, wanted - taken), (0, 0)]
        layer.keys = mx.pad(layer.keys[..., :taken, :], more)
        layer.values = mx.pad(layer.values[..., :taken, :], more)


def advance(cache: Cache) -> None:
    """Take note that one more position is taken."""
    for layer in cache:
        if isinstance(layer, PaddedKVCache):
            layer._idx += 1
        else:
            layer.offset += 1


def bytes_per_token(cache: Cache) -> float:
    """What padding costs a row, a token. Nothing where a layer keeps more than keys and values."""
    if any(type(layer) not in (KVCache, PaddedKVCache) for layer in cache):
        return 0.0
    arrays = [array for layer in cache for array in (layer.keys, layer.values)]
    return sum(array.nbytes / (array.shape[0] * array.shape[2]) for array in arrays)


def plain(cache: Cache) -> Cache:
    """The caches of a batch of one, as those of one row."""
    return [layer.extract(0) for layer in cache]


def merged(cache: Cache) -> Cache:
    """The caches of one row, as a batch of one."""
    return [_merged(layer) for layer in cache]


def repeated(cache: Cache, number: int) -> Cache:
    """The caches of one row, so many times, as a batch."""
    rows = merged(cache)
    for layer in rows:
        layer.filter([0] * number)
    return rows


def can_merge(cache: Cache) -> bool:
    """Whether caches of this kind can be put into a batch."""
    return all(hasattr(layer, "merge") or type(layer) is QuantizedKVCache for layer in cache)


def _merged(layer: Any) -> Any:
    from inference.quantized_cache import PaddedQuantizedKVCache

    if type(layer) is QuantizedKVCache:
        return PaddedQuantizedKVCache.merge([layer])
    return PaddedKVCache.merge([layer]) if type(layer) is KVCache else layer.merge([layer])


def extend(cache: Cache, other: Cache) -> None:
    """Take the rows of `other` into `cache`."""
    for mine, its in zip(cache, other, strict=True):
        mine.extend(its)


def settle(cache: Cache) -> None:
    """Have computed where rows begin and end.

    Not every layer is asked for it in a step: most models make one mask for all. What nobody asks
    for grows by a link with every row that comes or goes, or with every token, for as long as the
    batch is never empty.
    """
    mx.async_eval([array for layer in cache for array in _places(layer)])


def _places(layer: Any) -> list[mx.array]:
    if hasattr(layer, "caches"):
        return [array for inner in layer.caches for array in _places(inner)]
    found = [getattr(layer, name, None) for name in ("offset", "left_padding", "lengths")]
    return [array for array in found if isinstance(array, mx.array)]


def states(cache: Cache) -> list[Any]:
    """The arrays of a cache, to be evaluated."""
    return [layer.state for layer in cache]

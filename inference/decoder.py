"""A decoder gives the logits of a batch's next step, from one token of each row.

Most of what such a step costs the host is Python that describes it anew, though it is the same
again and again: a third of the step where the device is fast and the model small. A
`CompiledDecoder` has MLX record the step, and play it back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from inference import rows as kv
from inference.cuda_attention import Ragged
from inference.rows import Cache, PaddedKVCache

Played = Callable[..., tuple[mx.array, ...]]
"""A step that was recorded."""


class Decoder:
    """The model, asked in the plain way."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """The logits ([B, V]) behind `tokens` ([B]), which `cache` takes in."""
        logits: mx.array = self._model(tokens[:, None], cache=cache)[:, -1, :]
        return logits


class CompiledDecoder(Decoder):
    """The same logits from steps that are recorded, for models all of whose layers are `KVCache`s.

    A recording holds for one number of rows and one size of the caches, and takes as long as a
    dozen steps. So only what goes on is recorded, and only so many recordings are kept.
    """

    MOST = 24
    """Recordings that are kept; each takes about a megabyte."""

    def __init__(self, model: Any, *, worth: int = 8) -> None:
        """After `worth` steps of one shape, the next are taken to be of it too."""
        super().__init__(model)
        self._worth = worth
        self._seen: OrderedDict[tuple[int, int], int | Played] = OrderedDict()
        """By shape, the steps that were made without a recording, or the recording."""

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        kv.reserve(cache)
        shape = (tokens.shape[0], cache[0].keys.shape[2])
        known = self._seen.pop(shape, 0)
        if isinstance(known, int):
            known = known + 1 if known < self._worth else self._recorded()
        self._seen[shape] = known
        if len(self._seen) > self.MOST:
            self._seen.popitem(last=False)
        if isinstance(known, int):
            return super().__call__(tokens, cache)
        return _played(known, tokens, cache)

    def _recorded(self) -> Played:
        """A step that is recorded when it is first asked for."""
        model = self._model

        def step(
            tokens: mx.array, start: mx.array, end: mx.array, *arrays: mx.array
        ) -> tuple[mx.array, ...]:
            padding, offset, *rest = arrays
            layers = [
                _Layer(keys, values, start, end, padding, offset)
                for keys, values in zip(rest[::2], rest[1::2], strict=True)
            ]
            logits = model(tokens[:, None], cache=layers)[:, -1, :]
            return logits, *(array for layer in layers for array in (layer.keys, layer.values))

        recorded: Played = mx.compile(step)
        return recorded


def _played(recorded: Played, tokens: mx.array, cache: Cache) -> mx.array:
    first = cache[0]
    padding = first.padding if isinstance(first, PaddedKVCache) else (0,)
    start = kv.end(first)
    places = [(start,), (start + 1,), tuple(padding), tuple(start - p for p in padding)]
    arrays = [array for layer in cache for array in (layer.keys, layer.values)]
    logits, *arrays = recorded(tokens, *map(kv.numbers, places), *arrays)
    # The arrays from before are let go, so that the new ones can be made in their place.
    for layer, keys, values in zip(cache, arrays[::2], arrays[1::2], strict=True):
        layer.keys, layer.values = keys, values
    kv.advance(cache)
    return logits


class _Layer:
    """A layer's KV cache while a step is recorded: where its rows end is a number on the device."""

    def __init__(
        self,
        keys: mx.array,
        values: mx.array,
        start: mx.array,
        end: mx.array,
        padding: mx.array,
        offset: mx.array,
    ) -> None:
        self.keys, self.values = keys, values
        self.offset = offset
        """How many tokens each row has: [B] int32."""
        self._start, self._end, self._padding = start, end, padding

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in a position; give all that there is room for."""
        self.keys = mx.slice_update(self.keys, keys, self._start, axes=[2])
        self.values = mx.slice_update(self.values, values, self._start, axes=[2])
        return self.keys, self.values

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """What a row sees of the room: nothing before it begins, and nothing behind its end."""
        if window_size is not None:
            raise ValueError("a window is not recorded")
        if PaddedKVCache.is_ragged and not return_array:
            return Ragged(self._padding, self._end)
        places = mx.arange(self.keys.shape[2])
        seen = (places >= self._padding[:, None]) & (places < self._end)
        return seen[:, None, None, :]

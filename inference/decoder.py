"""A decoder gives the logits of a batch's next step, from one token of each row.

Most of what such a step costs the host is Python that describes it anew, though it is the same
again and again: a third of the step where the device is fast and the model small. A
`CompiledDecoder` has MLX record the step, and play it back.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from inference import rows as kv
from inference.cuda_attention import Ragged
from inference.rows import Cache, PaddedKVCache

Shape = tuple[int, int, bool]
"""The rows of a step, the size of its caches, and whether they are those of a batch."""
Played = Callable[..., tuple[mx.array, ...]]
"""A step that was recorded."""
MOST_CARRIED = 64
"""Steps after which places are sent anew: no model need ask for all of them, and what nobody asks
for would grow by a link with every token."""

log = logging.getLogger(__name__)


class Decoder:
    """The model, asked in the plain way."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """The logits ([B, V]) behind `tokens` ([B]), which `cache` takes in."""
        logits: mx.array = self._model(tokens[:, None], cache=cache)[:, -1, :]
        return logits

    def forget(self) -> None:
        """Let go of what was known of steps that failed."""


class CompiledDecoder(Decoder):
    """The same logits from steps that are recorded, for models all of whose layers are `KVCache`s.

    A recording holds for one number of rows and one size of the caches, and takes as long as a
    dozen steps. So only what goes on is recorded, and only so many recordings are kept.

    Attention may write into the caches, which nothing in MLX knows of. Therefore they must be
    nobody else's, and each step must be put under way before the next is asked for.
    """

    MOST = 24
    """Recordings that are kept; each takes about a megabyte."""
    MOST_COUNTED = 256
    """Shapes whose steps are counted."""

    def __init__(self, model: Any, *, worth: int = 8) -> None:
        """After `worth` steps of one shape, the next are taken to be of it too."""
        super().__init__(model)
        self._worth: float = worth
        self._num_steps: OrderedDict[Shape, int] = OrderedDict()
        """How many steps there were of shapes without a recording."""
        self._recordings: OrderedDict[Shape, Played] = OrderedDict()
        """The one that was used last comes last."""
        self._places: dict[tuple[int, tuple[int, ...]], _Places] = {}
        """Where the next tokens of batches stand, by start and padding: what the device knows need
        not be sent there. Where memory is shared, that costs more than to compute it."""

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        kv.reserve(cache)
        is_batch = isinstance(cache[0], PaddedKVCache)
        shape = (tokens.shape[0], cache[0].keys.shape[2], is_batch)
        if recording := self._recordings.get(shape):
            self._recordings.move_to_end(shape)
            return self._played(recording, tokens, cache)
        num_steps = self._num_steps.pop(shape, 0)
        if num_steps >= self._worth:
            recording = self._recorded()
            try:
                logits = self._played(recording, tokens, cache)
            except Exception as error:  # what a model's code makes of such caches
                log.warning("this model's steps cannot be recorded: %s", error)
                self._worth = math.inf
                return super().__call__(tokens, cache)
            _keep(self._recordings, shape, recording, self.MOST)
            return logits
        _keep(self._num_steps, shape, num_steps + 1, self.MOST_COUNTED)
        return super().__call__(tokens, cache)

    @property
    def has_given_up(self) -> bool:
        """Whether a step could not be recorded, after which none is."""
        return self._worth == math.inf

    def forget(self) -> None:
        """Let go of what was known of steps that failed."""
        self._places.clear()

    def _recorded(self) -> Played:
        """A step that is recorded when it is first asked for."""
        model = self._model
        is_kept_by_attention = PaddedKVCache.is_ragged

        def step(
            tokens: mx.array, start: mx.array, end: mx.array, *arrays: mx.array
        ) -> tuple[mx.array, ...]:
            padding, offset, *rest = arrays
            layers = [
                _Layer(keys, values, _Places(start, end, padding, offset), is_kept_by_attention)
                for keys, values in zip(rest[::2], rest[1::2], strict=True)
            ]
            logits = model(tokens[:, None], cache=layers)[:, -1, :]
            replaced = (array for layer in layers for array in layer.replaced)
            return logits, end + 1, offset + 1, *replaced

        recorded: Played = mx.compile(step)
        return recorded

    def _played(self, recorded: Played, tokens: mx.array, cache: Cache) -> mx.array:
        first = cache[0]
        padding = tuple(first.padding) if isinstance(first, PaddedKVCache) else (0,)
        start = kv.end(first)
        places = self._places.pop((start, padding), None)
        if places is None or start % MOST_CARRIED == 0:
            places = _Places.of(start, padding)
        arrays = [array for layer in cache for array in (layer.keys, layer.values)]
        logits, end, offset, *replaced = recorded(tokens, *places.arrays, *arrays)
        if replaced:
            # The arrays from before are let go, so that the new ones can be made in their place.
            for layer, keys, values in zip(cache, replaced[::2], replaced[1::2], strict=True):
                layer.keys, layer.values = keys, values
        kv.advance(cache)
        if len(self._places) >= self.MOST:  # of batches that are no more
            self._places.clear()
        self._places[start + 1, padding] = _Places(places.end, end, places.padding, offset)
        return logits


def _keep(kept: OrderedDict[Shape, Any], shape: Shape, value: Any, most: int) -> None:
    kept[shape] = value
    if len(kept) > most:
        kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the new tokens of a step stand, as numbers on the device (int32)."""

    start: mx.array
    """[1]: positions that were taken before, padding among them."""
    end: mx.array
    """[1]: one more."""
    padding: mx.array
    """[B]."""
    offset: mx.array
    """[B]: how many tokens each row had."""

    @classmethod
    def of(cls, start: int, padding: Sequence[int]) -> _Places:
        numbers = ([start], [start + 1], padding, [start - p for p in padding])
        return cls(*(mx.array(list(some)) for some in numbers))

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        """In the order in which a recorded step takes them."""
        return self.start, self.end, self.padding, self.offset


class _Layer:
    """A layer's KV cache while a step is recorded."""

    def __init__(
        self, keys: mx.array, values: mx.array, places: _Places, is_kept_by_attention: bool
    ) -> None:
        """`is_kept_by_attention` where attention itself writes what is new into the arrays."""
        self.new: tuple[mx.array, mx.array] | None = None
        """The keys and values of the new tokens."""
        self.replaced: tuple[mx.array, ...] = ()
        """The arrays that are to be there after the step, where they are others."""
        self._keys, self._values, self._places = keys, values, places
        self._is_kept_by_attention = is_kept_by_attention

    @property
    def offset(self) -> mx.array:
        """How many tokens each row has: [B] int32."""
        return self._places.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in a position; give all that there is room for."""
        self.new = (keys, values)
        if self._is_kept_by_attention:
            return self._keys, self._values
        updated = (
            mx.slice_update(self._keys, keys, self._places.start, axes=[2]),
            mx.slice_update(self._values, values, self._places.start, axes=[2]),
        )
        self.replaced = updated
        return updated

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """What a row sees of the room: nothing before it begins, and nothing behind its end."""
        if window_size is not None:
            raise ValueError("a window is not recorded")
        if PaddedKVCache.is_ragged and not return_array:
            return Ragged(self._places.padding, self._places.end)
        if self._is_kept_by_attention:
            raise ValueError("what is new is kept by an attention that needs no mask")
        places = mx.arange(self._keys.shape[2])
        seen = (places >= self._places.padding[:, None]) & (places < self._places.end)
        return seen[:, None, None, :]

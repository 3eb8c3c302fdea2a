"""A mask has a bit for each token that may come next in a row of a batch.

It is filled in 30 to 80 µs a row with a large vocabulary, and now and then in some milliseconds. So
the masks of a step are filled on a thread of their own, while the step is put under way.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor

from inference import cuda_memory
from inference.guide import Guide

_AT_ONCE = LLExecutor(1)
"""Fills the rows of a mask one after another. Those of one grammar share what its lexer remembers,
so that more threads only wait for each other; and to take the interpreter anew for each row takes
longer, where others want it."""

Guides = Sequence[Guide | None]
"""One a row; a row without one may choose from all tokens."""


class Mask:
    """The mask of a batch, which is written anew in each of its steps.

    An array made for each step would cost more than to fill it: where host and device share memory,
    that is slow to get, and moves from one to the other page by page.
    """

    def __init__(self, vocab_size: int) -> None:
        self._width = (vocab_size + 31) // 32
        self._room: mx.array | None = None
        self._words = np.empty((0, self._width), np.int32)
        self._moving: weakref.finalize[..., Mask] | None = None

    def of(self, num_rows: int) -> mx.array:
        """The mask of so many rows: [B, ⌈vocabulary / 32⌉] uint32.

        What was given before must be done with when the mask is filled again.
        """
        if self._room is None or len(self._words) < num_rows:
            if self._moving is not None:
                self._moving()
            most = 1 << (num_rows - 1).bit_length()
            self._room = mx.array(np.empty((most, self._width), np.uint32))
            mx.eval(self._room)
            self._words = np.array(self._room, copy=False).view(np.int32)
            cuda_memory.keep_on_host(self._words)
            # Whoever gets the memory next may be on the device.
            self._moving = weakref.finalize(self, cuda_memory.let_move, self._words)
            self._moving.atexit = False
        return self._room[:num_rows]

    def fill(self, guides: Guides) -> None:
        """Write what the guides let each row choose from, without a look at the device."""
        words = self._words[: len(guides)]
        words.fill(-1)
        Guide.fill(guides, words, _AT_ONCE)


class MaskFiller:
    """A thread on which guides read the tokens of a step, and say what may follow."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "masks")

    @contextlib.contextmanager
    def filling(self, mask: Mask, guides: Guides, tokens: mx.array) -> Iterator[mx.array]:
        """Have `mask` say what may follow `tokens` ([B] int32, under way; -1 for none).

        It does so when the block ends, which is to start what the device does next: that takes the
        host some time too. The block begins when the tokens have been read. The other thread may
        not wait for them: an array is not to be looked at while what follows from it is put under
        way.
        """
        mx.eval(tokens)  # which were chosen by what the mask says until now
        array = mask.of(len(guides))
        filling = self._thread.submit(_accept_and_fill, mask, guides, tokens.tolist())
        try:
            yield array
        finally:
            filling.result()  # nobody touches a guide that is still at work


def _accept_and_fill(mask: Mask, guides: Guides, tokens: Any) -> None:
    for guide, token in zip(guides, tokens, strict=True):
        if guide is not None and token >= 0:
            guide.accept(token)
    mask.fill(guides)


def filled(guides: Guides, vocab_size: int) -> mx.array | None:
    """What the guides let each row choose from: [B, ⌈vocabulary / 32⌉] uint32.

    None when no row has one.
    """
    if not any(guides):
        return None
    words = np.full((len(guides), (vocab_size + 31) // 32), -1, np.int32)
    Guide.fill(guides, words, _AT_ONCE)
    return mx.array(words.view(np.uint32))

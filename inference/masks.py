"""A mask has a bit for each token that may come next in a row of a batch.

It is filled in 30 to 80 µs a row with a large vocabulary, and now and then in some milliseconds. So
the masks of a step are filled on a thread of their own, while the step is put under way.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, cast

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor

from inference.cuda_mailbox import Mailbox
from inference.cuda_memory import LEAST_BYTES, HostKept
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
        self._room = HostKept((0, self._width), np.uint32)

    def of(self, num_rows: int) -> mx.array:
        """The mask of so many rows: [B, ⌈vocabulary / 32⌉] uint32.

        What was given before must be done with when the mask is filled again.
        """
        if len(self._room.view) < num_rows:
            most = max(1 << (num_rows - 1).bit_length(), -(-LEAST_BYTES // (4 * self._width)))
            self._room = HostKept((most, self._width), np.uint32)
        return self._room.array[:num_rows]

    def fill(self, guides: Guides) -> None:
        """Write what the guides let each row choose from, without a look at the device."""
        words = self._room.view[: len(guides)].view(np.int32)
        words.fill(-1)
        Guide.fill(guides, words, _AT_ONCE)


class MaskFiller:
    """Has the guides of a batch read the tokens of a step on another thread, and fill its mask."""

    def __init__(self, thread: Executor, vocab_size: int, mailbox: Mailbox | None = None) -> None:
        """`mailbox` where the device can leave the tokens of a step for that thread."""
        self._thread = thread
        self._mask = Mask(vocab_size)
        self._mailbox = mailbox
        self._posted: mx.array | None = None
        """The tokens that come to the mailbox."""

    def posting(self, tokens: mx.array) -> list[mx.array]:
        """What must be evaluated with the `tokens` of a step, so that they come the sooner."""
        if self._mailbox is None:
            return []
        self._posted = tokens
        return [self._mailbox.post(tokens)]

    @contextlib.contextmanager
    def filling(self, guides: Guides, tokens: mx.array) -> Iterator[mx.array]:
        """Give the mask that says what may follow `tokens` ([B] int32, under way; -1 for none).

        It says so when the block ends, which is to start what the device does next: that takes the
        host some time too. Without a mailbox the block begins when the tokens have been read: an
        array is not to be looked at while what follows from it is put under way.
        """
        array, is_given_up = self._mask.of(len(guides)), threading.Event()
        if self._mailbox is None:
            filling = self._thread.submit(self._accept_and_fill, guides, _read(tokens))
        else:
            if self._posted is not tokens:  # rows have come or gone
                mx.async_eval(self.posting(tokens))
            filling = self._thread.submit(self._receive_and_fill, guides, is_given_up)
        self._posted = None
        try:
            yield array
        except BaseException:
            is_given_up.set()
            filling.result()  # nobody touches a guide that is still at work
            raise
        if not filling.result():
            self._accept_and_fill(guides, _read(tokens))

    def _receive_and_fill(self, guides: Guides, is_given_up: threading.Event) -> bool:
        assert self._mailbox is not None
        tokens = self._mailbox.receive(len(guides), is_given_up)
        return tokens is not None and self._accept_and_fill(guides, tokens)

    def _accept_and_fill(self, guides: Guides, tokens: list[int]) -> bool:
        # The tokens were chosen by what the mask says until now.
        for guide, token in zip(guides, tokens, strict=True):
            if guide is not None and token >= 0:
                guide.accept(token)
        self._mask.fill(guides)
        return True


def _read(tokens: mx.array) -> list[int]:
    mx.eval(tokens)
    found: Any = tokens.tolist()
    return cast(list[int], found)


def filled(guides: Guides, vocab_size: int) -> mx.array | None:
    """What the guides let each row choose from: [B, ⌈vocabulary / 32⌉] uint32.

    None when no row has one.
    """
    if not any(guides):
        return None
    words = np.full((len(guides), (vocab_size + 31) // 32), -1, np.int32)
    Guide.fill(guides, words, _AT_ONCE)
    return mx.array(words.view(np.uint32))

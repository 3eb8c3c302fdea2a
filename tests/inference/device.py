"""A stand-in for a device with a mailbox: its kernel writes some time after it was started."""

from __future__ import annotations

import random
import threading
from typing import Any

import mlx.core as mx
import numpy as np

from inference.cuda_mailbox import EMPTY, Mailbox


class TardyDevice(Mailbox):
    """Writes the tokens one by one, in any order, on another thread."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.num_posts = 0
        self.rooms = set[int]()
        """The addresses at which tokens were left."""
        self._random = random.Random(seed)
        self._threads: list[threading.Thread] = []

    def post(self, tokens: mx.array) -> mx.array:
        """Compute the tokens, and begin to write them."""
        mx.eval(tokens)
        self.num_posts += 1
        return super().post(tokens)

    def _post(self, *, inputs: list[mx.array], **_: Any) -> list[mx.array]:
        tokens, slots = np.array(inputs[0]), np.array(inputs[1], copy=False)
        assert tokens.dtype == np.int32 and (tokens != EMPTY).all()
        self.rooms.add(slots.ctypes.data)
        order = self._random.sample(range(len(tokens)), len(tokens))
        delay = self._random.choice((0.0, 0.0, 0.0005, 0.002))

        def write() -> None:
            late.wait(delay)
            for row in order:
                slots[row] = tokens[row]

        late = threading.Event()
        self._threads.append(threading.Thread(target=write))
        self._threads[-1].start()
        return [mx.zeros(1)]

    def finish(self) -> None:
        """Wait until everything is written."""
        for thread in self._threads:
            thread.join()

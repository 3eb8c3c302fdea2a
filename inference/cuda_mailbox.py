"""A mailbox is where a CUDA device leaves the tokens of a step for the host, which need not ask.

To read an array, MLX waits for what is under way and moves the memory; no other thread may do it
while the next step is started. So a kernel writes the tokens into memory that stays with the host,
where any thread sees them come.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Any, cast

import mlx.core as mx
import numpy as np

from inference.cuda_kernel import that_works
from inference.cuda_memory import LEAST_BYTES, HostKept

EMPTY = -2
"""Stands in a slot until its token comes; no token is negative but -1, which stands for none."""
PATIENCE_S = 1.0
"""Seconds after which tokens are asked for, as they are where there is no mailbox."""
NAP_S, LONG_NAP_S = 2e-5, 2e-4
"""Seconds between two looks, at first and later."""
SHORT_S = 2e-3
"""Seconds after which it is later."""
THREADS = 256

POST = """
const int row = blockIdx.x * THREADS + threadIdx.x;
if (row < tokens_shape[0]) {
  const_cast<volatile int*>(slots)[row] = tokens[row];
  __threadfence_system();
}
if (row == 0) {
  posted[0] = 1;
}
"""


class Mailbox:
    """Holds the tokens of one step. The kernel is compiled when it is first used."""

    def __init__(self) -> None:
        self._slots = HostKept((0,), np.int32)
        self._is_expected = False
        """Whether tokens were posted that nobody has received, and may yet come."""

    @functools.cached_property
    def _post(self) -> Any:
        return mx.fast.cuda_kernel(
            name="posted_tokens",
            input_names=["tokens", "slots"],
            output_names=["posted"],
            source=POST,
        )

    def post(self, tokens: mx.array) -> mx.array:
        """Have the device leave `tokens` ([B] int32, none of them `EMPTY`) when they are computed.

        It does so when what is returned is evaluated. What was posted before and not received is
        lost.
        """
        num_rows = tokens.shape[0]
        if len(self._slots.view) < num_rows or self._is_expected:
            most = max(1 << (num_rows - 1).bit_length(), LEAST_BYTES // 4)
            self._slots = HostKept((most,), np.int32)
        self._slots.view[:num_rows] = EMPTY
        self._is_expected = True
        [posted] = self._post(
            inputs=[tokens, self._slots.array],
            template=[("THREADS", THREADS)],
            grid=(-(-num_rows // THREADS) * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(1,)],
            output_dtypes=[mx.int32],
        )
        return cast(mx.array, posted)

    def receive(self, num_rows: int, is_given_up: threading.Event) -> list[int] | None:
        """The tokens of so many rows, on any thread; waits for them.

        None when the wait is given up, or longer than `PATIENCE_S`: what is wrong with the device
        is said to who evaluates an array.
        """
        slots, since = self._slots.view[:num_rows], time.monotonic()
        while (slots == EMPTY).any():
            waited = time.monotonic() - since
            nap = NAP_S if waited < SHORT_S else LONG_NAP_S
            if waited > PATIENCE_S or is_given_up.wait(nap):
                return None
        self._is_expected = False
        tokens: list[int] = slots.tolist()
        return tokens


def mailbox() -> Mailbox | None:
    """A new one, where there is a device that can use it."""
    return Mailbox() if _works() else None


@functools.cache
def _works() -> bool:
    made = that_works(Mailbox, _is_right, otherwise="constrained answers cost some speed")
    return made is not None


def _is_right(made: Mailbox) -> bool:
    tokens = [3, -1, 2**31 - 1]
    mx.eval(made.post(mx.array(tokens, mx.int32)))  # other work may come before it
    return made.receive(3, threading.Event()) == tokens

"""A mask has a bit for each token that may come next in a row of a batch.

Filling it takes 30 µs a row with a large vocabulary, and now and then some milliseconds: for many
rows, on several threads at once, while the device computes logits.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par

from inference.grammar import Guide

MOST_THREADS = 8
WORTH_SHARING = 4
"""Rows that are filled faster by several threads."""


def filled(guides: Sequence[Guide | None], vocab_size: int) -> mx.array | None:
    """What the guides let each row choose from: [B, ⌈vocabulary / 32⌉] uint32.

    A row without one may choose from all. None when no row has one.
    """
    guided = [(row, guide) for row, guide in enumerate(guides) if guide is not None]
    if not guided:
        return None
    mask = np.full((len(guides), (vocab_size + 31) // 32), -1, np.int32)
    if len(guided) < WORTH_SHARING:
        for row, guide in guided:
            guide.fill(mask, row)
    else:
        matchers = [(guide.matcher, row) for row, guide in guided if guide.matcher is not None]
        fill_next_token_bitmask_par(_threads(), matchers, mask)
        for row, guide in guided:
            guide.amend(mask, row)
    return mx.array(mask.view(np.uint32))


@functools.cache
def _threads() -> LLExecutor:
    return LLExecutor(num_threads=min(os.cpu_count() or 1, MOST_THREADS))

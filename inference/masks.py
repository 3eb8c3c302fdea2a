"""A mask has a bit for each token that may come next in a row of a batch.

It is filled in 30 to 80 µs a row with a large vocabulary, and now and then in some milliseconds. So
the masks of a step are filled on a thread of their own, while the step is put under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np

from inference.guide import Guide

Guides = Sequence[Guide | None]
"""One a row; a row without one may choose from all tokens."""


class MaskFiller:
    """A thread on which guides read the tokens of a step, and say what may follow."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, "masks")

    def filled_behind(
        self, guides: Guides, tokens: mx.array, meanwhile: Callable[[], None]
    ) -> mx.array | None:
        """What may follow `tokens` ([B] int32, under way; -1 for none), see `filled`.

        Where a row has a guide, `meanwhile` is done on this thread: to start what the device does
        next takes the host some time too. It is done when the tokens have been read. The other
        thread may not wait for them: an array is not to be looked at while what follows from it is
        put under way.
        """
        if not any(guides):
            return None
        mx.eval(tokens)
        filling = self._thread.submit(self._accept_and_fill, guides, tokens.tolist())
        try:
            meanwhile()
        finally:
            mask = filling.result()  # nobody touches a guide that is still at work
        return mask

    def _accept_and_fill(self, guides: Guides, tokens: Any) -> mx.array | None:
        for guide, token in zip(guides, tokens, strict=True):
            if guide is not None and token >= 0:
                guide.accept(token)
        return filled(guides, self._vocab_size)


def filled(guides: Guides, vocab_size: int) -> mx.array | None:
    """What the guides let each row choose from: [B, ⌈vocabulary / 32⌉] uint32.

    None when no row has one.
    """
    if not any(guides):
        return None
    mask = np.full((len(guides), (vocab_size + 31) // 32), -1, np.int32)
    for row, guide in enumerate(guides):
        if guide is not None:
            guide.fill(mask, row)
    return mx.array(mask.view(np.uint32))

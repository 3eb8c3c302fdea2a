"""A mask has a bit for each token that may come next in a row of a batch.

It is filled while the device computes logits: in 30 to 80 µs a row with a large vocabulary, and now
and then in some milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from inference.grammar import Guide


def filled(guides: Sequence[Guide | None], vocab_size: int) -> mx.array | None:
    """What the guides let each row choose from: [B, ⌈vocabulary / 32⌉] uint32.

    A row without one may choose from all. None when no row has one.
    """
    if not any(guides):
        return None
    mask = np.full((len(guides), (vocab_size + 31) // 32), -1, np.int32)
    for row, guide in enumerate(guides):
        if guide is not None:
            guide.fill(mask, row)
    return mx.array(mask.view(np.uint32))

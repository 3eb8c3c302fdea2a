"""Memory that stays with the host goes back as it came."""

from __future__ import annotations

import gc

import mlx.core as mx
import numpy as np
import pytest

from inference import cuda_memory
from inference.cuda_memory import HostKept


def test_memory_is_free_to_move_again_when_nobody_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advised = []
    monkeypatch.setattr(
        cuda_memory, "_advise", lambda view, *advice: advised.append((view.shape, advice))
    )
    kept = HostKept((3, 5), np.uint32)
    stays = ((cuda_memory.PREFER, -1), (cuda_memory.ACCESSED_BY, 0))
    assert advised == [((3, 5), stays)]
    del kept
    gc.collect()
    goes = ((cuda_memory.PREFER_NO_MORE, -1), (cuda_memory.ACCESSED_BY_NO_MORE, 0))
    assert advised[1:] == [((3, 5), goes)]


def test_host_and_device_see_the_same() -> None:
    kept = HostKept((2, 3), np.int32)
    kept.view[:] = [[1, 2, 3], [4, 5, 6]]
    assert mx.array_equal(kept.array, mx.array([[1, 2, 3], [4, 5, 6]]))


def test_nothing_is_advised_on_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_memory, "_advise", lambda *_: pytest.fail("there is none"))
    assert HostKept((0, 5), np.uint32).array.shape == (0, 5)

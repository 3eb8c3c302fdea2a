"""Memory that a CUDA device shares with the host, and on whose side of the bus it stays."""

from __future__ import annotations

import ctypes
import functools
import logging
import weakref
from typing import Any

import mlx.core as mx
import numpy as np

PREFER, PREFER_NO_MORE, ACCESSED_BY, ACCESSED_BY_NO_MORE = 3, 4, 5, 6
"""What `cuMemAdvise` may be told, in the order of cuda.h."""
HOST, DEVICE = -1, 0
LEAST_BYTES = 2**14
"""What is smaller shares a page with others, which would stay with it."""

log = logging.getLogger(__name__)


class HostKept:
    """An array that the device reads, and may write, where it lies in the host's memory.

    Else each page of it moves to the device when that uses it, and back when the host does, for
    20 µs and more each way. That is only advice: where it cannot be given, pages move.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.array = mx.array(np.empty(shape, dtype))
        self.view = np.array(self.array, copy=False)
        """The same memory, as the host sees it."""
        if self.view.size:
            _advise(self.view, (PREFER, HOST), (ACCESSED_BY, DEVICE))
            # Whoever gets the memory next may be on the device.
            weakref.finalize(self, _let_move, self.view).atexit = False


def _let_move(view: np.ndarray) -> None:
    _advise(view, (PREFER_NO_MORE, HOST), (ACCESSED_BY_NO_MORE, DEVICE))


def _advise(view: np.ndarray, *advice: tuple[int, int]) -> None:
    if (advise := _driver()) is None:
        return
    address, size = ctypes.c_uint64(view.ctypes.data), ctypes.c_size_t(view.nbytes)
    for kind, place in advice:
        if fault := advise(address, size, kind, place):
            log.debug("the device's driver takes no advice on memory: %d", fault)
            return


@functools.cache
def _driver() -> Any:
    """`cuMemAdvise`, or None where there is no such thing."""
    if not mx.cuda.is_available():
        return None
    try:
        return ctypes.CDLL("libcuda.so.1").cuMemAdvise
    except (OSError, AttributeError) as error:
        log.debug("the device's driver cannot be spoken to: %s", error)
        return None

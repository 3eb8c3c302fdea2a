"""Memory that a CUDA device shares with the host, and on whose side of the bus it stays."""

from __future__ import annotations

import ctypes
import functools
import logging

import mlx.core as mx
import numpy as np

PREFERRED_LOCATION, ACCESSED_BY = 3, 5
"""What `cuMemAdvise` may be told, in the words of cuda.h."""
HOST, DEVICE = -1, 0

log = logging.getLogger(__name__)


def keep_on_host(view: np.ndarray) -> None:
    """Have the device read the memory of `view` where it lies, in the host's memory.

    Else each page of it moves to the device when that reads it, and back when the host writes to
    it, for 20 µs and more each way. That is only advice: where it cannot be given, pages move.
    """
    if (advise := _advise()) is None:
        return
    address, size = ctypes.c_uint64(view.ctypes.data), ctypes.c_size_t(view.nbytes)
    for advice, place in ((PREFERRED_LOCATION, HOST), (ACCESSED_BY, DEVICE)):
        if fault := advise(address, size, advice, place):
            log.debug("the device's driver takes no advice on memory: %d", fault)
            return


@functools.cache
def _advise() -> ctypes._NamedFuncPointer | None:
    if not mx.cuda.is_available():
        return None
    try:
        return ctypes.CDLL("libcuda.so.1").cuMemAdvise
    except (OSError, AttributeError) as error:
        log.debug("the device's driver cannot be spoken to: %s", error)
        return None

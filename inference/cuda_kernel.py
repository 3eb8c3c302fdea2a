"""Kernels of our own are tried once, and used where they work: what a device lacks for one is known
to its compiler alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx

K = TypeVar("K")

log = logging.getLogger(__name__)


def that_works(make: Callable[[], K], is_right: Callable[[K], bool], *, otherwise: str) -> K | None:
    """A kernel that gives what it should, or None.

    Where there is CUDA and yet no such kernel, the log says why, and what comes of it: `otherwise`.
    """
    if not mx.cuda.is_available():
        return None
    try:
        kernel = make()
        if is_right(kernel):
            return kernel
        reason = "it gives other numbers"
    except Exception as error:
        reason = str(error)
    log.warning("a kernel cannot be used, so %s: %s", otherwise, reason)
    return None

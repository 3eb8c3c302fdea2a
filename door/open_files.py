"""Open files: how many sockets and files this process may have, which is how many clients."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("mlx_server")

RESERVED = 64
"""Of the files that this process may have open, those that connections leave to others."""
WARN_EVERY_S = 60.0
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_warned_at = -math.inf


def stand_in_for_closed() -> None:
    """Open what is closed of standard input, output and error, or a socket would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def allow_many() -> int:
    """Raise the soft limit to the hard one. Returns the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says no to "without limit"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def max_connections() -> float:
    """How many connections may be open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if most == resource.RLIM_INFINITY else max(most - RESERVED, most // 2)


def warn_of_shortage() -> None:
    """Say, once a minute, that clients are turned away."""
    global _warned_at
    if time.monotonic() - _warned_at >= WARN_EVERY_S:
        _warned_at = time.monotonic()
        log.warning(
            "as many connections are open as this process may have; more are turned away "
            "(see ulimit -n)"
        )


def told_in_short(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio tells of each connection that it cannot take, told once; all else as it does."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in SHORTAGES and "socket" in context:
        warn_of_shortage()
    else:
        loop.default_exception_handler(context)


@contextlib.contextmanager
def limit_kept() -> Iterator[None]:
    """Keep the limits while something is imported that would set its own.

    mlx-lm lowers them for good where they are higher, and fails where they are lower.
    """
    set_limit = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = set_limit

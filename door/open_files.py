"""Open files: how many sockets and files this process may have, which is how many clients."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


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

"""Stacks: what every thread and every task is doing, told to stderr when SIGUSR1 asks.

The threads are told by C code, which needs neither the event loop nor the interpreter's lock, so
that a server that hangs tells where. The tasks follow as soon as Python runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import sys
from types import FrameType


def tell_on_signal() -> None:
    """Answer SIGUSR1, from now on. For the main thread, before the event loop runs."""
    signal.signal(signal.SIGUSR1, _tell_tasks)
    # Registered over it: this one answers first, then calls the one before.
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True, chain=True)


def _tell_tasks(number: int, frame: FrameType | None) -> None:
    # No loop runs yet, or no longer; or stderr is closed.
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        tasks = asyncio.all_tasks()
        print(f"\n{len(tasks)} tasks:", file=sys.stderr)
        for task in tasks:
            task.print_stack(file=sys.stderr)
        print("End of the stacks.", file=sys.stderr, flush=True)

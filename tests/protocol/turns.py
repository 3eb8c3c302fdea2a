"""Turns to fill a store with, a clock that moves when told, and an os that fails when told."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from parts import NotFound
from protocol import archive
from protocol.conversations import Store
from protocol.items import Item, new_id
from protocol.tree import Timings

T = TypeVar("T")
DISK_CALLS = (
    *("open", "write", "fsync", "close", "rename"),
    *("unlink", "listdir", "makedirs", "fchmod", "fstat"),
)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def question(text: str) -> Item:
    content = [{"type": "input_text", "text": text}]
    return {"id": new_id("msg"), "type": "message", "role": "user", "content": content}


def answer(text: str) -> list[Item]:
    thought = [{"type": "reasoning_text", "text": f"thinking of {text}"}]
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return [
        {"id": new_id("rs"), "type": "reasoning", "summary": [], "content": thought},
        {"id": new_id("msg"), "type": "message", "role": "assistant", "content": content},
    ]


def response(id: str, output: list[Item], status: str = "completed") -> dict[str, Any]:
    return {
        "id": id,
        "object": "response",
        "created_at": 1795357805,
        "status": status,
        "model": "demo",
        "output": output,
        "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
    }


def say(store: Store, text: str, **continued: Any) -> str:
    """One whole turn; the id of its response."""
    with store.begin(**continued) as draft:
        timings = Timings(0.25, 1.5, 40.0)
        draft.remember(response(draft.id, answer(text.upper())), [question(text)], timings)
    return draft.id


def words(items: list[Item]) -> list[str]:
    """What was said in some items, thoughts aside."""
    return [item["content"][0]["text"] for item in items if item["type"] == "message"]


def heard(store: Store, id: str, owner: str = "") -> list[str]:
    """What the model would read if this response were continued, revived if need be."""
    with revived(store, id, lambda: store.begin(previous_response_id=id, owner=owner)) as draft:
        return words(draft.recall())


def revived(store: Store, name: str, ask: Callable[[], T]) -> T:
    """Ask as the door does: once more when it was not in memory."""
    try:
        return ask()
    except NotFound:
        store.revive(name)
        return ask()


class FaultyOs:
    """The os module, until a given call of those that reach the disk: that one goes wrong."""

    def __init__(self, fault: Callable[[str, tuple[Any, ...]], None], at: int) -> None:
        self.num_calls = 0
        self._fault = fault
        self._at = at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in DISK_CALLS:
            return real

        def call(*args: Any, **options: Any) -> Any:
            self.num_calls += 1
            if self.num_calls == self._at:
                self._fault(name, args)
            return real(*args, **options)

        return call


@contextmanager
def faulty_disk(fault: Callable[[str, tuple[Any, ...]], None], at: int) -> Iterator[FaultyOs]:
    """Let one of the archive's calls go wrong."""
    with pytest.MonkeyPatch.context() as patch:
        faulty = FaultyOs(fault, at)
        patch.setattr(archive, "os", faulty)
        yield faulty


def no_space(name: str, args: tuple[Any, ...]) -> None:
    """The call fails; what can be written before the disk is full is written."""
    if name == "write":
        os.write(args[0], args[1][: len(args[1]) // 2])
    if name == "close":
        os.close(args[0])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sudden_death(name: str, args: tuple[Any, ...]) -> None:
    """kill -9 before the call, or in the middle of a write."""
    if name == "write":
        os.write(args[0], args[1][: len(args[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

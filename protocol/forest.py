"""The forest is every conversation there is: trees in memory, bounded, and the rest in the archive.

Knows how trees come into memory, leave it, are listed and erased; not what is said in them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict

from parts import NotFound, Unavailable
from protocol.archive import Archive, Filed, NotFlushed
from protocol.live import Live, LiveTrees
from protocol.pages import Page, page_of
from protocol.tree import Summary, Tree, Turn

log = logging.getLogger(__name__)

TTL = 3600.0
MAX_CONVERSATIONS = 10_000
MAX_BYTES = 256 << 20
WANTED_FOR = 10.0
"""Seconds for which a revived conversation waits for the request that wanted it."""
WARN_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A conversation in the list of all."""

    summary: Summary
    file: str | None
    """Its name in the archive, when it is only there."""


class Options(TypedDict, total=False):
    """What a forest may be told beside its archive."""

    ttl: float
    max_conversations: int
    max_bytes: int
    can_revive: bool
    clock: Callable[[], float]
    now: Callable[[], float]


class Forest:
    """Conversations in memory, bounded in time, number and bytes; the rest lies in the archive.

    Its locks, all of them:

        _memory   guards every field. Held for moments and never during file work, so the event
                  loop may wait for it.
        _disk     makes file work one thing at a time; the archive has no lock of its own. Held for
                  one file, taken before `_memory` and never while holding it.

    A conversation is archived from a copy and leaves memory under both locks, after a second look:
    whoever continued it by then keeps it here, whoever comes later finds it archived. Deleting
    holds `_disk` throughout, so that no older copy is written over what it wrote.

    File work is done by `open`, `index_some`, `revive`, `sweep`, `flush`, all that looks at the
    whole and all that deletes: call these from a thread. The rest is for the event loop.
    """

    def __init__(
        self,
        archive: Archive | None = None,
        *,
        ttl: float = TTL,
        max_conversations: int = MAX_CONVERSATIONS,
        max_bytes: int = MAX_BYTES,
        can_revive: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.ttl = ttl
        self.max_conversations = max_conversations
        self.max_bytes = max_bytes
        self.can_revive = can_revive
        self.num_lost = 0
        """Conversations that had to be dropped because they could not be archived."""
        self._archive = archive
        self._clock = clock
        self._now = now
        self._warned_at = float("-inf")
        self._memory = threading.Lock()
        self._disk = threading.Lock()
        self._trees = LiveTrees()

    @property
    def num_conversations(self) -> int:
        return len(self._trees)

    @property
    def num_bytes(self) -> int:
        return self._trees.num_bytes

    @property
    def is_over(self) -> bool:
        """Whether room is short, and a `sweep` due."""
        return self.num_bytes > self.max_bytes or len(self._trees) > self.max_conversations

    @property
    def archive_state(self) -> str:
        """What `/health` says of the archive: ok, off, or failing and why."""
        return "off" if self._archive is None else self._archive.state

    # Looking

    def listing(
        self, *, after: str | None = None, limit: int = 20, owner: str = ""
    ) -> Page[Listed]:
        """All conversations, the last used first. Does file work.

        Raises `InvalidRequest` for `after` and `limit`.
        """
        return page_of(self.listed(owner), lambda each: each.summary.id, after=after, limit=limit)

    def listed(self, owner: str = "") -> list[Listed]:
        """All conversations, in memory or archived, the last used first. Does file work."""
        with self._disk:
            filed = self._archive.all_filed() if self._archive else []
            entries = {
                each.summary.id: Listed(each.summary, each.name)
                for each in filed
                if each.owner == owner
            }
            with self._memory:
                lives = [live for live in self._trees if live.tree.owner == owner]
            entries |= {live.tree.id: Listed(self._summary(live), None) for live in lives}
        return sorted(entries.values(), key=_age, reverse=True)

    def look(self, tree_id: str, owner: str = "") -> Tree | None:
        """A copy of a conversation, which stays where it is. Does file work."""
        with self._disk:
            with self._memory:
                live = self._trees.get(tree_id)
                if live is not None:
                    tree = live.tree.copy()
                    # One that was deleted stays, empty, while a response to it is written.
                    return tree if tree.owner == owner and not tree.is_empty else None
            filed = self._archive.tree(tree_id) if self._archive else None
            read = self._archive.load(filed) if self._archive and filed else None
            return read if read and read.owner == owner else None

    def tree_id(self, name: str, owner: str = "") -> str | None:
        """The conversation that a response, item or conversation object is in. Does file work."""
        with self._disk:
            with self._memory:
                place = self._trees.find(name)
            if place is not None:
                return place[0].tree.id if place[0].tree.owner == owner else None
            filed = self._archive.find(name) if self._archive else None
            return filed.summary.id if filed and filed.owner == owner else None

    def archived_text(self, listed: Listed) -> bytes:
        """What the file of an archived conversation says; empty when it is gone. Does file work."""
        with self._disk:
            filed = self._archive.tree(listed.summary.id) if self._archive else None
            return self._archive.text(filed) if self._archive and filed else b""

    def _summary(self, live: Live) -> Summary:
        with self._memory:
            if live.summary is not None and live.summary_version == live.version:
                return live.summary
            version, tree = live.version, live.tree.copy()
        # Reading a question of a megabyte takes a while: not under the lock.
        live.summary, live.summary_version = tree.summary(), version
        return live.summary

    # Life and death

    def open(self) -> None:
        """List the archive; the files are read by `index_some`. Does file work."""
        with self._disk:
            if self._archive is not None:
                self._archive.open()

    def index_some(self) -> bool:
        """Index some of the archive; False while there is more. Does file work."""
        with self._disk:
            return self._archive is None or self._archive.index_some()

    def revive(self, name: str, *, owner: str = "") -> None:
        """Bring the conversation of an archived response, item or conversation back to memory.

        Harmless when it is there, unknown, or not to be revived. Does file work.
        """
        with self._disk:
            with self._memory:
                place = self._place(name, owner)
                if place is not None:
                    place[0].wanted_until = self._clock() + WANTED_FOR
                    return
            tree = self._archived(name, owner, is_read=self.can_revive)
            if tree is not None:
                now = self._clock()
                live = Live(tree, now, saved_version=1, wanted_until=now + WANTED_FOR)
                with self._memory:
                    self._trees.adopt(live)

    def sweep(self) -> None:
        """Archive what has expired or finds no room, and drop it from memory. Does file work."""
        while (live := self._next_to_leave()) is not None and self._retire(live):
            pass

    def flush(self) -> int:
        """Archive everything and keep it; how many could not be archived. Does file work."""
        with self._memory:
            lives = list(self._trees)
        num_failed = 0
        for live in lives:
            with self._disk:
                num_failed += not self._save(live)
        return num_failed

    def _next_to_leave(self) -> Live | None:
        with self._memory:
            for live in self._trees:
                if not self.is_over and not self._has_expired(live):
                    return None
                if self._may_leave(live):
                    return live
            return None

    def _has_expired(self, live: Live) -> bool:
        return self._clock() - live.last_used >= self.ttl

    def _may_leave(self, live: Live) -> bool:
        is_free = not live.held and live.wanted_until <= self._clock()
        return live in self._trees and is_free and (self.is_over or self._has_expired(live))

    def _retire(self, live: Live) -> bool:
        """Whether to go on with the next: not when the archive fails and there is room."""
        with self._disk:
            is_archived = self._save(live)
            with self._memory:
                if not is_archived and not self.is_over:
                    return False
                if self._may_leave(live) and (live.is_saved or not is_archived):
                    self._trees.drop(live)
                    self._note_loss(not is_archived)
                return True

    def _save(self, live: Live) -> bool:
        """Whether the archive, if there is one, has what was in memory a moment ago."""
        with self._memory:
            if self._archive is None:
                live.saved_version = live.version
            if live.is_saved or live not in self._trees:
                return True
            version, tree = live.version, live.tree.copy()
        try:
            self._put(tree)
        except OSError:
            return False
        except Exception as error:  # one that cannot be written must not keep others from it
            log.error("conversation %s cannot be written: %s", tree.id, type(error).__name__)
            with self._memory:
                if live in self._trees:
                    self._trees.touch(live, self._clock())
            return False
        live.saved_version = version
        return True

    def _put(self, tree: Tree) -> None:
        assert self._archive is not None
        if tree.is_empty:
            self._archive.remove(tree)
        else:
            self._archive.save(tree)

    def _note_loss(self, is_lost: bool) -> None:
        self.num_lost += is_lost
        if is_lost and self._clock() - self._warned_at >= WARN_EVERY:
            self._warned_at = self._clock()
            log.warning(
                "memory is full and the archive fails: %d conversations were dropped so far",
                self.num_lost,
            )

    def _archived(self, name: str, owner: str, *, is_read: bool = True) -> Tree | None:
        if self._archive is None:
            return None
        filed = self._archive.find(name)
        if filed is None or filed.owner != owner or not is_read:
            return None
        tree = self._archive.load(filed)
        return tree if tree and tree.owner == owner and name in tree.names() else None

    def _erase(self, name: str, owner: str, absent: NotFound, cut: Callable[[Tree], bool]) -> Tree:
        """Cut something out of a tree: on disk first, so that a failure leaves all as it was."""
        with self._disk:
            with self._memory:
                place = self._place(name, owner)
                before = place[0].tree.copy() if place else None
            before = before or self._archived(name, owner)
            if before is None:
                raise absent
            after = before.copy()
            if not cut(after):
                raise absent
            after.prune()
            self._rewrite(before, after)
            if place is not None:
                with self._memory:
                    self._change(place[0], cut)
            return after

    def _rewrite(self, before: Tree, after: Tree) -> None:
        if self._archive is None or not self._archive.has(before.id):
            return
        try:
            self._put(after)
        except NotFlushed:
            pass
        except OSError:
            raise Unavailable(
                "Nothing was deleted: the archive cannot be changed at the moment. Try again later."
            ) from None
        self._archive.forget(before.names() - after.names())

    # Under `_memory`

    def _change(self, live: Live, change: Callable[[Tree], object]) -> None:
        if live in self._trees:
            self._trees.change(live, change)

    def _wall(self) -> float:
        return max(0.0, round(self._now(), 6))

    def _place(self, name: str, owner: str) -> tuple[Live, Turn | None] | None:
        place = self._trees.find(name)
        if place is None or place[0].tree.owner != owner:
            return None
        self._trees.touch(place[0], self._clock())
        return place

    def _filed(self, name: str, owner: str) -> Filed | None:
        filed = self._archive.filed(name) if self._archive else None
        return filed if filed and filed.owner == owner else None


def _age(listed: Listed) -> tuple[float, str]:
    return listed.summary.updated_at, listed.summary.id


def absent(what: str, name: str, param: str, filed: Filed | None = None) -> NotFound:
    return NotFound(absence(what, name, filed), param=param)


def absence(what: str, name: str, filed: Filed | None) -> str:
    if filed is None:
        return f"{what} with id '{name[:64]}' not found."
    expired = datetime.fromtimestamp(filed.archived_at, UTC)
    return (
        f"{what} with id '{name}' expired at {expired:%Y-%m-%dT%H:%M:%SZ}; "
        f"it lies in the archive, in {filed.name}."
    )

"""The archive keeps conversations on disk: one JSON file each, in a folder closed to others.

A file is written beside its place, flushed and renamed, so that whoever looks, at any moment and
after any crash, sees the old conversation or the new one. Files that are not ours or not whole are
left alone: never read as conversations, never deleted. Links are not followed.

Everything here but `state`, `complaint` and `filed` does file work, and nothing here is locked: its
one owner calls it from one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from protocol import record
from protocol.record import Malformed
from protocol.tree import Summary, Tree

log = logging.getLogger(__name__)

NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ_((?:resp|conv)_[0-9a-f]{32})\.json")
TEMPORARY = re.compile(rf"\.{NAME.pattern}\.[0-9a-f]{{16}}\.tmp")
MAX_FILE_BYTES = 1 << 30
WARN_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Filed:
    """A conversation in the archive, as the index knows it."""

    name: str
    owner: str
    archived_at: float
    summary: Summary


class NotFlushed(OSError):
    """The change was made, but losing power now may undo it."""


class Archive:
    """Conversations in a folder, and an index of what lies in which file.

    The index takes some hundred bytes of memory an archived response.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.folder = folder
        self.complaint = ""
        """Why nothing can be archived at the moment; empty when all is well."""
        self._clock = clock
        self._now = now
        self._max_file_bytes = max_file_bytes
        self._warned_at = float("-inf")
        self._unread: list[str] | None = None
        """Names of the files that are not indexed yet, the newest last; None before `open`."""
        self._filed: dict[str, Filed] = {}
        self._tree_ids: dict[str, str] = {}
        """The tree in which each response, item and conversation is."""

    @property
    def state(self) -> str:
        """What `/health` says of it."""
        return f"failing: {self.complaint}" if self.complaint else "ok"

    def open(self) -> None:
        """List the folder and sweep what a crash left half-written; reads no file.

        A folder that cannot be listed makes `state` say so, and is tried again when next needed.
        """
        try:
            with self._opened(create=True) as folder:
                names = os.listdir(folder)
                self._sweep(folder, names)
        except OSError as error:
            self._complain(error)
            return
        self._recover()
        self._unread = sorted(name for name in names if NAME.fullmatch(name))
        num_foreign = sum(not name.startswith(".") for name in names) - len(self._unread)
        if num_foreign:
            log.warning("%d files in the archive are not ours and are ignored", num_foreign)

    def index_some(self, num_files: int = 20) -> bool:
        """Index the next files, the newest first. False while there are more."""
        if self._unread is None:
            self.open()
        for _ in range(num_files):
            if not self._unread:
                return True
            self._index(self._unread.pop())
        return not self._unread

    def filed(self, name: str) -> Filed | None:
        """What the index has so far on a response, item or conversation. Does no file work."""
        tree_id = self._tree_ids.get(name)
        return None if tree_id is None else self._filed.get(tree_id)

    def find(self, name: str) -> Filed | None:
        """Where a response, item or conversation lies; completes the index as far as needed."""
        while (filed := self.filed(name)) is None:
            if self.index_some(1):
                return self.filed(name)
        return filed

    def has(self, tree_id: str) -> bool:
        """Whether a tree has a file; completes the index as far as needed."""
        return self.tree(tree_id) is not None

    def tree(self, tree_id: str) -> Filed | None:
        """Where the tree of this id lies; completes the index as far as needed."""
        while tree_id not in self._filed:
            if self.index_some(1):
                break
        return self._filed.get(tree_id)

    def all_filed(self) -> list[Filed]:
        """Every conversation in the archive; completes the index."""
        while not self.index_some():
            pass
        return list(self._filed.values())

    def load(self, filed: Filed) -> Tree | None:
        """Read a conversation back; None when its file is gone, or not right any more."""
        read = self._read(filed.name)
        return None if read is None else read[0]

    def text(self, filed: Filed) -> bytes:
        """What a conversation's file says, unread; empty when it is gone or cannot be read."""
        try:
            with self._opened() as folder:
                return _read_regular(folder, filed.name, self._max_file_bytes)
        except (Malformed, OSError):
            return b""

    def save(self, tree: Tree) -> None:
        """Write a conversation in place of what its file said before.

        Raises:
            OSError: it cannot be written; what was there before still is, unless `NotFlushed`.
        """
        archived_at = self._now()
        text = record.render(tree, archived_at)
        name = file_name(tree)
        try:
            with self._opened(create=True) as folder:
                self._write(folder, name, text)
                self._enter(name, tree, archived_at)
                _flush(folder)
        except OSError as error:
            self._complain(error)
            raise
        self._recover()

    def remove(self, tree: Tree) -> None:
        """Remove a conversation's file for good, if it has one. Raises as `save` does."""
        try:
            with self._opened() as folder:
                os.unlink(file_name(tree), dir_fd=folder)
                self._filed.pop(tree.id, None)
                _flush(folder)
        except FileNotFoundError:
            self._filed.pop(tree.id, None)
        except OSError as error:
            self._complain(error)
            raise

    @contextlib.contextmanager
    def _opened(self, *, create: bool = False) -> Iterator[int]:
        if create:
            with contextlib.suppress(FileExistsError):
                os.makedirs(self.folder, mode=0o700)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if create and stat.S_IMODE(os.fstat(folder).st_mode) & 0o077:
                # Somebody else's folder, a mounted volume, stays as it is; the files are private.
                with contextlib.suppress(PermissionError):
                    os.fchmod(folder, 0o700)
            yield folder
        finally:
            with contextlib.suppress(OSError):
                os.close(folder)

    def _sweep(self, folder: int, names: list[str]) -> None:
        for name in filter(TEMPORARY.fullmatch, names):
            with contextlib.suppress(OSError):
                if not _is_being_written(folder, name):
                    os.unlink(name, dir_fd=folder)
                    log.info("removed %s, which was never finished", name)

    # Writing

    def _write(self, folder: int, name: str, text: bytes) -> None:
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        try:
            with _new_file(folder, temporary) as file:
                _write_all(file, text)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise

    def _complain(self, error: OSError) -> None:
        self.complaint = error.strerror or type(error).__name__
        if self._clock() - self._warned_at >= WARN_EVERY:
            self._warned_at = self._clock()
            log.warning("conversations stay in memory: the archive fails: %s", self.complaint)

    def _recover(self) -> None:
        if self.complaint:
            log.info("the archive works again")
        self.complaint = ""

    # Reading

    def _index(self, name: str) -> None:
        read = self._read(name)
        if read is not None and read[0].id not in self._filed:
            self._enter(name, *read)

    def _read(self, name: str) -> tuple[Tree, float] | None:
        try:
            with self._opened() as folder:
                text = _read_regular(folder, name, self._max_file_bytes)
            tree, archived_at = record.parse(text)
            if file_name(tree) != name:
                raise Malformed("its name is another's")
        except FileNotFoundError:
            return None
        except (Malformed, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("%s in the archive is ignored: %s", name, reason)
            return None
        return tree, archived_at

    # The index

    def _enter(self, name: str, tree: Tree, archived_at: float) -> None:
        self._filed[tree.id] = Filed(name, tree.owner, archived_at, tree.summary())
        for known in tree.names():
            self._tree_ids.setdefault(known, tree.id)

    def forget(self, names: set[str]) -> None:
        """Take deleted ids out of the index. Does no file work."""
        for name in names:
            self._tree_ids.pop(name, None)


def file_name(tree: Tree) -> str:
    """The name of a conversation's file: when it began and its id, nothing that a client chose."""
    created = datetime.fromtimestamp(tree.created_at, UTC)
    return f"{created:%Y-%m-%dT%H-%M-%SZ}_{tree.id}.json"


@contextlib.contextmanager
def _new_file(folder: int, name: str) -> Iterator[int]:
    """A file that is locked for as long as it is open, so that no other server sweeps it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        with contextlib.suppress(OSError):  # some network folders have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
    finally:
        with contextlib.suppress(OSError):  # what had to be flushed has been
            os.close(file)


def _write_all(file: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _is_being_written(folder: int, name: str) -> bool:
    """Whether another server, on the same folder, has a file open to write it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _flush(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network folders have nothing to flush and say so.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise NotFlushed(error.errno, error.strerror) from error


def _read_regular(folder: int, name: str, max_bytes: int) -> bytes:
    # Not blocking, or a pipe that somebody put there would hold us for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=folder)
    with open(file, "rb") as reader:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Malformed("it is not a file")
        if found.st_size > max_bytes:
            raise Malformed("it is too big")
        return reader.read(max_bytes)

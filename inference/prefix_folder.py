"""The prefix folder keeps prefixes on the disk, so that a restart does not lose them.

A thread of its own writes, reads ahead and looks the folder through; whoever asks waits for none of
it, except for `load`. What goes wrong on the disk is a miss, never an error.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from inference import prefix_file
from inference.cache_layers import Cache
from inference.prefix_file import NAME, PARTIAL, PrefixFile, Unusable
from inference.token_tree import WIDTH, TokenTree

log = logging.getLogger(__name__)

_OFF_S = 60.0
"""How long nothing is written after something went wrong."""
_MAX_HURRIED = 2**30
"""Bytes that may wait for the disk after the memory cache let them go."""
_HEADER_BYTES = 2**16
"""What a file may have in front of its arrays, besides the tokens."""


@dataclass(slots=True, eq=False)
class _Unsaved:
    cache: Cache
    num_bytes: int
    due: float


class PrefixFolder:
    """Files of one model's prefixes, least recently used first to go. Any thread may ask.

    `max_bytes` bounds all prefix files in the folder, those of other models too.
    """

    def __init__(self, path: Path, key: str, *, max_bytes: int, idle_s: float = 10.0) -> None:
        self.path = path
        self._key = key
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        """How long a prefix waits for a longer one to take its place before it is written."""
        self._changed = threading.Condition()
        self._tree: TokenTree[PrefixFile] = TokenTree()
        self._unsaved: dict[bytes, _Unsaved] = {}
        self._wanted: deque[PrefixFile] = deque()
        self._arrived: list[tuple[bytes, Cache]] = []
        self._is_closing = False
        self._is_indexed = False
        self._folder = -1
        self._off_until = 0.0
        self._has_warned = False
        self._thread = threading.Thread(target=self._run, name="prefix folder", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __len__(self) -> int:
        with self._changed:
            return len(_files(self._tree))

    def find(self, tokens: bytes) -> tuple[PrefixFile | None, int]:
        """Give the file that serves most of a prompt, and how many of its tokens."""
        with self._changed:
            return self._tree.walk(tokens).best()

    def put(self, tokens: bytes, cache: Cache, num_bytes: int) -> None:
        """Have a cache written when it has not been replaced for a while."""
        unsaved = _Unsaved(list(cache), num_bytes, time.monotonic() + self._idle_s)
        with self._changed:
            if not self._is_closing:
                self._unsaved[tokens] = unsaved
                self._changed.notify_all()

    def forget(self, tokens: bytes) -> None:
        """Do not write a cache any more."""
        with self._changed:
            self._unsaved.pop(tokens, None)

    def hurry(self, tokens: bytes) -> None:
        """Write a cache now, if it is still to be written: its memory is wanted.

        When the disk is too slow for that, it is not written at all.
        """
        with self._changed:
            if tokens not in self._unsaved:
                return
            hurried = (u.num_bytes for u in self._unsaved.values() if u.due == 0.0)
            if sum(hurried) >= _MAX_HURRIED:
                del self._unsaved[tokens]
                return
            self._unsaved[tokens].due = 0.0
            self._changed.notify_all()

    def load(self, file: PrefixFile) -> Cache | None:
        """Read a file that `find` gave. None, and the file is gone, if it cannot be used."""
        try:
            cache = prefix_file.read(self._folder, self.path, file)
            os.utime(file.name, dir_fd=self._folder)
        except (OSError, Unusable) as error:
            log.debug("a prefix file is dropped: %s", error)
            self._drop(file)
            return None
        return cache

    def fetch(self, file: PrefixFile) -> None:
        """Have a file read; `arrived` gives it later."""
        with self._changed:
            if file not in self._wanted and not self._is_closing:
                self._wanted.append(file)
                self._changed.notify_all()

    def is_coming(self, file: PrefixFile) -> bool:
        """Whether a file that was fetched is still to arrive."""
        with self._changed:
            return file in self._wanted

    def arrived(self) -> list[tuple[bytes, Cache]]:
        """Give what was read since the last time: tokens and their caches."""
        with self._changed:
            found, self._arrived = self._arrived, []
        return found

    def wait_until_indexed(self, timeout_s: float) -> bool:
        """Wait until the files that are there are known. Returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_indexed, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is unsaved, as long as time allows, and stop."""
        atexit.unregister(self.close)
        with self._changed:
            self._is_closing = True
            self._wanted.clear()
            self._changed.notify_all()
        self._thread.join(timeout_s)

    # The thread

    def _run(self) -> None:
        self._guarded(self._open)
        with self._changed:
            self._is_indexed = True
            self._changed.notify_all()
        while (work := self._next()) is not None:
            self._guarded(work)

    def _guarded(self, work: Callable[[], None]) -> None:
        """The thread outlives whatever a disk, a folder's files or a device can do to it."""
        try:
            work()
        except Exception as error:
            self._pause(error)
            with self._changed:
                self._wanted.clear()

    def _open(self) -> None:
        try:
            self._folder = _open_private(self.path)
        except OSError as error:
            log.warning("The prompt cache is not kept on the disk: %s", error)
            return
        self._index()

    def _index(self) -> None:
        """Learn what is there. What is ours and damaged is deleted; what is not ours stays."""
        names = os.listdir(self._folder)
        for name in filter(PARTIAL.fullmatch, names):
            prefix_file.remove_torn(self._folder, name)
        for name in names:
            match = NAME.fullmatch(name)
            if match is None or match["key"] != self._key or self._is_closing:
                continue
            try:
                self._add(prefix_file.read_header(self._folder, name))
            except (OSError, Unusable) as error:
                log.debug("the prefix file %s is dropped: %s", name, error)
                prefix_file.remove(self._folder, name)

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do; None when it is time to stop."""
        with self._changed:
            while True:
                if self._wanted:
                    return self._fetch_one
                if not self._unsaved:
                    if self._is_closing:
                        return None
                    self._changed.wait()
                    continue
                tokens, unsaved = min(self._unsaved.items(), key=lambda item: item[1].due)
                wait = unsaved.due - time.monotonic()
                if self._is_closing or wait <= 0:
                    del self._unsaved[tokens]
                    return lambda: self._save(tokens, unsaved)
                self._changed.wait(wait)

    def _fetch_one(self) -> None:
        with self._changed:
            if not self._wanted:
                return
            file = self._wanted[0]
        cache = self.load(file)
        with self._changed:
            if file in self._wanted:
                self._wanted.remove(file)
                if cache is not None:
                    self._arrived.append((file.tokens, cache))

    def _save(self, tokens: bytes, unsaved: _Unsaved) -> None:
        if self._folder < 0 or time.monotonic() < self._off_until:
            return
        room = unsaved.num_bytes + 2 * len(tokens) + _HEADER_BYTES
        if room > self._max_bytes or self._is_there(tokens):
            return
        try:
            self._make_room(room)
            self._add(prefix_file.write(self._folder, self._key, tokens, unsaved.cache))
            self._has_warned = False
        except Unusable as error:
            log.debug("a prefix is not written: %s", error)

    def _pause(self, error: Exception) -> None:
        self._off_until = time.monotonic() + _OFF_S
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "The prompt cache cannot use %s for now: %s", self.path, str(error) or repr(error)
            )

    def _is_there(self, tokens: bytes) -> bool:
        file, length = self.find(tokens)
        if file is None or length * WIDTH != len(tokens):
            return False
        with contextlib.suppress(OSError):
            os.utime(file.name, dir_fd=self._folder)
            return True
        self._drop(file)
        return False

    def _make_room(self, num_bytes: int) -> None:
        """Delete files, the least recently used first, until a new one fits under the limit."""
        files = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    found = entry.stat(follow_symlinks=False)
                    files.append((found.st_mtime_ns, found.st_size, entry.name))
        total = sum(size for _, size, _ in files)
        known = {file.name: file for file in self._known()}
        for _, size, name in sorted(files):
            if total + num_bytes <= self._max_bytes:
                return
            prefix_file.remove(self._folder, name)
            total -= size
            if name in known:
                self._drop(known[name])

    def _known(self) -> list[PrefixFile]:
        with self._changed:
            return _files(self._tree)

    def _add(self, file: PrefixFile) -> None:
        """Take a file into the index, in the place of those for whose prompts it stands too."""
        with self._changed:
            node = self._tree.place(file.tokens)
            replaced = [node] if node.value is not None else []
            if file.can_trim:
                replaced += [above for above in node.ancestors() if above.value is not None]
            names = [above.value.name for above in replaced if above.value is not None]
            node.is_kept = True
            for above in replaced:
                self._tree.take(above)
            node.is_kept = False
            self._tree.put(node, file)
        for name in names:
            if name != file.name:
                prefix_file.remove(self._folder, name)

    def _drop(self, file: PrefixFile) -> None:
        if self._folder >= 0:
            prefix_file.remove(self._folder, file.name)
        with self._changed:
            node = self._tree.walk(file.tokens).passed[-1]
            if node.value is file:
                self._tree.take(node)


def key_of(files: Iterable[Path], *facts: str) -> str:
    """Name a model by its files: their places, sizes, times and a sample of their bytes.

    `facts` is what else decides what its caches hold. Raises OSError.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for path in files:
        real = path.resolve()
        found = real.stat()
        digest.update(repr((str(real), found.st_size, found.st_mtime_ns)).encode())
        with real.open("rb") as file:
            for at in range(0, found.st_size, max(found.st_size // 64, 4096)):
                file.seek(at)
                digest.update(file.read(4096))
    return digest.hexdigest()[:16]


def _open_private(path: Path) -> int:
    """Open the folder, which only its owner may look into; make it if there is none.

    Raises:
        OSError: it is a link, someone else's, or holds other things and is open to others.
    """
    os.makedirs(path.parent, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(folder)
    if found.st_uid != os.geteuid():
        os.close(folder)
        raise PermissionError(f"{path} belongs to another user.")
    if stat.S_IMODE(found.st_mode) != 0o700:
        if not all(NAME.fullmatch(n) or PARTIAL.fullmatch(n) for n in os.listdir(folder)):
            os.close(folder)
            raise PermissionError(f"{path} holds other things, and others may look into it.")
        os.fchmod(folder, 0o700)
    return folder


def _files(tree: TokenTree[PrefixFile]) -> list[PrefixFile]:
    found, nodes = [], [tree.root]
    while nodes:
        node = nodes.pop()
        nodes += node.children.values()
        if node.value is not None:
            found.append(node.value)
    return found

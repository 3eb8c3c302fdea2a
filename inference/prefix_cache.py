"""The prefix cache keeps the KV caches of prompts already computed, found again by their tokens.

A match is by the tokens themselves, so that no two prompts can be mistaken for one another. What is
found on the disk is taken in from there.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from inference.cache_layers import Cache, can_trim, compact, num_bytes, trimmed
from inference.prefix_file import PrefixFile
from inference.prefix_folder import PrefixFolder
from inference.token_tree import WIDTH, Node, TokenTree, Walk, packed

log = logging.getLogger(__name__)

_SHORTEST = 16
"""Tokens; what is shorter is computed faster than it is kept."""
_WORTH_READING = 256
"""Tokens that a file must serve beyond what is in memory, for it to be read."""
_WORTH_TELLING = 1024
"""Tokens to compute, from which on the log says so to everybody."""
_MAX_KNOWN_TOKENS = 4 * 2**20
"""From how many tokens on, four bytes each, prompts without a cache are forgotten."""
_MAX_KNOWN = 2**14
"""How many prompts are remembered without a cache."""


@dataclass(slots=True, eq=False)
class _Entry:
    cache: Cache
    num_bytes: int
    can_trim: bool
    node: Node[_Entry]


class PrefixCache:
    """Entries bounded in bytes, the least recently used first to go. Lives on the GPU thread.

    An entry where several prompts part ways, such as a system prompt, goes last. A cache that can
    be trimmed stands for all of its prefixes; when the last one goes that stood for a prefix which
    several prompts share, that prefix stays.
    """

    def __init__(self, max_bytes: int, folder: PrefixFolder | None = None) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._folder = folder
        self._tree: TokenTree[_Entry] = TokenTree()
        self._own: OrderedDict[_Entry, None] = OrderedDict()
        """Entries of one prompt; most recently used last."""
        self._shared: OrderedDict[_Entry, None] = OrderedDict()
        """Entries where several prompts were seen to part ways; most recently used last."""
        self._num_shared_bytes = 0
        self._known: OrderedDict[Node[_Entry], None] = OrderedDict()
        """Where prompts ended whose tokens are remembered, with or without a cache."""
        self._can_all_be_trimmed = True

    @property
    def has_folder(self) -> bool:
        """Whether another thread reads what is kept, to write it to the disk."""
        return self._folder is not None

    def __len__(self) -> int:
        return len(self._own) + len(self._shared)

    def match(self, tokens: Sequence[int]) -> tuple[Cache | None, int]:
        """Find the longest prefix of `tokens` that was computed before.

        Returns a cache of the caller's own and the number of tokens that it holds, at least one
        less than `tokens` has: the last one must be computed to know what follows.
        """
        if len(tokens) <= _SHORTEST or self.max_bytes <= 0:
            return None, 0
        whole = packed(tokens)
        wanted = whole[:-WIDTH]
        self._read(wanted)
        walk = self._tree.walk(wanted)
        entry, length = walk.best()
        self._tell(whole, length if length >= _SHORTEST else 0)
        found: Cache | None = None
        if entry is not None and length >= _SHORTEST:
            self._touch(entry)
            found = trimmed(entry.cache, entry.node.end - length)
        self._remember(whole)
        return found, length if found is not None else 0

    def peek(self, tokens: Sequence[int]) -> int:
        """Say how many tokens a match would give, and change nothing."""
        if len(tokens) <= _SHORTEST or self.max_bytes <= 0:
            return 0
        return self._reach(packed(tokens[:-1]))

    def fetch(self, tokens: Sequence[int]) -> bool:
        """Have what the disk knows of a prompt read in the background.

        Returns whether it `is_coming`: a match before it has come would read it again.
        """
        file = self._file_for(tokens)
        if file is None or self._folder is None:
            return False
        self._folder.fetch(file)
        return True

    def is_coming(self, tokens: Sequence[int]) -> bool:
        """Whether what was fetched for a prompt is still being read."""
        file = self._file_for(tokens)
        return file is not None and self._folder is not None and self._folder.is_coming(file)

    def insert(self, tokens: Sequence[int], cache: Cache) -> None:
        """Keep `cache`, which holds exactly `tokens` and is not written to by anyone any more.

        With a folder, what is not computed yet is put under way: another thread will write it.
        """
        if len(tokens) >= _SHORTEST:
            self._insert(packed(tokens), list(cache), is_new=True)

    def checkpoints(self, tokens: Sequence[int]) -> list[int]:
        """Say after how many tokens of a prompt its cache is worth inserting on the way.

        Only where caches cannot be trimmed: there a prefix that an earlier prompt shares is of use
        only if a cache was kept that ends right there.
        """
        if self._can_all_be_trimmed or len(tokens) <= _SHORTEST:
            return []
        whole = packed(tokens)
        shared = self._known_prefix(whole)
        is_new = shared >= self._reach(whole[:-WIDTH]) + _SHORTEST
        return [shared] if is_new and shared < len(tokens) else []

    def why_missed(self, tokens: Sequence[int]) -> str:
        """Say in one sentence how much of a prompt is found, and why not more."""
        return self._why(packed(tokens), self.peek(tokens))

    def shrink(self, num_bytes: int) -> int:
        """Let the least valuable entries go until so many bytes are free. Returns those freed."""
        before = self.num_bytes
        while len(self) and before - self.num_bytes < num_bytes:
            self._evict(self._least_valuable(), is_urgent=True)
        return before - self.num_bytes

    def close(self) -> None:
        """Write to the disk what is not there yet."""
        if self._folder is not None:
            self._folder.close()

    # What is found

    def _reach(self, wanted: bytes) -> int:
        length = self._tree.walk(wanted).best()[1]
        _, on_disk = self._on_disk(wanted)
        length = max(length, on_disk)
        return length if length >= _SHORTEST else 0

    def _on_disk(self, wanted: bytes) -> tuple[PrefixFile | None, int]:
        """Give a file that serves much more of a prompt than what is in memory does."""
        if self._folder is None:
            return None, 0
        file, length = self._folder.find(wanted)
        if file is None or file.num_bytes > self.max_bytes:
            return None, 0
        if length < self._tree.walk(wanted).best()[1] + _WORTH_READING:
            return None, 0
        return file, length

    def _file_for(self, tokens: Sequence[int]) -> PrefixFile | None:
        if self._folder is None or len(tokens) <= _SHORTEST:
            return None
        self._take_in()
        return self._on_disk(packed(tokens[:-1]))[0]

    def _known_prefix(self, whole: bytes) -> int:
        """How many tokens a prompt shares with another, whose cache may be gone."""
        walk = self._tree.walk(whole)
        if walk.num_shared * WIDTH < len(whole):
            return walk.num_shared
        ends = (n.end for n in reversed(walk.passed) if n.branches or n in self._known)
        return next((end for end in ends if end * WIDTH < len(whole)), 0)

    def _why(self, whole: bytes, length: int) -> str:
        total, shared = len(whole) // WIDTH, self._known_prefix(whole)
        said = f"prefix of {length:,} of {total:,} tokens found; "
        if length + 1 == total:
            return said + "the last is always computed"
        if max(shared, length) < _SHORTEST:
            return said + "no earlier prompt begins like it"
        if shared <= length:
            return said + f"the nearest entry ends or differs at token {length:,}"
        if self._can_all_be_trimmed:
            return said + f"{shared:,} were known, and went to make room"
        return said + f"{shared:,} are known, but no cache was kept that ends there"

    def _tell(self, whole: bytes, length: int) -> None:
        num_missed = len(whole) // WIDTH - length
        level = logging.INFO if num_missed >= _WORTH_TELLING else logging.DEBUG
        if log.isEnabledFor(level):
            log.log(level, self._why(whole, length))

    def _touch(self, entry: _Entry) -> None:
        (self._own if entry in self._own else self._shared).move_to_end(entry)

    # What comes

    def _read(self, wanted: bytes) -> None:
        """Take in what the disk knows of a prompt, if that is much more than what is here."""
        if self._folder is None:
            return
        self._take_in()
        while (file := self._on_disk(wanted)[0]) is not None:
            cache = self._folder.load(file)
            if cache is not None:
                self._insert(file.tokens, cache, is_new=False)
                return

    def _take_in(self) -> None:
        if self._folder is not None:
            for tokens, cache in self._folder.arrived():
                self._insert(tokens, cache, is_new=False)

    def _insert(self, tokens: bytes, cache: Cache, *, is_new: bool) -> None:
        size = num_bytes(cache)
        if size > self.max_bytes:
            return
        can = can_trim(cache)
        self._can_all_be_trimmed &= can
        walk = self._tree.walk(tokens)
        if walk.last.stand_in is not None and walk.num_shared * WIDTH == len(tokens):
            self._touch(walk.last.stand_in)
            return
        if is_new and self._folder is not None:
            mx.async_eval([layer.state for layer in cache])
            self._folder.put(tokens, cache, size)
        self._replace(walk, tokens, is_all=can)
        entry = self._add(self._tree.place(tokens), cache, can)
        while self.num_bytes > self.max_bytes:
            self._evict(self._least_valuable(besides=entry))

    def _replace(self, walk: Walk[_Entry], tokens: bytes, *, is_all: bool) -> None:
        """Drop the entries for which a new one stands: the same prompt's, or all on its way."""
        for node in walk.passed:
            is_same = node.end * WIDTH == len(tokens)
            if node.value is not None and (is_all or is_same):
                if self._folder is not None and not is_same:
                    self._folder.forget(node.path())
                self._drop(node.value)

    def _add(self, node: Node[_Entry], cache: Cache, can: bool) -> _Entry:
        entry = _Entry(cache, num_bytes(cache), can, node)
        self._tree.put(node, entry)
        self._own[entry] = None
        self.num_bytes += entry.num_bytes
        return entry

    def _remember(self, tokens: bytes) -> None:
        """Know that a prompt was there. The oldest are forgotten first."""
        node = self._tree.place(tokens)
        node.is_kept = True
        self._known[node] = None
        self._known.move_to_end(node)
        while self._known and (
            self._tree.num_tokens > _MAX_KNOWN_TOKENS or len(self._known) > _MAX_KNOWN
        ):
            oldest, _ = self._known.popitem(last=False)
            oldest.is_kept = False
            self._tree.prune(oldest)

    # What goes

    def _least_valuable(self, besides: _Entry | None = None) -> _Entry:
        """Shared entries go last, as long as they leave half of the room to the others."""
        while self._num_shared_bytes <= self.max_bytes // 2 or not self._shared:
            oldest = next((entry for entry in self._own if entry is not besides), None)
            if oldest is None:
                break
            if not oldest.node.branches:
                return oldest
            self._share(oldest)
        return next(iter(self._shared))

    def _share(self, entry: _Entry) -> None:
        del self._own[entry]
        self._shared[entry] = None
        self._num_shared_bytes += entry.num_bytes

    def _evict(self, entry: _Entry, *, is_urgent: bool = False) -> None:
        """Let an entry go. Its tokens stay known, and so does the cache of what others share."""
        node = entry.node
        tokens = node.path()
        if self._folder is not None:
            (self._folder.forget if is_urgent else self._folder.hurry)(tokens)
        self._remember(tokens)
        self._drop(entry)
        crossings = [n for n in node.ancestors() if n.branches and n.end >= _SHORTEST]
        crossings = [n for n in crossings if n.stand_in is None and n.value is None]
        if not entry.can_trim or not crossings:
            return
        best = max(crossings, key=lambda n: (len(n.children), n.end))
        try:
            cache = compact(entry.cache, node.end - best.end)
        except (MemoryError, RuntimeError) as error:
            log.debug("a shared prefix is lost: %s", error)
            return
        self._share(self._add(best, cache, True))

    def _drop(self, entry: _Entry) -> None:
        if entry in self._shared:
            del self._shared[entry]
            self._num_shared_bytes -= entry.num_bytes
        else:
            del self._own[entry]
        self.num_bytes -= entry.num_bytes
        self._tree.take(entry.node)

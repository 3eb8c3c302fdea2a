"""The conversation browser: every conversation of a store, listed, searched and shown.

All of it does file work: call it from a thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from parts import InvalidRequest, NotFound
from protocol import record
from protocol.conversations import Store
from protocol.forest import Listed
from protocol.json_text import PIECE
from protocol.pages import page_of
from protocol.record import Malformed
from protocol.tree import Tree

Json = dict[str, Any]

MAX_QUERY = 200
"""Characters of a search."""
MAX_SEARCHED = 64 << 20
"""Bytes of conversations that one search reads."""
ID = re.compile(r"(resp|conv)_[0-9a-f]{32}")
TEXTS = frozenset({"text", "refusal", "arguments", "output", "input"})
"""The fields of items, and of their parts, that hold what was said."""
SOURCES = {
    "mozilla": "page",
    "openai/python": "openai-python",
    "asyncopenai/python": "openai-python",
    "openai/js": "openai-node",
    "agents/": "openai-agents",
    "codex_": "codex",
    "codex-": "codex",
}
"""Products by the beginning of their user agents, for those that call themselves otherwise."""


@dataclass(frozen=True, slots=True)
class Found:
    """A page of the list."""

    entries: list[Listed]
    has_more: bool
    is_complete: bool = True
    """False when the search gave up before it had read everything."""


def browse(
    store: Store,
    *,
    after: str | None = None,
    limit: int = 20,
    query: str = "",
    owner: str = "",
) -> Found:
    """The conversations in which `query` is said, the last used first.

    Raises `InvalidRequest` for `after` and `limit`, and for a query that is too long.
    """
    if len(query) > MAX_QUERY:
        raise InvalidRequest(f"q must have at most {MAX_QUERY} characters.", param="q")
    listed = store.listed(owner)
    page = page_of(listed, lambda each: each.summary.id, after=after, limit=limit)
    if not query.strip() or not page.entries:
        return Found(page.entries, page.has_more)
    start = listed.index(page.entries[0])
    return _Search(store, query.strip(), owner).through(listed[start:], limit)


class _Search:
    """One look for some words, which reads no more than its budget."""

    def __init__(self, store: Store, query: str, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._needle = query.casefold()
        self._escaped = json.dumps(query, ensure_ascii=False)[1:-1].casefold()
        self._budget = MAX_SEARCHED

    def through(self, listed: Iterable[Listed], limit: int) -> Found:
        """The first `limit` of those that hold the words."""
        hits: list[Listed] = []
        for each in listed:
            if self._budget <= 0:
                return Found(hits, False, is_complete=False)
            if self._is_in(each):
                if len(hits) == limit:
                    return Found(hits, True)
                hits.append(each)
        return Found(hits, False)

    def _is_in(self, listed: Listed) -> bool:
        if self._needle in listed.summary.title.casefold():
            return True
        tree = self._archived(listed) if listed.file else self._in_memory(listed)
        return tree is not None and any(_holds(text, self._needle) for text in said_in(tree))

    def _in_memory(self, listed: Listed) -> Tree | None:
        tree = self._store.look(listed.summary.id, self._owner)
        texts = (text for turn in tree.turns for text in (turn.input, turn.output)) if tree else ()
        return tree if any(map(self._may_hold, texts)) else None

    def _archived(self, listed: Listed) -> Tree | None:
        """The conversation, when its file holds the words in any place."""
        text = self._store.archived_text(listed)
        if not self._may_hold(text):
            return None
        try:
            return record.parse(text)[0]
        except Malformed:
            return None

    def _may_hold(self, text: bytes) -> bool:
        self._budget -= len(text)
        return any(_holds(piece, self._escaped) for piece in _decoded(text, len(self._escaped)))


def _holds(text: str, folded: str) -> bool:
    """Whether words are in a text, in whichever case; a piece at a time, for others wait."""
    return any(
        folded in text[start : start + PIECE + len(folded)].casefold()
        for start in range(0, len(text), PIECE)
    )


def _decoded(text: bytes, overlap: int) -> Iterator[str]:
    """A text in pieces, each of which begins with so many characters of the one before."""
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE + 4 * overlap].decode("utf-8", "replace")


def said_in(tree: Tree) -> Iterator[str]:
    """Everything that was said in a conversation, thoughts and calls too."""
    for turn in tree.turns:
        for item in turn.items():
            yield from _texts(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, str):
                if name in TEXTS:
                    yield each
            else:
                yield from _texts(each)


def find(store: Store, name: str, owner: str = "") -> Tree:
    """The conversation of this id, or that this response is in. Raises `NotFound`."""
    if ID.fullmatch(name):
        tree = store.look(name, owner) or store.look(store.tree_id(name, owner) or "", owner)
        if tree is not None:
            return tree
    raise NotFound(f"Conversation with id '{name[:64]}' not found.", param="conversation_id")


def entry_json(listed: Listed) -> Json:
    """A conversation in the list."""
    summary = listed.summary
    return {
        "id": summary.id,
        "object": "conversation.summary",
        "title": summary.title,
        "source": source_name(summary.source),
        "created_at": int(summary.created_at),
        "updated_at": int(summary.updated_at),
        "num_responses": summary.num_responses,
        "last_response_id": summary.last_response_id,
        "is_archived": listed.file is not None,
    }


def tree_json(tree: Tree) -> Json:
    """A whole conversation: its turns in order, each with what it follows."""
    summary = tree.summary()
    return {
        "id": tree.id,
        "object": "conversation.tree",
        "title": summary.title,
        "source": source_name(summary.source),
        "created_at": int(summary.created_at),
        "updated_at": int(summary.updated_at),
        "is_conversation": tree.metadata is not None,
        "turns": record.turns(tree),
    }


def source_name(user_agent: str) -> str:
    """Which client a user agent is, in a word."""
    sent = user_agent.casefold()
    for start, name in SOURCES.items():
        if sent.startswith(start):
            return name
    product = re.match(r"[\w.+-]{1,40}", sent)
    return product[0] if product else "unknown"

"""The store remembers conversations: responses that can be continued, and conversation objects.

A conversation lives in memory until nobody has used it for a while or room is short, then in the
archive, from which it is revived when somebody continues it. Knows neither HTTP nor models.

    begin ──> Draft ──> remember        a response in progress keeps its conversation in memory
                  └───> abandon

What goes in belongs to the store from then on; what comes out is a copy.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from parts import InvalidRequest, NotFound, NotReady, Unavailable
from protocol.archive import Archive, Filed, NotFlushed
from protocol.items import Item, new_id
from protocol.live import Live, LiveTrees
from protocol.pages import Order, Page, page_of
from protocol.tree import (
    ENDS,
    Summary,
    Tree,
    Turn,
    chain,
    pack,
    turn_of_items,
    turn_of_response,
)

log = logging.getLogger(__name__)

TTL = 3600.0
MAX_CONVERSATIONS = 10_000
MAX_BYTES = 256 << 20
MAX_SOURCE = 200
MAX_ITEM_ID = 200
WANTED_FOR = 10.0
"""Seconds for which a revived conversation waits for the request that wanted it."""
WARN_EVERY = 60.0
CAN_CONTINUE = frozenset({"completed", "incomplete"})
"""How a response ends that can be continued."""
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "compaction": "cmp"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A conversation in the list of all."""

    summary: Summary
    file: str | None
    """Its name in the archive, when it is only there."""


@dataclass(slots=True, eq=False)
class Draft:
    """A response in progress. As a context it is abandoned at the end, unless it was remembered."""

    store: Store
    id: str
    created_at: float
    owner: str
    source: str
    is_kept: bool
    """False when nothing of it may be remembered."""
    in_conversation: bool
    live: Live | None
    """The conversation that it continues."""
    parent: Turn | None
    past: list[Turn]
    is_open: bool = True
    response: dict[str, Any] | None = None
    input_items: list[Item] = field(default_factory=list)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def recall(self) -> list[Item]:
        """Everything that was said before, the oldest item first."""
        return [item for turn in self.past for item in turn.items()]

    def show(self, response: dict[str, Any], input_items: list[Item]) -> None:
        """Say what `retrieve` and `input_items` answer until the response is finished."""
        self.response, self.input_items = response, input_items

    def remember(self, response: dict[str, Any], input_items: list[Item]) -> None:
        """Add the finished response to its conversation, unless it was deleted meanwhile."""
        self.store.remember(self, response, input_items)

    def abandon(self) -> None:
        """Let go of the conversation. Harmless when the response was remembered."""
        self.store.abandon(self)


class Store:
    """Conversations in memory, bounded in time, number and bytes; the rest lies in the archive.

    Its locks, all of them:

        _memory   guards every field. Held for moments and never during file work, so the event
                  loop may wait for it.
        _disk     makes file work one thing at a time; the archive has no lock of its own. Held for
                  one file, taken before `_memory` and never while holding it.

    A conversation is archived from a copy and leaves memory under both locks, after a second look:
    whoever continued it by then keeps it here, whoever comes later finds it archived. Deleting
    holds `_disk` throughout, so that no older copy is written over what it wrote.

    File work is done by `open`, `index_some`, `revive`, `sweep`, `flush`, `listing` and all that
    deletes: call these from a thread. The rest is for the event loop.
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
        self._drafts: dict[str, Draft] = {}

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

    # Responses

    def begin(
        self,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        is_kept: bool = True,
        owner: str = "",
        source: str = "",
    ) -> Draft:
        """Start a response, alone or after what was said; `is_kept` is false for `store: false`.

        Raises:
            InvalidRequest: both a response and a conversation are to be continued.
            NotFound: what is to be continued is not in memory. `revive` it and begin again.
            NotReady: it is still being written, or it failed.
        """
        if previous_response_id is not None and conversation_id is not None:
            raise InvalidRequest(
                "previous_response_id and conversation cannot be used together.",
                param="previous_response_id",
            )
        with self._memory:
            live, parent = self._past(previous_response_id, conversation_id, owner)
            draft = Draft(
                store=self,
                id=new_id("resp"),
                created_at=self._wall(),
                owner=owner,
                source=_printable(source),
                is_kept=is_kept,
                in_conversation=conversation_id is not None,
                live=live,
                parent=parent,
                past=chain(parent),
            )
            self._enter(draft)
        return draft

    def remember(self, draft: Draft, response: dict[str, Any], input_items: list[Item]) -> None:
        """Add a finished response to its conversation, unless it was deleted meanwhile."""
        if response["id"] != draft.id or response["status"] not in ENDS:
            raise ValueError(f"{draft.id} is not finished by this response")
        with self._memory:
            taken = _ids_in_conversation(draft.live) if draft.in_conversation else set()
        turn = turn_of_response(
            response,
            _with_own_ids(input_items, taken),
            created_at=draft.created_at,
            source=draft.source,
        )
        turn.in_conversation = draft.in_conversation and response["status"] in CAN_CONTINUE
        with self._memory:
            if draft.is_open and draft.is_kept:
                self._append(draft, turn)
            self._leave(draft)

    def abandon(self, draft: Draft) -> None:
        """Give a response up, and let go of its conversation."""
        with self._memory:
            self._leave(draft)

    def retrieve(self, response_id: str, *, owner: str = "") -> dict[str, Any]:
        """The response object. Raises `NotFound`, or `NotReady` when there is nothing to show."""
        with self._memory:
            draft = self._draft(response_id, owner)
            if draft is None:
                _, turn = self._response(response_id, owner)
                return turn.whole_response()
        if draft.response is None:
            raise NotReady(f"Response '{response_id}' is still being written.")
        return draft.response

    def input_items(
        self,
        response_id: str,
        *,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 20,
        owner: str = "",
    ) -> Page[Item]:
        """What a response was asked. Raises `NotFound`; `InvalidRequest` for `after`, `limit`."""
        with self._memory:
            draft = self._draft(response_id, owner)
            if draft is None:
                _, turn = self._response(response_id, owner)
                items = turn.input_items()
            else:
                items = draft.input_items
        return page_of(items, _item_id, order=order, after=after, limit=limit)

    def item(self, item_id: str, *, owner: str = "") -> Item | None:
        """An item that the model made, for an `item_reference`; None when it is not in memory."""
        with self._memory:
            place = self._place(item_id, owner)
            items = place[1].output_items() if place and place[1] else []
        return next((item for item in items if item["id"] == item_id), None)

    def delete(self, response_id: str, *, owner: str = "") -> None:
        """Delete a response for ever, also on disk; one in progress will not be remembered.

        Those that continued it keep the history that they were built on. Does file work.

        Raises:
            NotFound: there is none.
            Unavailable: the archive cannot be changed now; nothing was deleted.
        """
        with self._memory:
            draft = self._draft(response_id, owner)
            if draft is not None:
                draft.is_kept = False
                del self._drafts[draft.id]
                return
        absent = _absent("Response", response_id, "response_id")
        self._erase(response_id, owner, absent, lambda tree: tree.delete_response(response_id))

    # Conversation objects

    def create_conversation(
        self,
        metadata: dict[str, str] | None = None,
        items: Sequence[Item] = (),
        *,
        owner: str = "",
    ) -> dict[str, Any]:
        """Start a conversation object, with items or without."""
        tree = Tree(new_id("conv"), self._wall(), owner, pack(metadata or {}))
        if items:
            tree.turns.append(turn_of_items(_with_own_ids(items), tree.created_at))
        with self._memory:
            self._trees.adopt(Live(tree, self._clock()))
        return _conversation_object(tree)

    def conversation(self, conversation_id: str, *, owner: str = "") -> dict[str, Any]:
        """The conversation object. Raises `NotFound`."""
        with self._memory:
            return _conversation_object(self._conversation(conversation_id, owner).tree)

    def update_conversation(
        self, conversation_id: str, metadata: dict[str, str], *, owner: str = ""
    ) -> dict[str, Any]:
        """Replace a conversation's metadata. Raises `NotFound`."""
        text = pack(metadata)
        with self._memory:
            live = self._conversation(conversation_id, owner)
            self._trees.change(live, lambda tree: setattr(tree, "metadata", text))
            return _conversation_object(live.tree)

    def delete_conversation(self, conversation_id: str, *, owner: str = "") -> None:
        """Delete a conversation, its items and its responses; otherwise as `delete`."""
        absent = _absent("Conversation", conversation_id, "conversation_id")
        self._erase(
            conversation_id,
            owner,
            absent,
            lambda tree: tree.id == conversation_id and tree.delete_conversation(),
        )

    def add_items(
        self, conversation_id: str, items: Sequence[Item], *, owner: str = ""
    ) -> list[Item]:
        """Append items to a conversation; one whose id is taken gets another. Raises `NotFound`."""
        with self._memory:
            live = self._conversation(conversation_id, owner)
            added = _with_own_ids(items, _ids_in_conversation(live))
            turn = turn_of_items(added, self._wall())
            turn.parent = live.tree.tip
            self._trees.append(live, turn)
        return added

    def conversation_items(
        self,
        conversation_id: str,
        *,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 20,
        owner: str = "",
    ) -> Page[Item]:
        """A conversation's items. Raises `NotFound`; `InvalidRequest` for `after` and `limit`."""
        items = self._items(conversation_id, owner)
        return page_of(items, _item_id, order=order, after=after, limit=limit)

    def conversation_item(self, conversation_id: str, item_id: str, *, owner: str = "") -> Item:
        """One item of a conversation. Raises `NotFound`."""
        for item in self._items(conversation_id, owner):
            if item["id"] == item_id:
                return item
        raise _absent("Item", item_id, "item_id")

    def delete_item(self, conversation_id: str, item_id: str, *, owner: str = "") -> dict[str, Any]:
        """Delete an item, also from the response that made it; otherwise as `delete`."""
        absent = _absent("Item", item_id, "item_id")
        tree = self._erase(
            conversation_id,
            owner,
            absent,
            lambda tree: tree.id == conversation_id and tree.delete_item(item_id),
        )
        return _conversation_object(tree)

    def listing(
        self, *, after: str | None = None, limit: int = 20, owner: str = ""
    ) -> Page[Listed]:
        """All conversations, in memory or archived, the newest first. Does file work.

        Raises `InvalidRequest` for `after` and `limit`.
        """
        with self._disk:
            filed = self._archive.all_filed() if self._archive else []
            entries: dict[str, Live | Filed] = {
                each.summary.id: each for each in filed if each.owner == owner
            }
            with self._memory:
                entries |= {each.tree.id: each for each in self._trees if each.tree.owner == owner}
            newest = sorted(entries.values(), key=_age, reverse=True)
            page = page_of(newest, lambda entry: _age(entry)[1], after=after, limit=limit)
            return Page([self._listed(entry) for entry in page.entries], page.has_more)

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

    def _listed(self, entry: Live | Filed) -> Listed:
        if isinstance(entry, Filed):
            return Listed(entry.summary, entry.name)
        with self._memory:
            tree = entry.tree.copy()
        return Listed(tree.summary(), None)

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

    def _draft(self, response_id: str, owner: str) -> Draft | None:
        draft = self._drafts.get(response_id)
        return draft if draft and draft.owner == owner else None

    def _response(self, response_id: str, owner: str) -> tuple[Live, Turn]:
        live, turn = self._place(response_id, owner) or (None, None)
        if live is None or turn is None or turn.response_id != response_id:
            raise _absent("Response", response_id, "response_id", self._filed(response_id, owner))
        return live, turn

    def _past(
        self, response_id: str | None, conversation_id: str | None, owner: str
    ) -> tuple[Live | None, Turn | None]:
        """The tree that a response continues, and the turn in it."""
        if conversation_id is not None:
            live = self._conversation(conversation_id, owner)
            if live.is_answering:
                raise _conversation_locked()
            return live, live.tree.tip
        if response_id is not None:
            return self._finished(response_id, owner)
        return None, None

    def _finished(self, response_id: str, owner: str) -> tuple[Live, Turn]:
        if self._draft(response_id, owner):
            raise _not_ready(response_id, "is still being written")
        try:
            live, turn = self._response(response_id, owner)
        except NotFound:
            raise _absent_previous(response_id, self._filed(response_id, owner)) from None
        if json.loads(turn.response)["status"] not in CAN_CONTINUE:
            raise _not_ready(response_id, "did not finish")
        return live, turn

    def _conversation(self, conversation_id: str, owner: str) -> Live:
        live, turn = self._place(conversation_id, owner) or (None, None)
        if live is None or turn is not None:
            filed = self._filed(conversation_id, owner)
            raise _absent("Conversation", conversation_id, "conversation", filed)
        return live

    def _items(self, conversation_id: str, owner: str) -> list[Item]:
        with self._memory:
            turns = chain(self._conversation(conversation_id, owner).tree.tip)
            return [item for turn in turns for item in turn.items()]

    def _enter(self, draft: Draft) -> None:
        if draft.is_kept:
            self._drafts[draft.id] = draft
        if draft.live is not None:
            draft.live.held.append(draft.parent)
            draft.live.is_answering |= draft.in_conversation

    def _leave(self, draft: Draft) -> None:
        if not draft.is_open:
            return
        draft.is_open = False
        self._drafts.pop(draft.id, None)
        live = draft.live
        if live is None:
            return
        live.held.remove(draft.parent)
        if draft.in_conversation:
            live.is_answering = False
        if live in self._trees:
            self._trees.touch(live, self._clock())
            if draft.parent is not None and (draft.parent.is_ghost or draft.parent.is_empty):
                self._trees.change(live, lambda tree: None)

    def _append(self, draft: Draft, turn: Turn) -> None:
        live = draft.live
        if live is None:
            tree = Tree(draft.id, draft.created_at, draft.owner, turns=[turn])
            self._trees.adopt(Live(tree, self._clock()))
        elif not draft.in_conversation:
            turn.parent = draft.parent
            self._trees.append(live, turn)
        elif live in self._trees and live.tree.metadata is not None:
            turn.parent = live.tree.tip
            self._trees.append(live, turn)


def _ids_in_conversation(live: Live | None) -> set[str]:
    turns = chain(live.tree.tip) if live else []
    return {name for turn in turns for name in (*turn.input_ids, *turn.output_ids)}


def _with_own_ids(items: Iterable[Item], taken: Iterable[str] = ()) -> list[Item]:
    """Give every item an id that no other has: pages are cut by ids."""
    seen = set(taken)
    own = []
    for item in items:
        name = item.get("id")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ITEM_ID or name in seen:
            name = new_id(PREFIXES.get(item["type"], "item"))
        seen.add(name)
        own.append({**item, "id": name})
    return own


def _printable(source: str) -> str:
    return "".join(letter for letter in source[:MAX_SOURCE] if letter.isprintable())


def _conversation_object(tree: Tree) -> dict[str, Any]:
    return {
        "id": tree.id,
        "object": "conversation",
        "created_at": int(tree.created_at),
        "metadata": json.loads(tree.metadata or b"{}"),
    }


def _item_id(item: Item) -> str:
    name: str = item["id"]
    return name


def _age(entry: Live | Filed) -> tuple[float, str]:
    known = entry.tree if isinstance(entry, Live) else entry.summary
    return known.created_at, known.id


def _absent(what: str, name: str, param: str, filed: Filed | None = None) -> NotFound:
    return NotFound(_absence(what, name, filed), param=param)


def _absent_previous(name: str, filed: Filed | None) -> NotFound:
    return NotFound(
        _absence("Previous response", name, filed),
        param="previous_response_id",
        code="previous_response_not_found",
    )


def _absence(what: str, name: str, filed: Filed | None) -> str:
    if filed is None:
        return f"{what} with id '{name[:64]}' not found."
    expired = datetime.fromtimestamp(filed.archived_at, UTC)
    return (
        f"{what} with id '{name}' expired at {expired:%Y-%m-%dT%H:%M:%SZ}; "
        f"it lies in the archive, in {filed.name}."
    )


def _not_ready(name: str, why: str) -> NotReady:
    return NotReady(f"Previous response with id '{name}' {why}.", param="previous_response_id")


def _conversation_locked() -> NotReady:
    return NotReady(
        "Another response in this conversation is still being written. Try again when it is done.",
        param="conversation",
        code="conversation_locked",
    )

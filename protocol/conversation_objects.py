"""Conversation objects: what clients see under a `conv_` id, and the items in it.

(https://platform.openai.com/docs/api-reference/conversations)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from protocol.forest import Forest, absent
from protocol.items import Item, new_id
from protocol.live import Live
from protocol.pages import Order, Page, page_of
from protocol.tree import Removal, Tree, chain, pack, turn_of_items

MAX_ITEM_ID = 200
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "compaction": "cmp"}


class ConversationObjects(Forest):
    """A forest in which conversations can be made, read and changed by their own ids."""

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
            tree.turns.append(turn_of_items(with_own_ids(items), tree.created_at))
        with self._memory:
            self._trees.adopt(Live(tree, self._clock()))
        return conversation_object(tree)

    def conversation(self, conversation_id: str, *, owner: str = "") -> dict[str, Any]:
        """The conversation object. Raises `NotFound`."""
        with self._memory:
            return conversation_object(self._conversation(conversation_id, owner).tree)

    def update_conversation(
        self, conversation_id: str, metadata: dict[str, str], *, owner: str = ""
    ) -> dict[str, Any]:
        """Replace a conversation's metadata. Raises `NotFound`."""
        text = pack(metadata)
        with self._memory:
            live = self._conversation(conversation_id, owner)
            self._trees.change(live, lambda tree: setattr(tree, "metadata", text))
            return conversation_object(live.tree)

    def delete_conversation(self, conversation_id: str, *, owner: str = "") -> None:
        """Delete a conversation, its items and its responses; otherwise as `delete`."""
        missing = absent("Conversation", conversation_id, "conversation_id")
        self._erase(
            conversation_id,
            owner,
            missing,
            lambda tree: tree.id == conversation_id and tree.delete_conversation(),
        )

    def add_items(
        self, conversation_id: str, items: Sequence[Item], *, owner: str = ""
    ) -> list[Item]:
        """Append items to a conversation; one whose id is taken gets another. Raises `NotFound`."""
        with self._memory:
            taken = ids_in_conversation(self._conversation(conversation_id, owner))
        while True:
            added = with_own_ids(items, taken)
            turn = turn_of_items(added, self._wall())
            with self._memory:
                live = self._conversation(conversation_id, owner)
                taken = ids_in_conversation(live)
                if taken.isdisjoint(turn.input_ids):  # nor has anybody else brought them since
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
        return page_of(items, item_id_of, order=order, after=after, limit=limit)

    def conversation_item(self, conversation_id: str, item_id: str, *, owner: str = "") -> Item:
        """One item of a conversation. Raises `NotFound`."""
        for item in self._items(conversation_id, owner):
            if item["id"] == item_id:
                return item
        raise absent("Item", item_id, "item_id")

    def delete_item(self, conversation_id: str, item_id: str, *, owner: str = "") -> dict[str, Any]:
        """Delete an item, also from the response that made it; otherwise as `delete`."""
        missing = absent("Item", item_id, "item_id")
        removal = Removal(item_id)
        tree = self._erase(
            conversation_id,
            owner,
            missing,
            lambda tree: tree.id == conversation_id and tree.delete_item(removal),
        )
        return conversation_object(tree)

    def _conversation(self, conversation_id: str, owner: str) -> Live:
        live, turn = self._place(conversation_id, owner) or (None, None)
        if live is None or turn is not None:
            filed = self._filed(conversation_id, owner)
            raise absent("Conversation", conversation_id, "conversation", filed)
        return live

    def _items(self, conversation_id: str, owner: str) -> list[Item]:
        with self._memory:
            turns = [
                replace(turn) for turn in chain(self._conversation(conversation_id, owner).tree.tip)
            ]
        return [item for turn in turns for item in turn.items()]


def ids_in_conversation(live: Live | None) -> set[str]:
    turns = chain(live.tree.tip) if live else []
    return {name for turn in turns for name in (*turn.input_ids, *turn.output_ids)}


def with_own_ids(items: Iterable[Item], taken: Iterable[str] = ()) -> list[Item]:
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


def conversation_object(tree: Tree) -> dict[str, Any]:
    return {
        "id": tree.id,
        "object": "conversation",
        "created_at": int(tree.created_at),
        "metadata": json.loads(tree.metadata or b"{}"),
    }


def item_id_of(item: Item) -> str:
    name: str = item["id"]
    return name

"""The store remembers conversations: responses that can be continued, and conversation objects.

A conversation lives in memory until nobody has used it for a while or room is short, then in the
archive, from which it is revived when somebody continues it. Knows neither HTTP nor models.

    begin ──> Draft ──> remember        a response in progress keeps its conversation in memory
                  └───> abandon

What goes in belongs to the store from then on; what comes out is a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

from parts import InvalidRequest, NotFound, NotReady
from protocol.archive import Archive, Filed
from protocol.conversation_objects import (
    ConversationObjects,
    ids_in_conversation,
    item_id_of,
    with_own_ids,
)
from protocol.draft import Draft
from protocol.forest import Options, absence, absent
from protocol.items import Item, new_id
from protocol.live import Live
from protocol.pages import Order, Page, page_of
from protocol.tree import (
    ENDS,
    Question,
    Timings,
    Tree,
    Turn,
    chain,
    question_of,
    turn_of_response,
)

MAX_SOURCE = 200
CAN_CONTINUE = frozenset({"completed", "incomplete"})
"""How a response ends that can be continued."""


class Store(ConversationObjects):
    """Responses, those in progress too, beside the conversation objects; kept as a forest is."""

    def __init__(self, archive: Archive | None = None, **options: Unpack[Options]) -> None:
        super().__init__(archive, **options)
        self._drafts: dict[str, Draft] = {}

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

    def write_down(self, draft: Draft, items: list[Item], settings: Mapping[str, Any]) -> Question:
        """What a response is asked, as it will be kept. Can be called from a thread."""
        return question_of(with_own_ids(items, self._taken(draft)), settings)

    def remember(
        self,
        draft: Draft,
        response: dict[str, Any],
        input_items: list[Item],
        timings: Timings | None = None,
    ) -> None:
        """Add a finished response to its conversation, unless it was deleted meanwhile."""
        if response["id"] != draft.id or response["status"] not in ENDS:
            raise ValueError(f"{draft.id} is not finished by this response")
        if not draft.is_kept:
            self.abandon(draft)
            return
        turn = turn_of_response(
            response,
            self._question(draft, input_items),
            created_at=draft.created_at,
            source=draft.source,
            timings=timings,
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
                turn = replace(self._response(response_id, owner)[1])
        if draft is None:
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
                turn = replace(self._response(response_id, owner)[1])
        items = turn.input_items() if draft is None else draft.input_items
        return page_of(items, item_id_of, order=order, after=after, limit=limit)

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
        missing = absent("Response", response_id, "response_id")
        self._erase(response_id, owner, missing, lambda tree: tree.delete_response(response_id))

    def delete_tree(self, tree_id: str, *, owner: str = "") -> set[str]:
        """Delete a conversation with all its branches, and what is in progress in it.

        Gives the ids of everything that is gone; otherwise as `delete`.
        """
        missing = absent("Conversation", tree_id, "conversation_id")
        tree = self.look(tree_id, owner)
        if tree is None:
            raise missing
        gone = tree.names()

        def cut(tree: Tree) -> bool:
            for draft in [d for d in self._drafts.values() if d.live and d.live.tree is tree]:
                draft.is_kept = False
                gone.add(draft.id)
                del self._drafts[draft.id]
            return tree.id == tree_id and tree.delete_all()

        self._erase(next(iter(tree.names()), tree_id), owner, missing, cut)
        return gone

    def _question(self, draft: Draft, items: list[Item]) -> Question:
        """What a response was asked: as it was written down, unless its ids are others' by now."""
        taken, written = self._taken(draft), draft.question
        if written is not None and taken.isdisjoint(written.input_ids):
            return written
        return question_of(with_own_ids(items, taken))

    def _taken(self, draft: Draft) -> set[str]:
        """Ids that items of a response must not have."""
        with self._memory:
            return ids_in_conversation(draft.live) if draft.in_conversation else set()

    # Under `_memory`

    def _draft(self, response_id: str, owner: str) -> Draft | None:
        draft = self._drafts.get(response_id)
        return draft if draft and draft.owner == owner else None

    def _response(self, response_id: str, owner: str) -> tuple[Live, Turn]:
        live, turn = self._place(response_id, owner) or (None, None)
        if live is None or turn is None or turn.response_id != response_id:
            raise absent("Response", response_id, "response_id", self._filed(response_id, owner))
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
        if turn.status not in CAN_CONTINUE:
            raise _not_ready(response_id, "did not finish")
        return live, turn

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


def _absent_previous(name: str, filed: Filed | None) -> NotFound:
    return NotFound(
        absence("Previous response", name, filed),
        param="previous_response_id",
        code="previous_response_not_found",
    )


def _not_ready(name: str, why: str) -> NotReady:
    return NotReady(f"Previous response with id '{name}' {why}.", param="previous_response_id")


def _conversation_locked() -> NotReady:
    return NotReady(
        "Another response in this conversation is still being written. Try again when it is done.",
        param="conversation",
        code="conversation_locked",
    )


def _printable(source: str) -> str:
    return "".join(letter for letter in source[:MAX_SOURCE] if letter.isprintable())

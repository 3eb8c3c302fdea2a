"""The routes of the Conversations API: conversation objects, and the items in them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response

from door.bodies import answer, aside
from door.requests import ConversationRequest, ItemsRequest, MetadataRequest
from door.responses import page
from parts import NotFound
from protocol.conversations import Store
from protocol.items import Item, normalised

T = TypeVar("T")
Order = Literal["asc", "desc"]
NOTHING = ConversationRequest()


def add_routes(router: APIRouter, store: Store) -> None:
    """Add the routes under `/v1/conversations`."""

    async def revived(conversation_id: str, owner: str, look: Callable[[], T]) -> T:
        """Look, on a thread, for a conversation may be long."""
        try:
            return await asyncio.to_thread(look)
        except NotFound:
            await asyncio.to_thread(store.revive, conversation_id, owner=owner)
            return await asyncio.to_thread(look)

    def read(items: list[Any] | None, owner: str) -> list[Item]:
        resolve = functools.cache(functools.partial(store.item, owner=owner))
        return normalised(items, resolve, param="items")

    @router.post("/v1/conversations")
    async def create(request: Request, body: ConversationRequest = NOTHING) -> dict[str, Any]:
        owner = request.state.owner
        return await aside(
            request,
            lambda: store.create_conversation(body.metadata, read(body.items, owner), owner=owner),
        )

    @router.get("/v1/conversations/{conversation_id}")
    async def retrieve(conversation_id: str, request: Request) -> dict[str, Any]:
        owner = request.state.owner
        return await revived(
            conversation_id, owner, lambda: store.conversation(conversation_id, owner=owner)
        )

    @router.post("/v1/conversations/{conversation_id}")
    async def update(
        conversation_id: str, body: MetadataRequest, request: Request
    ) -> dict[str, Any]:
        owner = request.state.owner
        return await revived(
            conversation_id,
            owner,
            lambda: store.update_conversation(conversation_id, body.metadata, owner=owner),
        )

    @router.delete("/v1/conversations/{conversation_id}")
    async def delete(conversation_id: str, request: Request) -> dict[str, Any]:
        owner = request.state.owner
        await asyncio.to_thread(store.delete_conversation, conversation_id, owner=owner)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    @router.post("/v1/conversations/{conversation_id}/items")
    async def add_items(conversation_id: str, body: ItemsRequest, request: Request) -> Response:
        owner = request.state.owner
        items = await aside(request, lambda: read(body.items, owner))
        added = await revived(
            conversation_id, owner, lambda: store.add_items(conversation_id, items, owner=owner)
        )
        return await answer(page(added, has_more=False))

    @router.get("/v1/conversations/{conversation_id}/items")
    async def list_items(
        conversation_id: str,
        request: Request,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 20,
    ) -> Response:
        owner = request.state.owner
        found = await revived(
            conversation_id,
            owner,
            lambda: store.conversation_items(
                conversation_id, order=order, after=after, limit=limit, owner=owner
            ),
        )
        return await answer(page(found.entries, found.has_more))

    @router.get("/v1/conversations/{conversation_id}/items/{item_id}")
    async def retrieve_item(conversation_id: str, item_id: str, request: Request) -> Response:
        owner = request.state.owner
        found = await revived(
            conversation_id,
            owner,
            lambda: store.conversation_item(conversation_id, item_id, owner=owner),
        )
        return await answer(found)

    @router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
    async def delete_item(conversation_id: str, item_id: str, request: Request) -> dict[str, Any]:
        owner = request.state.owner

        def delete() -> dict[str, Any]:
            store.revive(conversation_id, owner=owner)
            return store.delete_item(conversation_id, item_id, owner=owner)

        return await asyncio.to_thread(delete)

"""The routes of the Conversations API: conversation objects, and the items in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from fastapi import APIRouter

from door.requests import ConversationRequest, ItemsRequest, MetadataRequest
from door.responses import page
from parts import NotFound
from protocol.conversations import Store
from protocol.items import normalised

T = TypeVar("T")
Order = Literal["asc", "desc"]
NOTHING = ConversationRequest()


def add_routes(router: APIRouter, store: Store) -> None:
    """Add the routes under `/v1/conversations`."""

    async def revived(conversation_id: str, look: Callable[[], T]) -> T:
        try:
            return look()
        except NotFound:
            await asyncio.to_thread(store.revive, conversation_id)
            return look()

    @router.post("/v1/conversations")
    async def create(body: ConversationRequest = NOTHING) -> dict[str, Any]:
        items = normalised(body.items, store.item, param="items")
        return store.create_conversation(body.metadata, items)

    @router.get("/v1/conversations/{conversation_id}")
    async def retrieve(conversation_id: str) -> dict[str, Any]:
        return await revived(conversation_id, lambda: store.conversation(conversation_id))

    @router.post("/v1/conversations/{conversation_id}")
    async def update(conversation_id: str, body: MetadataRequest) -> dict[str, Any]:
        return await revived(
            conversation_id, lambda: store.update_conversation(conversation_id, body.metadata)
        )

    @router.delete("/v1/conversations/{conversation_id}")
    async def delete(conversation_id: str) -> dict[str, Any]:
        await asyncio.to_thread(store.delete_conversation, conversation_id)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    @router.post("/v1/conversations/{conversation_id}/items")
    async def add_items(conversation_id: str, body: ItemsRequest) -> dict[str, Any]:
        items = normalised(body.items, store.item, param="items")
        added = await revived(conversation_id, lambda: store.add_items(conversation_id, items))
        return page(added, has_more=False)

    @router.get("/v1/conversations/{conversation_id}/items")
    async def list_items(
        conversation_id: str, order: Order = "desc", after: str | None = None, limit: int = 20
    ) -> dict[str, Any]:
        found = await revived(
            conversation_id,
            lambda: store.conversation_items(
                conversation_id, order=order, after=after, limit=limit
            ),
        )
        return page(found.entries, found.has_more)

    @router.get("/v1/conversations/{conversation_id}/items/{item_id}")
    async def retrieve_item(conversation_id: str, item_id: str) -> dict[str, Any]:
        return await revived(
            conversation_id, lambda: store.conversation_item(conversation_id, item_id)
        )

    @router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
    async def delete_item(conversation_id: str, item_id: str) -> dict[str, Any]:
        def delete() -> dict[str, Any]:
            store.revive(conversation_id)
            return store.delete_item(conversation_id, item_id)

        return await asyncio.to_thread(delete)

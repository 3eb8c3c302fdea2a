"""The routes of the Conversations API: conversation objects, and the items in them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request

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

    async def revived(conversation_id: str, owner: str, look: Callable[[], T]) -> T:
        try:
            return look()
        except NotFound:
            await asyncio.to_thread(store.revive, conversation_id, owner=owner)
            return look()

    @router.post("/v1/conversations")
    async def create(request: Request, body: ConversationRequest = NOTHING) -> dict[str, Any]:
        owner = request.state.owner
        resolve = functools.cache(functools.partial(store.item, owner=owner))
        items = normalised(body.items, resolve, param="items")
        return store.create_conversation(body.metadata, items, owner=owner)

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
    async def add_items(
        conversation_id: str, body: ItemsRequest, request: Request
    ) -> dict[str, Any]:
        owner = request.state.owner
        resolve = functools.cache(functools.partial(store.item, owner=owner))
        items = normalised(body.items, resolve, param="items")
        added = await revived(
            conversation_id, owner, lambda: store.add_items(conversation_id, items, owner=owner)
        )
        return page(added, has_more=False)

    @router.get("/v1/conversations/{conversation_id}/items")
    async def list_items(
        conversation_id: str,
        request: Request,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 20,
    ) -> dict[str, Any]:
        owner = request.state.owner
        found = await revived(
            conversation_id,
            owner,
            lambda: store.conversation_items(
                conversation_id, order=order, after=after, limit=limit, owner=owner
            ),
        )
        return page(found.entries, found.has_more)

    @router.get("/v1/conversations/{conversation_id}/items/{item_id}")
    async def retrieve_item(conversation_id: str, item_id: str, request: Request) -> dict[str, Any]:
        owner = request.state.owner
        return await revived(
            conversation_id,
            owner,
            lambda: store.conversation_item(conversation_id, item_id, owner=owner),
        )

    @router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
    async def delete_item(conversation_id: str, item_id: str, request: Request) -> dict[str, Any]:
        owner = request.state.owner

        def delete() -> dict[str, Any]:
            store.revive(conversation_id, owner=owner)
            return store.delete_item(conversation_id, item_id, owner=owner)

        return await asyncio.to_thread(delete)

"""The routes of the conversation browser, for the pages of this server and nobody else's."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from door.bodies import JsonAnswer
from door.responses import Responses
from protocol import browser, export
from protocol.sse import json_bytes, long_json_bytes

PRIVATE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def add_routes(router: APIRouter, made: Responses) -> None:
    """Add the routes under `/conversations`."""
    store = made.store

    @router.get("/conversations")
    async def browse(
        request: Request, limit: int = 20, after: str | None = None, q: str = ""
    ) -> Response:
        found = await asyncio.to_thread(
            browser.browse, store, after=after, limit=limit, query=q, owner=_owner(request)
        )
        entries = [browser.entry_json(each) for each in found.entries]
        return _json(
            {
                "object": "list",
                "data": entries,
                "first_id": entries[0]["id"] if entries else None,
                "last_id": entries[-1]["id"] if entries else None,
                "has_more": found.has_more,
                "is_complete": found.is_complete,
            }
        )

    @router.get("/conversations/{conversation_id}")
    async def show(conversation_id: str, request: Request) -> Response:
        def shown() -> bytes:
            tree = browser.find(store, conversation_id, _owner(request))
            return long_json_bytes(browser.tree_json(tree))

        content = await asyncio.to_thread(shown)
        return JsonAnswer(content, headers=PRIVATE)

    @router.delete("/conversations/{conversation_id}")
    async def delete(conversation_id: str, request: Request) -> Response:
        gone = await asyncio.to_thread(store.delete_tree, conversation_id, owner=_owner(request))
        for name in gone:
            made.runs.forget(name)
        return _json({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    @router.get("/conversations/{conversation_id}/export")
    async def export_conversation(
        conversation_id: str,
        request: Request,
        format: Literal["md", "json", "jsonl"] = "md",
        response_id: str | None = None,
    ) -> Response:
        content_type, write = export.FORMATS[format]

        def written() -> tuple[str, str]:
            tree = browser.find(store, conversation_id, _owner(request))
            return tree.id, write(tree, export.branch(tree, response_id), time.time())

        name, text = await asyncio.to_thread(written)
        saved = {"content-disposition": f'attachment; filename="{name}.{format}"'}
        # Half a surrogate pair, which a client may have sent, has no bytes of its own.
        content = text.encode("utf-8", "replace")
        return Response(content, headers=PRIVATE | saved, media_type=content_type)


def _owner(request: Request) -> str:
    """Whose conversations a request may see; empty where all belong to everybody."""
    owner: str = getattr(request.state, "owner", "")
    return owner


def _json(value: dict[str, Any]) -> Response:
    return Response(json_bytes(value), headers=PRIVATE, media_type="application/json")

"""A body is what comes with a request: read by our own rules, and where it holds nobody up.

A large one is read and checked on a thread, because all who wait for a token wait for the event
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from protocol import strict_json

T = TypeVar("T")

LARGE_BODY = 256 * 2**10
"""Bytes of a body that is read on another thread."""


class StrictJsonRequest(Request):
    """A request whose body is read by our own rules."""

    model: type[BaseModel] | None = None
    """What its body must be."""

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= LARGE_BODY:
            return strict_json.loads(body)
        self.state.is_large = True
        return await asyncio.to_thread(self._checked, body)

    def _checked(self, body: bytes) -> Any:
        """The body as its model, which FastAPI then takes as it is; raw when it does not fit."""
        value = strict_json.loads(body)
        try:
            return self.model.model_validate(value) if self.model else value
        except ValidationError:  # told by who tells it of small ones
            return value


class StrictJsonRoute(APIRoute):
    """A route whose body is read by our own rules."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()
        kind = self.body_field.field_info.annotation if self.body_field else None
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None

        async def strict(request: Request) -> Response:
            ours = StrictJsonRequest(request.scope, request.receive)
            ours.model = model
            return await handle(ours)

        return strict


async def aside(request: Request, work: Callable[[], T]) -> T:
    """Do something with a body: on a thread when it is large."""
    if getattr(request.state, "is_large", False):
        return await asyncio.to_thread(work)
    return work()

"""A body comes with a request, or with an answer: read and written where it holds nobody up.

A large one is read, checked and written on a thread, because all who wait for a token wait for the
event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive, Scope, Send

from door.turns import alone, alone_in_turn
from protocol import json_text, strict_json
from protocol.sse import json_bytes, long_json_bytes

T = TypeVar("T")

LARGE_BODY = 256 * 2**10
"""Bytes of a body that is read on another thread."""


class StrictJsonRequest(Request):
    """A request whose body is read by our own rules."""

    model: type[BaseModel] | None = None
    """What its body must be."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            chunks = [chunk async for chunk in self.stream() if chunk]
            is_large = sum(map(len, chunks)) > LARGE_BODY
            self._body = await alone_in_turn(b"".join, chunks) if is_large else b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= LARGE_BODY:
            return strict_json.loads(body)
        self.state.large = [await alone_in_turn(self._checked, body)]
        return self.state.large[0]

    def _checked(self, body: bytes) -> Any:
        """The body as its model, which FastAPI then takes as it is."""
        value = strict_json.loads(body)
        try:
            return self.model.model_validate(value) if self.model else value
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError(
                [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
            ) from None

    def let_go(self) -> None:
        """Forget a large body on a thread: what was many to read is many to free, too."""
        if large := getattr(self.state, "large", None):
            asyncio.get_running_loop().run_in_executor(None, large.clear)


class StrictJsonRoute(APIRoute):
    """A route whose body is read by our own rules."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()
        kind = self.body_field.field_info.annotation if self.body_field else None
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None

        async def strict(request: Request) -> Response:
            ours = StrictJsonRequest(request.scope, request.receive)
            ours.model = model
            try:
                return await handle(ours)
            finally:
                ours.let_go()

        return strict


async def aside(request: Request, work: Callable[[], T]) -> T:
    """Do something with a body: on a thread when it is large."""
    large: list[Any] | None = getattr(request.state, "large", None)
    if large is None:
        return work()
    made = await alone(work)
    large.append(made)
    return made


async def written(value: Any) -> bytes:
    """A value as JSON: written on a thread when that is long."""
    if json_text.is_long(value):
        return await alone(long_json_bytes, value)
    return json_bytes(value)


async def answer(value: Any) -> Response:
    """A value as the answer to a request."""
    return JsonAnswer(await written(value))


class JsonAnswer(Response):
    """JSON on its way to a client: in pieces, each of which waits until the one before has left."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for begin in range(0, len(self.body), LARGE_BODY):
            end = begin + LARGE_BODY
            piece = bytes(self.body[begin:end])
            is_last = end >= len(self.body)
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})

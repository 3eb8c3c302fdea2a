"""CORS: what browsers let the web pages of other servers see. The API only, never credentials."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from door.callers import is_api
from protocol.errors import envelope

EXPOSED = ("x-request-id", "retry-after", "x-should-retry")
MAX_AGE_S = 600
"""Seconds for which a browser remembers what it may send."""


class Cors(CORSMiddleware):
    """Starlette's, around the API only."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_api(scope["path"]):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks first, in the envelope when it is no."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        body = envelope(403, "Pages from there may not call this server.", code="forbidden_origin")
        return JSONResponse(body, 403, headers={"vary": "Origin"})

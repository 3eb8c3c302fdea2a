"""Origins: what only the pages of this server itself may ask for.

The API is open to the pages that the settings name (`callers`, `cors`). The conversations of
everybody who uses this
server, and what the dashboard tells of them, are for its own pages only: no other page may read
them, whatever the settings say.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.errors import envelope

OWN = ("/conversations", "/dashboard/events")
"""Below these, only our own pages, and programs that are no pages, get an answer."""
FRIENDLY_SITES = frozenset({"", "none", "same-origin"})
"""What browsers say in `Sec-Fetch-Site` of a page of ours, or of an address that was typed."""


class OwnPages:
    """Refuses other pages what is our own. Stands inside the guard, which logs and numbers it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_own(scope) and is_foreign(Headers(scope=scope)):
            await _refusal()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_own(scope: Scope) -> bool:
    """Whether a request is for what only our own pages may have."""
    path = f"{scope.get('path', '')}/"
    return scope["type"] == "http" and path.startswith(tuple(f"{own}/" for own in OWN))


def is_foreign(headers: Headers) -> bool:
    """Whether a request comes from a page that is not ours."""
    if headers.get("sec-fetch-site", "") not in FRIENDLY_SITES:
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def _refusal() -> Response:
    sentence = "Only the pages of this server itself may ask for this."
    body = envelope(403, sentence, code="forbidden_origin")
    return Response(json.dumps(body), 403, media_type="application/json")

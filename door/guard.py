"""The guard stands before every route: request ids, keys, sizes, content types, and the log line.

Pure ASGI. Whatever goes wrong behind it, the client gets the error envelope.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from door.log import Stories, Story
from door.pages import is_page
from protocol.errors import envelope

log = logging.getLogger("mlx_server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 32 * 2**20
"""Bytes of a request body."""
POLICY_VIOLATION = 1008
_OPEN_PATHS = frozenset({"/health", "/openapi.json"})
_QUIET_PATHS = frozenset({"/health", "/metrics", "/openapi.json", "/dashboard/events"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")


class BodyTooLarge(HTTPException):
    """The client sent more than `MAX_BODY`."""

    def __init__(self) -> None:
        super().__init__(413)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: App, *, api_key: str | None = None, stories: Stories | None = None
    ) -> None:
        self._app = app
        self._stories = stories or Stories()
        self._api_key = api_key.encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._has_key(scope["path"], _headers(scope)):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            refusal = self._refusal(scope, exchange.headers)
            if refusal is not None:
                await exchange.answer(*refusal)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception:  # the last line of defence: nothing of it may reach the client
            told = {"message": "request failed", "request_id": exchange.id}
            log.exception("request %s failed", exchange.id, extra={"told": told})
            await exchange.answer(500, "The server failed on this request.")
        finally:
            self._stories.end(exchange.told())

    def _refusal(
        self, scope: Scope, headers: Mapping[str, str]
    ) -> tuple[int, str] | tuple[int, str, str] | None:
        """The status and the sentence with which a request is turned away, if it is."""
        if not self._has_key(scope["path"], headers):
            return 401, "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY:
            return 413, f"The body has {length} bytes; at most {MAX_BODY} are read."
        has_body = length not in ("", "0") or "transfer-encoding" in headers
        if scope["method"] in ("POST", "PUT", "PATCH") and has_body:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                return 415, "Send JSON, with the header 'Content-Type: application/json'."
            if headers.get("content-encoding", "identity") != "identity":
                return 415, "Send the body uncompressed."
        return None

    def _has_key(self, path: str, headers: Mapping[str, str]) -> bool:
        if self._api_key is None or path in _OPEN_PATHS or is_page(path):
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        sent = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return secrets.compare_digest(sent.encode("utf-8", "replace"), self._api_key)


def _headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


class _Exchange:
    """One request and its answer, on their way through the guard."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = _headers(scope)
        sent = self.headers.get("x-request-id", "")
        self.id = sent if _REQUEST_ID.match(sent) else f"req_{secrets.token_hex(16)}"
        path = scope["path"]
        self.story = Story(
            method=scope["method"],
            path=path,
            source=self.headers.get("user-agent", "")[:200],
            request_id=self.id,
            is_quiet=path in _QUIET_PATHS or is_page(path),
        )
        scope.setdefault("state", {})["story"] = self.story
        self._scope, self._receive, self._send = scope, receive, send
        self._status = 0
        self._num_bytes = 0

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes > MAX_BODY:
                raise BodyTooLarge
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def answer(self, status: int, sentence: str, code: str | None = None) -> None:
        """Send an error, unless an answer has begun."""
        if self._status:
            return
        body = json.dumps(envelope(status, sentence, code=code)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 413:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def told(self) -> Story:
        """The story, as far as the guard knows it."""
        self.story.status = self._status
        self.story.endpoint = getattr(self._scope.get("route"), "path", "")
        return self.story

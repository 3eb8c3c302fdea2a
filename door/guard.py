"""The guard stands before every route: request ids, callers, keys, sizes, deadlines, the log line.

Pure ASGI. Whatever goes wrong behind it, the client gets the error envelope.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from door.callers import Callers, Refusal
from door.keys import Keys
from door.log import Stories, Story, told
from door.pages import is_page
from protocol.errors import RETRY_AFTER_S, envelope

log = logging.getLogger("mlx_server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_S = 30.0
"""Seconds that a body may take to come, and besides one for every `BODY_RATE` bytes of it."""
BODY_RATE = 16 * 2**10
SMALL_BODY = 256 * 2**10
MAX_LARGE_BODIES = 16
"""So many of the largest bodies may be held at a time; small ones always."""
POLICY_VIOLATION = 1008
OPEN_PATHS = frozenset({"/health", "/openapi.json"})
_QUIET_PATHS = frozenset({"/health", "/metrics", "/openapi.json", "/dashboard/events"})
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""On every answer, unless its route says otherwise."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")


class Unread(HTTPException):
    """A body that is not read to its end."""


class Held:
    """The bytes of all bodies that are being read or worked on, beyond what is small of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Hold more. Raises `Unread` when that is too much."""
        if self._num_bytes + num_bytes > self._most:
            headers = {"retry-after": str(RETRY_AFTER_S), "connection": "close"}
            raise Unread(503, headers=headers)
        self._num_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Hold so many less."""
        self._num_bytes -= num_bytes


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: App,
        *,
        callers: Callers,
        keys: Keys,
        max_body: int,
        stories: Stories | None = None,
    ) -> None:
        """`max_body` is in bytes."""
        self._app = app
        self._callers = callers
        self._keys = keys
        self._max_body = max_body
        self._held = Held(max_body * MAX_LARGE_BODIES)
        self._stories = stories or Stories()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._guard(_Exchange(scope, receive, send, self._max_body, self._held))
            case "websocket" if self._admission(scope, _headers(scope)) is not None:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            case _:
                await self._app(scope, receive, send)

    async def _guard(self, exchange: _Exchange) -> None:
        try:
            refusal = self._refusal(exchange.scope, exchange.headers)
            if refusal is not None:
                await exchange.answer(refusal)
            else:
                await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:  # the last line of defence: nothing of it may reach the client
            words = {"message": "request failed", "request_id": exchange.id}
            log.error("request %s failed: %s", exchange.id, told(error), extra={"told": words})
            await exchange.answer(Refusal(500, "The server failed on this request."))
        finally:
            exchange.release()
            self._stories.end(exchange.told())

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request is turned away, if it is."""
        if refusal := self._admission(scope, headers):
            return refusal
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > self._max_body:
            sentence = f"The body has {length[:20]} bytes; at most {self._max_body} are read."
            return Refusal(413, sentence)
        has_body = length not in ("", "0") or "transfer-encoding" in headers
        if scope["method"] in ("POST", "PUT", "PATCH") and has_body:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                return Refusal(415, "Send JSON, with the header 'Content-Type: application/json'.")
            if headers.get("content-encoding", "identity") != "identity":
                return Refusal(415, "Send the body uncompressed.")
        return None

    def _admission(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        """Why whoever asks may not ask, if so; else the scope learns whose the request is."""
        if refusal := self._callers.refusal(scope, headers):
            return refusal
        owner = self._keys.owner(headers)
        is_open = scope["path"] in OPEN_PATHS or is_page(scope["path"])
        if owner is None and not is_open:
            return Refusal(
                401, "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            )
        scope.setdefault("state", {})["owner"] = owner or ""
        return None


def _headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


class _Exchange:
    """One request and its answer, on their way through the guard."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body: int, held: Held
    ) -> None:
        self.scope = scope
        self._held = held
        self._num_held = 0
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
        self._receive, self._send = receive, send
        self._max_body = max_body
        self._began = time.monotonic()
        self._is_whole = False
        self._status = 0
        self._num_bytes = 0

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._received()
        if message["type"] == "http.request":
            self._is_whole = not message.get("more_body")
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes > self._max_body:
                raise Unread(413)
            self._hold(max(self._num_bytes - SMALL_BODY, 0))
        return message

    def _hold(self, num_bytes: int) -> None:
        self._held.take(num_bytes - self._num_held)
        self._num_held = num_bytes

    def release(self) -> None:
        """Let the body go."""
        self._held.release(self._num_held)

    async def _received(self) -> MutableMapping[str, Any]:
        """What comes next. The body must come in time; then only the client's leaving can."""
        if self._is_whole:
            return await self._receive()
        patience = self._began + BODY_S + self._num_bytes / BODY_RATE - time.monotonic()
        try:
            return await asyncio.wait_for(self._receive(), max(patience, 0.01))
        except TimeoutError:
            raise Unread(408) from None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            said = {name.lower() for name, _ in headers}
            headers += [pair for pair in SECURITY_HEADERS.items() if pair[0] not in said]
            if self._status in (408, 413):
                headers.append((b"connection", b"close"))
            if self._status == 500 and b"x-should-retry" not in said:
                headers.append((b"x-should-retry", b"false"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def answer(self, refusal: Refusal) -> None:
        """Send an error, unless an answer has begun."""
        if self._status:
            return
        status, sentence, code = refusal
        body = json.dumps(envelope(status, sentence, code=code)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def told(self) -> Story:
        """The story, as far as the guard knows it."""
        self.story.status = self._status
        self.story.endpoint = getattr(self.scope.get("route"), "path", "")
        return self.story

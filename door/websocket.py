"""The Responses API over a WebSocket: one turn after another, each told in the same events.

Turns with `store: false` can be continued on the socket that made them, and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from typing import Any

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from door.bodies import LARGE_BODY, written
from door.log import Story, told
from door.requests import ResponseRequest
from door.responses import Responses
from door.runs import END_S, Run
from door.stream import SEND_TIMEOUT_S
from door.turns import alone_in_turn
from parts import InvalidRequest, ServerError
from protocol import errors, strict_json
from protocol.items import Item

log = logging.getLogger("mlx_server")

PATH = "/v1/responses"
PRIVATE_TURNS = 64
"""Turns that one socket keeps for itself; the oldest are forgotten."""
PRIVATE_BYTES = 32 * 2**20
"""What these may take together."""
GOING_AWAY, POLICY_VIOLATION = 1012, 1008
MAX_FRAMES = 16
"""Frames that may wait for the turns before them; more wait on the wire."""


class Session:
    """The turns of one socket."""

    def __init__(self, socket: WebSocket, made: Responses) -> None:
        self._socket = socket
        self._made = made
        self._private = Private()
        self._telling = asyncio.Lock()
        self._frames: asyncio.Queue[Message] = asyncio.Queue(MAX_FRAMES)

    async def serve(self) -> None:
        """Answer frames until the client leaves, which ends the turn that is being told."""
        await self._socket.accept()
        turns = asyncio.create_task(self._turns())
        try:
            while (frame := await self._socket.receive())["type"] != "websocket.disconnect":
                await self._frames.put(frame)
        finally:
            turns.cancel()
            await asyncio.gather(turns, return_exceptions=True)

    async def end(self) -> None:
        """Say that the server goes, when the turn that is being told has come to its end."""
        with contextlib.suppress(Exception):  # whoever has left needs no goodbye
            async with asyncio.timeout(END_S):
                async with self._telling:
                    sentence = "The server is shutting down."
                    gone = errors.envelope(503, sentence, code="shutting_down")
                    await self._send(_error_frame(503, gone))
                    await self._socket.close(GOING_AWAY)

    async def _turns(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                frame = await self._frames.get()
                async with self._telling:
                    await self._answer(frame)
        while True:  # nobody is there any more, which `serve` is about to hear
            await self._frames.get()

    async def _answer(self, frame: Message) -> None:
        try:
            await self._turn(*await _request(frame))
        except ServerError as error:
            await self._send(_error_frame(errors.status_of(error), errors.body_of(error)))
        except ValidationError as error:
            problems = [dict(problem) for problem in error.errors()]
            await self._send(_error_frame(422, errors.validation_body(problems)))
        except WebSocketDisconnect:
            raise
        except Exception as error:  # as the guard does: nothing of it may reach the client
            log.error("a turn on a socket failed: %s", told(error))
            sentence = "The server failed on this request."
            await self._send(_error_frame(500, errors.envelope(500, sentence)))

    async def _turn(self, given: dict[str, Any], is_warm_up: bool) -> None:
        previous = given.get("previous_response_id")
        past = self._private.get(previous) if previous else None
        if past is not None:
            given["store"] = False
        try:
            run = await self._begin(given, past, is_warm_up=is_warm_up)
            await self._tell(run)
        except ServerError:
            self._private.forget(previous)
            raise
        if run.error is not None:
            # A turn that failed takes what it continued with it.
            self._private.forget(previous)
        elif given.get("store") is False:
            said = [*run.history, *run.items, *run.response["output"]]
            self._private.keep(run.id, said, len(await written(said)))

    async def _begin(
        self, given: dict[str, Any], past: list[Item] | None, *, is_warm_up: bool
    ) -> Run:
        source = self._socket.headers.get("user-agent", "")
        owner = self._socket.state.owner
        draft = await self._made.draft(given, source=source, past=past, owner=owner)
        story = Story(method="WEBSOCKET", path=PATH, endpoint=PATH, status=101, source=source)
        return await self._made.make(given, draft, story, past=past, is_warm_up=is_warm_up)

    async def _tell(self, run: Run) -> None:
        """Send a run's events; give it up when the client leaves."""
        try:
            async for events in run.follow():
                for event in events:
                    await self._send(event)
        finally:
            run.cancel()
            self._made.stories.end(run.story)

    async def _send(self, value: Any) -> None:
        """Send a frame. Raises `WebSocketDisconnect` when the client has stopped reading, too."""
        text = (await written(value)).decode("ascii")
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send_text(text)
        except TimeoutError:
            log.warning("a client did not read its socket for %d s", SEND_TIMEOUT_S)
            raise WebSocketDisconnect(POLICY_VIOLATION) from None


class Private:
    """What was said up to each turn that is kept on one socket only, by response id."""

    def __init__(self) -> None:
        self._pasts: OrderedDict[str, tuple[list[Item], int]] = OrderedDict()
        self._num_bytes = 0

    def get(self, id: str) -> list[Item] | None:
        """What was said up to a turn, if it is kept here."""
        found = self._pasts.get(id)
        return found[0] if found else None

    def keep(self, id: str, items: list[Item], size: int) -> None:
        """Keep a turn of so many bytes. The oldest make room, but not for one that fills it."""
        self._pasts[id] = (items, size)
        self._num_bytes += size
        while len(self._pasts) > PRIVATE_TURNS or self._num_bytes > PRIVATE_BYTES:
            self.forget(next(iter(self._pasts)))

    def forget(self, id: str | None) -> None:
        """Let a turn go, if it is kept here."""
        if found := self._pasts.pop(id or "", None):
            self._num_bytes -= found[1]


class Sockets:
    """The sockets that are open."""

    def __init__(self) -> None:
        self._sessions: set[Session] = set()

    async def serve(self, session: Session) -> None:
        """Serve one to its end."""
        self._sessions.add(session)
        try:
            await session.serve()
        finally:
            self._sessions.discard(session)

    async def end(self) -> None:
        """Say goodbye on all of them, when the engine has ended its answers."""
        await asyncio.gather(*(session.end() for session in self._sessions))


async def _request(frame: Message) -> tuple[dict[str, Any], bool]:
    """The request in a frame, and whether it is only to be prepared. Raises as `_read` does."""
    text = frame.get("text")
    body = frame.get("bytes") or b"" if text is None else text.encode()
    return await alone_in_turn(_read, body) if len(body) > LARGE_BODY else _read(body)


def _read(body: bytes) -> tuple[dict[str, Any], bool]:
    """Read a request. Raises `InvalidRequest`, and `ValidationError` when its shape is wrong."""
    fields = _fields(strict_json.loads(body))
    given = ResponseRequest.model_validate(fields).given() | {"stream": True}
    return given, fields.get("generate") is False


def _fields(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("type") != "response.create":
        raise InvalidRequest("Send objects of type 'response.create'.", param="type")
    inner = value.get("response")
    return inner if isinstance(inner, dict) else value


def _error_frame(status: int, envelope: dict[str, Any]) -> dict[str, Any]:
    return {"type": "error", "status": status, "error": envelope["error"]}


def add_routes(router: APIRouter, made: Responses) -> Sockets:
    """Add the socket at `/v1/responses`. Returns those that are open."""
    sockets = Sockets()

    @router.websocket(PATH)
    async def responses(socket: WebSocket) -> None:
        await sockets.serve(Session(socket, made))

    return sockets

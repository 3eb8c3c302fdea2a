"""The wire is a connection before there is a request on it: uvicorn's, which waits only so long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from door import open_files
from protocol.errors import RETRY_AFTER_S, envelope

IDLE_S, PROBE_EVERY_S, NUM_PROBES = 60, 15, 4
"""Seconds of silence after which the operating system asks whether the other side is still there,
seconds between two such questions, and how many go unanswered before it is taken to be gone."""
UNACKNOWLEDGED_S = 120
"""Seconds that what was sent may stay unacknowledged."""
HEADERS_S = 10.0
"""Seconds that a request's headers may take, from the first byte; the first of a connection, from
its beginning."""


def _options() -> Iterator[tuple[int, int, int]]:
    """What the operating system is to do for a connection, as far as this one can."""
    # Asyncio does this only for sockets that name their protocol. Without it, what follows another
    # piece waits until that one is acknowledged: 40 ms.
    yield socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    # Whoever is gone without a word is found out.
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    for name, value in {
        "TCP_KEEPIDLE": IDLE_S,
        "TCP_KEEPALIVE": IDLE_S,  # what macOS calls it
        "TCP_KEEPINTVL": PROBE_EVERY_S,
        "TCP_KEEPCNT": NUM_PROBES,
        "TCP_USER_TIMEOUT": UNACKNOWLEDGED_S * 1000,
    }.items():
        if (option := getattr(socket, name, None)) is not None:
            yield socket.IPPROTO_TCP, option, value


class Wire(H11Protocol):
    """One connection. What is no HTTP, or does not become a request in time, ends it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if connection := transport.get_extra_info("socket"):
            for level, option, value in _options():
                with contextlib.suppress(OSError):  # no kind of socket must have all of them
                    connection.setsockopt(level, option, value)
        if len(self.connections) > open_files.max_connections():
            open_files.warn_of_shortage()
            self._refuse(503, "Too many connections are open here. Try again later.")
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering:
            self._stop_waiting()
        elif self._patience is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "This is not an HTTP request that this server understands.")

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._patience = self.loop.call_later(HEADERS_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        is_ours = self.transport.get_protocol() is self  # and not a socket's by now
        if is_ours and not self.transport.is_closing() and not self._is_answering:
            self._refuse(408, f"No request came within {HEADERS_S:g} s.")

    def _refuse(self, status: int, sentence: str) -> None:
        body = json.dumps(envelope(status, sentence)).encode()
        later = b"retry-after: %d\r\n" % RETRY_AFTER_S if status == 503 else b""
        self.transport.write(
            b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-content-type-options: nosniff\r\n%bconnection: close\r\n\r\n"
            % (status, len(body), later)
            + body
        )
        self.transport.close()

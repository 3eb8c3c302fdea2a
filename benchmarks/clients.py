"""Clients of a server, in a process of their own, so that their work does not slow what they watch.

    echo '{"plan": "load", …}' | python benchmarks/clients.py

The first line of the input is a job, the output is one JSON object. While a stream runs, bytes are
only kept with the time they came; they are read when all is over. Times are seconds since the job
began.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
IS_TOKEN = re.compile(rb'"(?:content|reasoning|reasoning_content)": ?"[^"]')
"""The first bytes of an answer, whichever server writes them."""


# One exchange


class Exchange(asyncio.Protocol):
    """One request and the bytes of its answer, each piece with the time it came."""

    def __init__(self, request: bytes, began: asyncio.Event | None = None) -> None:
        """`began` is set with the first token, or when none will come."""
        self._request = request
        self._transport: asyncio.WriteTransport
        self.received: list[tuple[float, bytes]] = []
        self._began = began or asyncio.Event()
        self.is_over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """How it ended: `done`, or `reset` when the connection was lost before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.perf_counter(), data))
        if not self._began.is_set() and IS_TOKEN.search(data):
            self._began.set()
        if data.endswith((b"[DONE]\n\n", b"[DONE]\n\n\r\n", b"0\r\n\r\n")):
            self._end("done")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("reset" if exc or not self.received else "done")

    def leave(self) -> None:
        """Go, whatever has come."""
        self._end("left")
        self._transport.abort()

    def close(self) -> None:
        """Let the connection go, of which nothing more is wanted."""
        self._transport.close()

    def _end(self, how: str) -> None:
        self._began.set()
        if not self.is_over.done():
            self.is_over.set_result(how)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that is over, with its answer as it came: to read it now would hold others up."""

    began: float
    ended: float
    received: list[tuple[float, bytes]]
    how: str


class Target:
    """Where the requests go, and since when."""

    def __init__(self, job: Json) -> None:
        self.host, self.port = job["host"], job["port"]
        self.path = job.get("path", "/v1/chat/completions")
        self.timeout = job.get("timeout", 300.0)
        self.epoch = time.perf_counter()

    def request(self, body: Json) -> bytes:
        content = json.dumps(body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    async def send(
        self, body: Json, leave: asyncio.Event | None = None, begun: asyncio.Event | None = None
    ) -> Sent:
        """Send a chat and wait for its answer, or leave before it has ended."""
        began = time.perf_counter()
        request = self.request(body)
        exchange = Exchange(request, begun)
        try:
            async with asyncio.timeout(self.timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: exchange, self.host, self.port
                )
                how = await _ended(exchange, leave)
        except TimeoutError:
            how = "timeout"
        except ConnectionRefusedError:
            how = "refused"
        except OSError:
            how = "reset"
        if exchange.received:
            exchange.close()
        received = exchange.received
        ended = received[-1][0] if received else time.perf_counter()
        return Sent(began, ended, received, how)

    def read(self, sent: Sent) -> Json:
        """What an answer was, and when its tokens came."""
        received, how = sent.received, sent.how
        found: Json = {"began": sent.began - self.epoch, "status": how, "times": [], "text": ""}
        found["ended"] = sent.ended - self.epoch
        raw = b"".join(data for _, data in received)
        # mlx_lm.server writes comments before its head while a long prompt is computed.
        head_at = raw.find(b"HTTP/1.")
        head = raw[: raw.find(b"\r\n\r\n")]
        status = head[head_at:].split(b" ")[1:2]
        if how not in ("done", "left") or not status:
            return found
        found["status"] = int(status[0])
        if found["status"] != 200:
            found["error"] = raw[-300:].decode("utf-8", "replace")
            return found
        for at, event in _events(received, head):
            _take(found, at - self.epoch, event)
        if how == "done" and b"[DONE]" not in raw:
            found["status"] = "cut"
        return found


async def _ended(exchange: Exchange, leave: asyncio.Event | None) -> str:
    if leave is None:
        return await exchange.is_over
    leaving = asyncio.ensure_future(leave.wait())
    await asyncio.wait((exchange.is_over, leaving), return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not exchange.is_over.done():
        exchange.leave()
    return await exchange.is_over


def _events(received: list[tuple[float, bytes]], head: bytes) -> Iterator[tuple[float, Json]]:
    """The events of an answer, each with the time its last byte came."""
    arrivals = iter(received)
    at, have = next(arrivals)
    num_bytes = len(have)
    raw = b"".join(data for _, data in received)
    is_chunked = b"transfer-encoding: chunked" in head.lower()
    line = b""
    for end, piece in _pieces(raw, len(head) + 4, is_chunked):
        while num_bytes < end:
            at, have = next(arrivals)
            num_bytes += len(have)
        *lines, line = (line + piece).split(b"\n")
        for each in lines:
            if each.startswith(b"data: {"):
                with contextlib.suppress(ValueError):
                    yield at, json.loads(each[6:])


def _pieces(raw: bytes, start: int, is_chunked: bool) -> Iterator[tuple[int, bytes]]:
    """The body in pieces, each with the offset of its end in all the bytes."""
    while start < len(raw):
        if is_chunked:
            size, _, _ = raw[start : start + 20].partition(b"\r\n")
            start += len(size) + 2
            end = start + int(size or b"0", 16)
            yield min(end, len(raw)), raw[start:end]
            start = end + 2
        else:
            end = raw.find(b"\n", start) + 1 or len(raw)
            yield end, raw[start:end]
            start = end


def _take(found: Json, at: float, event: Json) -> None:
    if usage := event.get("usage"):
        found["prompt_tokens"] = usage["prompt_tokens"]
        found["completion_tokens"] = usage["completion_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        found["cached_tokens"] = details.get("cached_tokens") or 0
    if "error" in event:
        found["status"], found["error"] = "failed", json.dumps(event)[:300]
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        content = delta.get("content") or ""
        if content or delta.get("reasoning") or delta.get("reasoning_content"):
            found["times"].append(at)
            found["text"] += content


# Plans


async def load(job: Json) -> Json:
    """So many clients, each sending the next request as soon as it has its answer."""
    target, answers = Target(job), list[Sent]()
    waiting = iter(job["requests"])

    async def client() -> None:
        for body in waiting:
            answers.append(await target.send(body))

    await asyncio.gather(*(client() for _ in range(job["clients"])))
    return {"answers": [target.read(answer) for answer in answers]}


async def interrupted(job: Json) -> Json:
    """Streams that run for a while, and then beside a long prompt until its first token."""
    target, leave = Target(job), asyncio.Event()
    answers: list[Sent] = []

    async def client(bodies: list[Json], begun: asyncio.Event) -> None:
        for body in bodies:
            answers.append(await target.send(body, leave, begun))
            begun.set()
            if leave.is_set():
                return

    begun = [asyncio.Event() for _ in job["streams"]]
    clients = [
        asyncio.ensure_future(client(bodies, event))
        for bodies, event in zip(job["streams"], begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    all_ran = time.perf_counter() - target.epoch
    await asyncio.sleep(job["before_s"])
    sent = time.perf_counter() - target.epoch
    answer = await target.send(job["long"])
    leave.set()
    await asyncio.gather(*clients)
    return {
        "answers": [target.read(answer) for answer in answers],
        "all_ran": all_ran,
        "sent": sent,
        "long": target.read(answer),
    }


def health(job: Json) -> Json:
    """Ask for /health again and again, until the input ends; once at least."""
    times, num_failed = [], 0
    connection = http.client.HTTPConnection(job["host"], job["port"], timeout=30)
    is_over = False
    while not is_over:
        began = time.perf_counter()
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
        except OSError:
            num_failed += 1
            connection.close()
        is_over = bool(select.select([sys.stdin], [], [], job["every_s"])[0])
    return {"times": times, "failed": num_failed}


def main() -> None:
    job = json.loads(sys.stdin.readline())
    match job["plan"]:
        case "load":
            result = asyncio.run(load(job))
        case "interrupted":
            result = asyncio.run(interrupted(job))
        case _:
            result = health(job)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()

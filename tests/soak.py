"""A soak: many clients for a long time, each of which knows what it must be told.

    python -m tests.soak --seconds 600

The server runs the demo model in float32, where an answer among others is the answer alone. Clients
ask in every way there is, leave, cancel, read slowly and send what cannot be served. Whatever is
not as it should be is a fault; at the end the server must be idle, and as small as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from demo.words import Draw
from tests import demo
from tests.oracle import events
from tests.serving import Running, running

Json = dict[str, Any]
NUM_CLIENTS = 32
FLAGS = (
    *("--conversation-ttl", "5", "--log-level", "warning", "--max-batch", "16"),
    *("--prompt-cache-bytes", "64M"),  # full in a moment, so that what grows is a leak
)
EXACT: Json = {"temperature": 0, "enable_thinking": False, "max_tokens": 40}
ENDLESS: Json = {"logit_bias": demo.NEVER_END, "max_tokens": 400}
WARM_UP = 0.3
"""The part of the time in which caches fill, and memory may grow."""


@dataclass
class Report:
    """What a soak came to."""

    seconds: float
    num_ways: int = 0
    """In how many ways clients may ask."""
    asked: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Minutes since the beginning, and MB of the server's process."""

    @property
    def growth(self) -> float:
        """MB a minute after the warm-up: the slope of the line that fits best."""
        late = [(x, y) for x, y in self.memory if x * 60 >= self.seconds * WARM_UP]
        mean_x = sum(x for x, _ in late) / len(late)
        mean_y = sum(y for _, y in late) / len(late)
        spread = sum((x - mean_x) ** 2 for x, _ in late)
        return sum((x - mean_x) * (y - mean_y) for x, y in late) / spread if spread else 0.0

    def judged(self, max_growth: float) -> list[str]:
        """What was not as it should be; memory may grow by `max_growth` MB a minute."""
        faults = list(self.faults)
        if len(self.asked) < self.num_ways:
            faults.append(f"asked in {len(self.asked)} of {self.num_ways} ways")
        if self.growth > max_growth:
            faults.append(f"memory grows by {self.growth:.2f} MB/min")
        return faults

    def __str__(self) -> str:
        lines = [f"{count:7,}  {kind}" for kind, count in sorted(self.asked.items())]
        first, last = self.memory[0][1], self.memory[-1][1]
        lines += [
            f"{sum(self.asked.values()):7,}  in {self.seconds:.0f} s",
            f"memory {first:.0f} MB, at the end {last:.0f} MB, {self.growth:+.2f} MB/min",
            f"faults: {len(self.faults)}",
            *self.faults[:20],
        ]
        return "\n".join(lines)


def soak(server: Running, seconds: float, num_clients: int = NUM_CLIENTS) -> Report:
    """Let clients at a server for so long, and see what is left behind."""
    report = Report(seconds)
    asyncio.run(_soak(server, report, num_clients))
    server.wait_until_idle()
    if num_failed := server.health().json()["failed_steps"]:
        report.faults.append(f"{num_failed} steps failed")
    report.faults += server.complaints()
    return report


async def _soak(server: Running, report: Report, num_clients: int) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=num_clients)
    async with httpx.AsyncClient(base_url=server.base_url, timeout=120, limits=limits) as http:
        clients = [Client(http, number, report) for number in range(num_clients)]
        report.num_ways = len(clients[0].ways)
        for client in clients:  # one after another: what each is told when it is alone
            await client.learn()
        began = time.monotonic()
        watching = asyncio.create_task(_watch(server, report, began))
        await asyncio.gather(*(client.ask_until(began + report.seconds) for client in clients))
        watching.cancel()
        report.memory.append(((time.monotonic() - began) / 60, _megabytes(server)))


async def _watch(server: Running, report: Report, began: float) -> None:
    while True:
        report.memory.append(((time.monotonic() - began) / 60, _megabytes(server)))
        await asyncio.sleep(1)


def _megabytes(server: Running) -> float:
    asked = ["ps", "-o", "rss=", "-p", str(server.process.pid)]
    return int(subprocess.run(asked, capture_output=True, check=True).stdout) / 1024


class Client:
    """One client: a text of its own, and the answer to it."""

    def __init__(self, http: httpx.AsyncClient, number: int, report: Report) -> None:
        self._http = http
        self._report = report
        self._random = random.Random(number)
        draw = Draw(number)
        self._text = f"Repeat after me: {' '.join(draw.word() for _ in range(5))}"
        self._right = ""
        self.ways: list[Callable[[], Awaitable[None]]] = [
            *(self.chat, self.stream, self.respond, self.stream_response, self.continue_it),
            *(self.over_socket, self.in_background, self.leave, self.leave_at_once, self.cancel),
            *(self.read_slowly, self.send_too_much, self.send_nonsense, self.converse, self.look),
        ]

    async def learn(self) -> None:
        """Ask once, alone."""
        answer = await self._post("/v1/chat/completions", self._chat())
        self._right = answer.json()["choices"][0]["message"]["content"]

    async def ask_until(self, deadline: float) -> None:
        """Ask in one way or another until it is time to stop."""
        while time.monotonic() < deadline:
            way = self._random.choice(self.ways)
            self._report.asked[way.__name__] += 1
            try:
                await asyncio.wait_for(way(), 120)
            except Exception as error:  # whatever it is, it is a fault of the server
                self._report.faults.append(f"{way.__name__}: {type(error).__name__} {error}"[:300])

    # Ways to ask

    async def chat(self) -> None:
        answer = await self._post("/v1/chat/completions", self._chat())
        self._check(answer.json()["choices"][0]["message"]["content"])

    async def stream(self) -> None:
        answer = await self._post("/v1/chat/completions", self._chat(stream=True))
        *chunks, done = events(answer.text)
        assert done == "[DONE]"
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
        self._check("".join(delta.get("content") or "" for delta in deltas))

    async def respond(self) -> None:
        answer = await self._post("/v1/responses", self._response())
        self._check(text_of(answer.json()))

    async def stream_response(self) -> None:
        answer = await self._post("/v1/responses", self._response(stream=True))
        *told, done = events(answer.text)
        assert done == "[DONE]"
        self._check(text_of(told[-1]["response"]))

    async def continue_it(self) -> None:
        first = (await self._post("/v1/responses", self._response())).json()
        again = self._response(previous_response_id=first["id"])
        assert text_of((await self._post("/v1/responses", again)).json())
        items = await self._get(f"/v1/responses/{first['id']}/input_items")
        assert items["data"][0]["content"][0]["text"] == self._text
        await self._http.delete(f"/v1/responses/{first['id']}")

    async def over_socket(self) -> None:
        address = str(self._http.base_url.join("/v1/responses")).replace("http", "ws", 1)
        async with connect(address, open_timeout=60) as socket:
            for _ in range(2):
                asked = {"type": "response.create", **self._response(store=False)}
                await socket.send(json.dumps(asked))
                while (told := json.loads(await socket.recv()))["type"] != "response.completed":
                    assert told["type"] != "error", told
                self._check(text_of(told["response"]))

    async def in_background(self) -> None:
        made = (await self._post("/v1/responses", self._response(background=True))).json()
        while made["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0.05)
            made = await self._get(f"/v1/responses/{made['id']}")
        self._check(text_of(made))

    async def leave(self) -> None:
        async with self._streamed(self._chat(stream=True, **ENDLESS)) as lines:
            for _ in range(self._random.randrange(1, 30)):
                await anext(lines, None)

    async def leave_at_once(self) -> None:
        asking = asyncio.create_task(self._post("/v1/chat/completions", self._chat(**ENDLESS)))
        await asyncio.sleep(self._random.random() / 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def cancel(self) -> None:
        asked = self._response(background=True, max_output_tokens=2000)
        made = (await self._post("/v1/responses", asked)).json()
        await asyncio.sleep(self._random.random() / 5)
        ended = await self._post(f"/v1/responses/{made['id']}/cancel", None)
        assert ended.json()["status"] in ("cancelled", "completed")

    async def read_slowly(self) -> None:
        text = ""
        async with self._streamed(self._chat(stream=True)) as lines:
            async for line in lines:
                await asyncio.sleep(0.02)
                if line.startswith("data: {"):
                    delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
                    text += delta.get("content") or ""
        self._check(text)

    async def send_too_much(self) -> None:
        long = self._random.choice([9, 100]) * demo.CONTEXT_WINDOW * "a b"
        body = {"messages": [{"role": "user", "content": long}]}
        answer = await self._http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"

    async def send_nonsense(self) -> None:
        for body in ({"messages": 7}, {"messages": []}, {"messages": [{}], "temperature": -1}):
            answer = await self._http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 422
        answer = await self._http.post("/v1/responses", content=b"{" * self._random.randrange(999))
        assert answer.status_code in (400, 415, 422)

    async def converse(self) -> None:
        talk = (await self._post("/v1/conversations", {})).json()
        answer = await self._post("/v1/responses", self._response(conversation=talk["id"]))
        self._check(text_of(answer.json()))
        assert len((await self._get(f"/v1/conversations/{talk['id']}/items"))["data"]) == 2
        assert (await self._http.delete(f"/v1/conversations/{talk['id']}")).status_code == 200

    async def look(self) -> None:
        assert (await self._get("/health"))["status"] == "ok"
        assert len((await self._get("/v1/models"))["data"]) == 1

    # What they have in common

    def _check(self, answer: str) -> None:
        assert answer == self._right, f"told {answer!r} and not {self._right!r}"

    def _chat(self, **rest: Any) -> Json:
        return {"messages": [{"role": "user", "content": self._text}], **EXACT, **rest}

    def _response(self, **rest: Any) -> Json:
        exact = {key: value for key, value in EXACT.items() if key != "max_tokens"}
        return {"input": self._text, "max_output_tokens": 40, **exact, **rest}

    async def _post(self, path: str, body: Json | None) -> httpx.Response:
        answer = await self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text[:200]
        return answer

    async def _get(self, path: str) -> Any:
        answer = await self._http.get(path)
        assert answer.status_code == 200, answer.text[:200]
        return answer.json()

    @contextlib.asynccontextmanager
    async def _streamed(self, body: Json) -> AsyncIterator[AsyncIterator[str]]:
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            yield answer.aiter_lines()


def text_of(response: Json) -> str:
    """What a response says."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


def main() -> int:
    """Soak a server of one's own, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=NUM_CLIENTS)
    parser.add_argument("--max-growth", type=float, default=1.0, help="MB a minute")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as model:
        flags = (*FLAGS, "--conversation-logs", f"{folder}/logs")
        with running(Path(folder), *flags, model=demo.in_float32(Path(model))) as server:
            report = soak(server, asked.seconds, asked.clients)
            faults = report.judged(asked.max_growth)
            faults += [] if (code := server.stop()) == 0 else [f"exit code {code}"]
            faults += server.complaints()
    print(report)
    print("\n".join(faults) or "well")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

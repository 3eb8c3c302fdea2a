"""How long the event loop is held up while large bodies are read, checked, kept and shown.

    python benchmarks/stalls.py                        every body, and what is asked of it later
    python benchmarks/stalls.py --only emoji tools     some of them
    python benchmarks/stalls.py --engine --ctx-size 1000000 --megabytes 15      with the demo model

A task on the loop wakes every 5 ms and notes how late it is: so long nobody was served. Lateness
counts as ours as far as this process used the CPU meanwhile, which other work on the machine does
not add to. The client is another process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from door.settings import Settings  # noqa: E402
from door.wire import Wire  # noqa: E402
from inference.engine import SWITCH_S  # noqa: E402
from parts import (  # noqa: E402
    Engine,
    EngineStatus,
    Finish,
    ModelCard,
    Part,
    Progress,
    Prompt,
    SamplingParams,
    Text,
    Usage,
)
from server import _engine, create_app  # noqa: E402

Json = Any
WAKE_S = 0.005
MB = 2**20
SENTENCE = "The quick brown fox jumps over the lazy dog, and home. "
CODE = 'if (a[0] == "x") {\n\treturn f(a, {"b": 1});\n}\n'
CHINESE = "这是一个句子，里面什么也没有。"


# Bodies, of about so many bytes


def text_of(unit: str, num_bytes: int) -> str:
    return unit * (num_bytes // len(json.dumps(unit, ensure_ascii=False).encode()[1:-1]))


def turns(number: int, num_bytes: int) -> list[Json]:
    text = text_of(SENTENCE, num_bytes // number - 80)
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i} {text}"} for i in range(number)]


def calls(number: int) -> list[Json]:
    arguments = json.dumps({"path": text_of(SENTENCE, 1_000)})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    asked = {"role": "assistant", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": text_of(CODE, 2_000)}
    return [{"role": "user", "content": "hi"}, *[asked, result] * number]


def parts(num_bytes: int) -> list[Json]:
    part = {"type": "text", "text": "x" * (num_bytes // 25_000)}
    return [{"role": "user", "content": [part] * 9_999}] * 2


def keys(number: int) -> dict[str, Json]:
    return {f"k{i}": 1 for i in range(number)}


def tools(number: int, parameters: Json) -> list[Json]:
    def tool(name: str) -> Json:
        inner = {"name": name, "parameters": parameters}
        return {"type": "function", **inner, "function": inner}

    return [tool(f"f{i}") for i in range(number)]


SCHEMA = {"type": "object", "properties": {f"a{i}": {"type": "string"} for i in range(400)}}
VALUES: dict[str, Json] = {
    "numbers": [1] * 240_000,
    "fractions": [1.123456789012345678] * 240_000,
    "lists": [[]] * 120_000,
    "objects": [{"a": 1}] * 120_000,
    "keys": keys(240_000),
    "texts": ["x" * 100] * 240_000,
}
TEXTS: dict[str, Callable[[int], str]] = {
    "words": lambda n: text_of(SENTENCE, n),
    "code": lambda n: text_of(CODE, n),
    "Chinese": lambda n: text_of(CHINESE, n),
    "an emoji": lambda n: text_of(SENTENCE, n // 4) + "😀",
}


def chat(content: Json = "hi", **more: Json) -> Json:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1, **more}


CHATS: dict[str, Callable[[int], Json]] = {
    **{f"a text of {name}": lambda n, of=of: chat(of(n)) for name, of in TEXTS.items()},
    "a text too large": lambda n: chat(text_of(SENTENCE, n) + "😀"),
    "10,000 messages": lambda n: {"messages": turns(10_000, n)},
    "4,000 calls": lambda n: {"messages": calls(4_000)},
    "20,000 parts": lambda n: {"messages": parts(n)},
    "a part of many keys": lambda n: chat([{"type": "text", "text": "", **keys(240_000)}]),
    "128 tools": lambda n: chat(tools=tools(128, SCHEMA)),
    "a tool of many numbers": lambda n: chat(tools=tools(1, {"a": VALUES["numbers"]})),
    "a tool of many keys": lambda n: chat(tools=tools(1, keys(120_000))),
    "a format of many keys": lambda n: chat(response_format=keys(240_000)),
    **{f"unknown {name}": lambda n, v=value: chat(unknown=v) for name, value in VALUES.items()},
    "something wrong": lambda n: {"messages": [*turns(9_999, n), {"role": 7}]},
}
RESPONSES: dict[str, Callable[[int], Json]] = {
    **{f"a text of {name}": lambda n, of=of: {"input": of(n)} for name, of in TEXTS.items()},
    "instructions": lambda n: {"input": "hi", "instructions": text_of(CODE, n)},
    "10,000 items": lambda n: {"input": turns(10_000, n)},
    "128 tools": lambda n: {"input": "hi", "tools": tools(128, SCHEMA)},
    "something sealed": lambda n: {
        "input": [{"type": "reasoning", "encrypted_content": f"v1.{'A' * n}"}]
    },
}
CONVERSATIONS: dict[str, Callable[[int], Json]] = {
    **{f"a text of {name}": lambda n, of=of: {"items": [of(n)]} for name, of in TEXTS.items()},
    "10,000 items": lambda n: {"items": turns(10_000, n)},
}
BODIES = {
    "/v1/chat/completions": CHATS,
    "/v1/responses": RESPONSES,
    "/v1/conversations": CONVERSATIONS,
}
LATER = {
    "/v1/responses": (
        "GET /v1/responses/{id}",
        "GET /v1/responses/{id}/input_items?limit=100",
        'POST /v1/responses {"input": "and?", "previous_response_id": "{id}"}',
        "GET /conversations",
        "GET /conversations/{id}",
    ),
    "/v1/conversations": (
        "GET /v1/conversations/{id}",
        "GET /v1/conversations/{id}/items?limit=100",
        'POST /v1/conversations/{id}/items {"items": [{"role": "user", "content": "more"}]}',
        'POST /v1/responses {"input": "hi", "conversation": "{id}"}',
        "GET /conversations?q=nothing",
    ),
}
"""What is asked of what was kept."""


class Said:
    """An answer of one word."""

    progress = Progress()

    async def __aiter__(self) -> AsyncIterator[Sequence[Part]]:
        yield [Text("word"), Finish("stop", Usage())]

    def cancel(self) -> None:
        pass


class SayingEngine:
    """An engine that answers every prompt with a word."""

    def __init__(self, context_window: int) -> None:
        self.status = EngineStatus("ready", model=ModelCard("says", context_window))

    async def start(self) -> None:
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # as the server does when it has loaded

    async def stop(self, drain: float = 0.0) -> None:
        pass

    async def failed(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def count(self, prompt: Prompt) -> int:
        return 1

    async def submit(
        self, prompt: Prompt, params: SamplingParams, *, keep_alive: float | None = None
    ) -> Said:
        return Said()

    async def submit_choices(
        self,
        prompt: Prompt,
        choices: Sequence[SamplingParams],
        *,
        keep_alive: float | None = None,
    ) -> list[Said]:
        return [Said() for _ in choices]


# What is measured


@dataclass
class Blocks:
    """How late a task of the loop was at its worst, in seconds."""

    late: float = 0.0
    ours: float = 0.0
    """As far as this process used the CPU meanwhile."""
    own: float = 0.0
    """As far as the loop's own thread did."""

    async def watch(self) -> None:
        while True:
            began, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
            await asyncio.sleep(WAKE_S)
            late = time.perf_counter() - began - WAKE_S
            self.late = max(self.late, late)
            self.ours = max(self.ours, min(late, time.process_time() - cpu))
            self.own = max(self.own, min(late, time.thread_time() - own))


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[Blocks]:
    blocks = Blocks()
    task = asyncio.create_task(blocks.watch())
    await asyncio.sleep(3 * WAKE_S)
    try:
        yield blocks
    finally:
        await asyncio.sleep(3 * WAKE_S)
        task.cancel()


class Client:
    """The other process, which is told in lines what to ask."""

    async def start(self, port: int) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--client", str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def tell(self, *line: Json) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        return json.loads(await self._process.stdout.readline())

    async def end(self) -> None:
        self._process.kill()
        await self._process.wait()


def client(port: int) -> None:
    """Make bodies and send them, as standard input says."""
    body, path = b"", ""
    for line in sys.stdin:
        told: Json = None
        match json.loads(line):
            case ["make", path, name, num_bytes]:
                value = BODIES[path][name](num_bytes)
                body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
                told = len(body)
            case ["send"]:
                told = ask(port, "POST", path, body)
            case ["ask", method, where, text]:
                told = ask(port, method, where, text.encode())
        print(json.dumps(told), flush=True)


def ask(port: int, method: str, path: str, body: bytes) -> Json:
    """The status of an answer, its id and the seconds that it took."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body or None, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text).get("id", ""), time.perf_counter() - began


def row(name: str, size: str, told: Json, blocks: Blocks) -> None:
    times = "".join(f"{s * 1e3:>7.0f}" for s in (blocks.late, blocks.ours, blocks.own))
    print(f"{name[:62]:<64}{size:>5}{told[0]:>5}{told[2]:>7.2f}{times}", flush=True)


async def measure(given: argparse.Namespace) -> None:
    settings = Settings(no_conversation_logs=True, ctx_size=given.ctx_size)
    engine: Engine = _engine(settings) if given.engine else SayingEngine(given.ctx_size)
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings, engine)
    server = uvicorn.Server(uvicorn.Config(app, http=Wire, access_log=False, log_config=None))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started or engine.status.phase == "loading":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    asking = Client()
    await asking.start(listener.getsockname()[1])
    print(f"{'the worst of each, in ms':<64}{'MB':>5}{'':>5}{'s':>7}   late   ours   loop")
    for path, bodies in BODIES.items():
        for name in bodies:
            if any(word in f"{path} {name}" for word in given.only):
                await measure_body(asking, path, name, int(given.megabytes * MB))
    await asking.end()
    server.should_exit = True
    await serving


async def measure_body(asking: Client, path: str, name: str, num_bytes: int) -> None:
    """Send a body, and ask for what was kept of it."""
    size = await asking.tell("make", path, name, num_bytes)
    async with watched() as blocks:
        told = await asking.tell("send")
    row(f"POST {path}  {name}", f"{size / MB:.1f}", told, blocks)
    if told[0] != 200:
        return
    for line in LATER.get(path, ()):
        method, where, body = f"{line} ".replace("{id}", told[1]).split(" ", 2)
        async with watched() as blocks:
            later = await asking.tell("ask", method, where, body.strip())
        row(f"  {line}", "", later, blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="bodies by name")
    parser.add_argument("--megabytes", type=float, default=31, help="of a body (31)")
    parser.add_argument("--ctx-size", type=int, default=1_000_000, help="of the model (1000000)")
    parser.add_argument(
        "--engine", action="store_true", help="with the demo model, which computes all that fits"
    )
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        client(given.client)
        return
    config = uvicorn.Config("", log_config=None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(measure(given))


if __name__ == "__main__":
    main()

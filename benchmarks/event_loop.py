"""What a streamed chunk costs the event loop: the application around an engine that only feeds.

    python benchmarks/event_loop.py              CPU µs per chunk, by endpoint and number of streams
    python benchmarks/event_loop.py --profile    and where they go

Every stream gets one word a step, as from the real engine: one call from another thread, which
feeds all answers. The clients are another process. The CPU time is that of the event loop's thread
alone, with its system calls and what waking up costs; a word that joins one still unread makes no
chunk of its own. Of the runs, the least is told: other work on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from door.settings import Settings  # noqa: E402
from inference.answer import Answer  # noqa: E402
from parts import (  # noqa: E402
    EngineStatus,
    Finish,
    ModelCard,
    Progress,
    Prompt,
    SamplingParams,
    Text,
    Usage,
)
from server import create_app  # noqa: E402

CARD = ModelCard("fed", context_window=4_096)
UNCOUNTED = 20
"""Words that each stream gets before the clock starts."""
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "responses": {"input": "Hello", "stream": True},
}


class FedEngine:
    """Answers as many prompts as it waits for, all at the same pace."""

    def __init__(self) -> None:
        self.status = EngineStatus("ready", model=CARD)
        self.profile: cProfile.Profile | None = None
        self._answers: list[Answer] = []
        self._num_streams = 0
        self._num_words = 0
        self._num_chunks = 0
        self._began = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._cost: asyncio.Future[float]

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def stop(self, drain: float = 0.0) -> None:
        pass

    async def count(self, prompt: Prompt) -> int:
        return 1

    def expect(self, num_streams: int, num_words: int) -> asyncio.Future[float]:
        """The CPU seconds that a chunk will have taken, of so many words of so many streams."""
        self._answers, self._num_streams, self._num_words = [], num_streams, num_words
        self._cost = self._loop.create_future()
        return self._cost

    async def submit(
        self, prompt: Prompt, params: SamplingParams, *, keep_alive: float | None = None
    ) -> Answer:
        [answer] = await self.submit_choices(prompt, [params])
        return answer

    async def submit_choices(
        self,
        prompt: Prompt,
        choices: Sequence[SamplingParams],
        *,
        keep_alive: float | None = None,
    ) -> list[Answer]:
        answer = Answer(lambda: None, Progress)
        self._answers.append(answer)
        if len(self._answers) == self._num_streams:
            threading.Thread(target=self._feed_all, daemon=True).start()
        return [answer]

    def _feed_all(self) -> None:
        pause = 0.001 + 0.0003 * self._num_streams
        time.sleep(0.2)
        for number in range(-UNCOUNTED, self._num_words + 1):
            self._loop.call_soon_threadsafe(self._feed, number)
            time.sleep(pause)

    def _feed(self, number: int) -> None:
        if number == 0:
            self._began, self._num_chunks = time.thread_time(), 0
            if self.profile:
                self.profile.enable()
        if number == self._num_words:
            if self.profile:
                self.profile.disable()
            self._cost.set_result((time.thread_time() - self._began) / self._num_chunks)
        is_last = number == self._num_words
        part = Finish("stop", Usage()) if is_last else Text("word ")
        for answer in self._answers:
            self._num_chunks += not answer._parts
            answer.feed([part])


async def clients(port: int, endpoint: str, num_streams: int) -> None:
    """Read so many streams to their ends, in another process."""
    job = {
        "plan": "load",
        "host": "127.0.0.1",
        "port": port,
        "path": f"/v1/{endpoint}",
        "clients": num_streams,
        "requests": [BODIES[endpoint]] * num_streams,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks" / "clients.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps(job).encode() + b"\n")
    assert all(answer["status"] == 200 for answer in json.loads(out)["answers"])


async def measure(given: argparse.Namespace) -> None:
    engine = FedEngine()
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(Settings(no_conversation_logs=True), engine)
    server = uvicorn.Server(
        uvicorn.Config(app, access_log=False, log_config=None, ws_per_message_deflate=False)
    )
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    print(f"{'µs per chunk':<20}" + "".join(f"{n:>7} streams" for n in given.streams))
    for endpoint in BODIES:
        row = f"{endpoint:<20}"
        for num_streams in given.streams:
            num_words = max(100, given.chunks // num_streams)
            costs = []
            for _ in range(given.runs):
                cost = engine.expect(num_streams, num_words)
                await clients(listener.getsockname()[1], endpoint, num_streams)
                costs.append(await cost * 1e6)
            row += f"{min(costs):>15.1f}"
        print(row, flush=True)
    if given.profile:
        for endpoint in BODIES:
            await profile(engine, listener.getsockname()[1], endpoint)
    server.should_exit = True
    await serving


async def profile(engine: FedEngine, port: int, endpoint: str) -> None:
    engine.profile = cProfile.Profile()
    cost = engine.expect(8, 200)
    await clients(port, endpoint, 8)
    await cost
    print(f"\n{endpoint}: where the time of 1,600 chunks of 8 streams went")
    pstats.Stats(engine.profile, stream=sys.stdout).sort_stats("tottime").print_stats(30)
    engine.profile = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--chunks", type=int, default=4_000, help="of each run")
    parser.add_argument(
        "--runs", type=int, default=3, help="of which the least is told: other work only adds to it"
    )
    parser.add_argument("--profile", action="store_true")
    config = uvicorn.Config("", log_config=None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()

"""What is measured of a server, each measure by its name. Every number is what clients saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prompts import Prompts
from servers import Failed, Server, Watched

Json = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much of everything. Lengths are in tokens of the model."""

    tokens: int = 256
    words: int = 100
    runs: int = 1
    repeats: int = 3
    """The least number of runs where one takes no time."""
    clients: tuple[int, ...] = (1, 8, 32)
    prefix: int = 8_192
    long: int = 16_384
    arrivals: int = 256
    contexts: tuple[int, ...] = (1_024, 2_048, 4_096, 8_192, 16_384, 32_000)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    before_s: float = 2.0
    window: int = 4_096
    tokens_per_word: float = 3.0

    @property
    def rounds(self) -> int:
        """Requests that a client of the throughput sends."""
        return 2

    def num_words(self, num_tokens: int) -> int:
        """How many made-up words have so many tokens, within what the window leaves them."""
        return int(self.fitting(num_tokens) / self.tokens_per_word)

    def fitting(self, num_tokens: int) -> int:
        """A prompt's length, cut to the window with room for an answer."""
        return max(64, min(num_tokens, int(0.94 * self.window) - self.tokens - 64))


QUICK: Json = {
    "clients": (1, 8),
    "prefix": 1_024,
    "long": 2_048,
    "arrivals": 64,
    "contexts": (256, 1_024),
    "batches": (1, 4, 16),
    "before_s": 1.0,
}


class Session:
    """One server being measured."""

    def __init__(
        self,
        server: Server,
        scale: Scale,
        tell: Callable[[str, str, Sequence[float]], None],
        seed: int = 0,
    ) -> None:
        """`tell` takes a row's name, its unit, and the value of each run."""
        self.server = server
        self.scale = scale
        self.tell = tell
        self.made = Prompts(seed)

    def body(self, *messages: Json, max_tokens: int | None = None, **settings: Any) -> Json:
        """A streamed chat; greedy unless its settings say otherwise."""
        return {
            "model": "default_model",
            "messages": list(messages),
            "max_tokens": max_tokens or self.scale.tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            **settings,
        }

    def chat(self, num_words: int | None = None, **settings: Any) -> Json:
        """A chat of one turn that nobody has sent before."""
        is_ragged = num_words is None
        return self.body(
            self.made.turn(num_words or self.scale.words, is_ragged=is_ragged), **settings
        )

    def load(self, bodies: list[Json], clients: int) -> list[Json]:
        """The answers that so many clients got. Raises `Failed` unless all were answered."""
        answers: list[Json] = self.server.clients("load", requests=bodies, clients=clients)[
            "answers"
        ]
        for answer in answers:
            if answer["status"] != 200:
                raise Failed(f"{answer['status']}: {answer.get('error', 'no answer')}")
        return answers

    def one(self, body: Json) -> Json:
        return self.load([body], 1)[0]


def ttft_ms(answer: Json) -> float:
    """Milliseconds from the request to the first token."""
    if not answer["times"]:
        raise Failed("an answer had no token")
    return float(answer["times"][0] - answer["began"]) * 1e3


def rate(answers: list[Json]) -> float:
    """Output tokens per second over the time from the first request to the last byte."""
    elapsed = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
    return float(sum(a["completion_tokens"] for a in answers) / elapsed)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed."""
    if not values:
        raise Failed("nothing was seen to take a percentile of")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


# Throughput


def throughput(session: Session) -> None:
    """Greedy, at each number of clients."""
    for clients in session.scale.clients:
        _rate_of(session, f"{_clients(clients)}, greedy", clients, lambda: {})


def sampled(session: Session) -> None:
    """The largest number of clients, with settings that differ from request to request."""
    clients = max(session.scale.clients)
    _rate_of(session, f"{_clients(clients)}, sampled", clients, session.made.settings)


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"


def _rate_of(session: Session, name: str, clients: int, settings: Callable[[], Json]) -> None:
    def bodies(rounds: int) -> list[Json]:
        return [session.chat(**settings()) for _ in range(clients * rounds)]

    session.load(bodies(1), clients)
    rounds = session.scale.rounds
    session.tell(
        name,
        "tok/s",
        [rate(session.load(bodies(rounds), clients)) for _ in range(session.scale.runs)],
    )


# Latency


def prefix(session: Session) -> None:
    """A second turn over a long first one: all of it new, and with the first turn just answered."""
    scale = session.scale
    num_words = scale.num_words(scale.prefix)
    cold, cached, hits = [], [], []
    for run in range(max(scale.repeats, scale.runs) + 1):
        first, other = (session.made.turn(num_words, is_ragged=False) for _ in range(2))
        said = {"role": "assistant", "content": session.made.words(20)}
        a = ttft_ms(session.one(session.body(other, said, session.made.turn(8), max_tokens=16)))
        answer = session.one(session.body(first, max_tokens=16))
        said = {"role": "assistant", "content": answer["text"] or "Yes."}
        second = session.one(session.body(first, said, session.made.turn(8), max_tokens=16))
        if run:
            cold.append(a)
            cached.append(ttft_ms(second))
            hits.append(second["cached_tokens"] / second["prompt_tokens"])
    session.tell("second turn, TTFT cold", "ms", cold)
    session.tell("second turn, TTFT cached", "ms", cached)
    session.tell("second turn, prompt from the cache", "of 1", hits)


def prefill(session: Session) -> None:
    """Streams, and a long prompt that arrives among them."""
    scale, streams = session.scale, 8
    num_words = scale.num_words(scale.long)

    def long() -> Json:
        return session.chat(num_words, max_tokens=8)

    session.one(long())
    alone = [ttft_ms(session.one(long())) for _ in range(max(scale.repeats, scale.runs))]
    before, beside, during = [], [], []
    for run in range(scale.runs + 1):
        found = session.server.clients(
            "interrupted",
            streams=[[session.chat(max_tokens=2_048) for _ in range(8)] for _ in range(streams)],
            long=long(),
            before_s=scale.before_s,
        )
        first = found["long"]["began"] + ttft_ms(found["long"]) / 1e3
        if run:
            beside.append(ttft_ms(found["long"]))
            before.append(percentile(_gaps(found["answers"], found["all_ran"], found["sent"]), 50))
            during.append(percentile(_gaps(found["answers"], found["sent"], first), 99))
    session.tell(f"{streams} streams, inter-token p50", "ms", before)
    session.tell("… p99 while a long prompt comes in", "ms", during)
    session.tell("long prompt, TTFT alone", "ms", alone)
    session.tell(f"long prompt, TTFT beside {streams} streams", "ms", beside)


def _gaps(answers: list[Json], since: float, until: float) -> list[float]:
    """Milliseconds between arrivals, of the gaps that reach into a stretch of time."""
    return [
        (b - a) * 1e3
        for answer in answers
        for a, b in zip(answer["times"], answer["times"][1:], strict=False)
        if b > since and a < until
    ]


def health(session: Session) -> None:
    """How long /health takes while the largest number of clients is served."""
    clients = max(session.scale.clients)
    p99 = []
    for _ in range(session.scale.runs):
        bodies = [session.chat() for _ in range(clients * session.scale.rounds)]
        with session.server.watching() as found:
            session.load(bodies, clients)
        if found["failed"]:
            raise Failed(f"/health failed {found['failed']} times")
        p99.append(percentile(found["times"], 99) * 1e3)
    session.tell(f"/health at {_clients(clients)}, p99", "ms", p99)


def arrivals(session: Session) -> None:
    """Many clients at once: who is turned away, and how long the others wait."""
    many = session.scale.arrivals
    counts: dict[str, list[float]] = {"refused or reset": [], "429": [], "failed": []}
    waits = []
    for _ in range(session.scale.runs):
        bodies = [session.chat(max_tokens=16) for _ in range(many)]
        answers = session.server.clients("load", requests=bodies, clients=many)["answers"]
        statuses = [a["status"] for a in answers]
        lost = sum(s in ("refused", "reset", "cut") for s in statuses)
        counts["refused or reset"].append(lost)
        counts["429"].append(statuses.count(429))
        counts["failed"].append(many - lost - statuses.count(429) - statuses.count(200))
        waits.append(percentile([ttft_ms(a) for a in answers if a["times"]], 99))
    for name, values in counts.items():
        session.tell(f"{many} clients at once, {name}", "clients", values)
    session.tell(f"{many} clients at once, TTFT p99", "ms", waits)


# The cost as work grows


def context(session: Session) -> None:
    """One client: tokens per second after prompts of growing lengths, and those of the prompt."""
    scale = session.scale
    for size in sorted({scale.fitting(size) for size in scale.contexts}):
        decode, computed = [], []
        for run in range(scale.runs + 1):
            answer = session.one(session.chat(scale.num_words(size), max_tokens=128))
            elapsed = answer["ended"] - answer["times"][0]
            if run and answer["completion_tokens"] > 1:
                decode.append((answer["completion_tokens"] - 1) / elapsed)
                computed.append(answer["prompt_tokens"] / ttft_ms(answer) * 1e3)
        session.tell(f"context {size:,}, decode", "tok/s", decode)
        session.tell(f"context {size:,}, prefill", "tok/s", computed)


def batch(session: Session) -> None:
    """A growing number of clients with one request each."""
    num_tokens = min(128, session.scale.tokens)
    for clients in session.scale.batches:
        rates = []
        for run in range(session.scale.runs + 1):
            bodies = [session.chat(max_tokens=num_tokens) for _ in range(clients)]
            answers = session.load(bodies, clients)
            if run:
                rates.append(rate(answers))
        session.tell(f"batch {clients}", "tok/s", rates)


def memory(session: Session) -> None:
    """What the KV caches of a running request take, as the server's /metrics tell."""
    if session.server.kv_cache_bytes() is None:
        return
    clients, size = 8, session.scale.fitting(2_048)
    num_words = session.scale.num_words(size)
    with Watched(session.server.kv_cache_bytes) as watched:
        session.load([session.chat(num_words) for _ in range(clients)], clients)
    if watched.largest:
        each = watched.largest / clients / 2**20
        session.tell(f"memory of a sequence of {size:,} tokens", "MiB", [each])


OF_A_SERVER: dict[str, Callable[[Session], None]] = {
    "throughput": throughput,
    "sampled": sampled,
    "prefix": prefix,
    "prefill": prefill,
    "health": health,
    "arrivals": arrivals,
}
OF_OURS: dict[str, Callable[[Session], None]] = {
    "context": context,
    "batch": batch,
    "memory": memory,
}

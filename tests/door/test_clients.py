"""Clients that fault: slow, silent, gone, too many, and answers that take too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from door import open_files
from door.admission import Admission
from door.settings import Settings
from door.websocket import Private
from door.wire import Wire
from inference.answer import Answer as RealAnswer
from parts import (
    ContextLengthExceeded,
    Message,
    Progress,
    Prompt,
    SamplingParams,
    Text,
    TimedOut,
    Tool,
    ToolCall,
)
from server import create_app
from tests.door.asking import create, get, kinds, post, refusal, response_of, told
from tests.oracle import assert_envelope, events
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
)
BODY = json.dumps(CHAT).encode()


@contextmanager
def wire(url: str) -> Iterator[socket.socket]:
    """A connection on which anything may be written."""
    address = urlsplit(url)
    assert address.hostname and address.port
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        yield connection


def read(connection: socket.socket) -> bytes:
    """All that comes, until the server closes."""
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def refused(answer: bytes) -> tuple[int, str]:
    """The status and the code of an answer on the wire."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), assert_envelope(json.loads(body))["code"]


def is_well(url: str) -> bool:
    health = httpx.get(f"{url}/health", timeout=20)
    return health.status_code == 200 and not any(health.json()["queue"].values())


# Slow ones


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "])
def test_a_request_that_does_not_come_is_not_waited_for(
    scripted_url: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("door.wire.HEADERS_S", 0.1)
    with wire(scripted_url) as connection:
        connection.sendall(sent)
        assert refused(read(connection)) == (408, "request_timeout")
    assert is_well(scripted_url)


def test_a_second_request_that_does_not_come_is_not_waited_for_either(
    scripted_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.wire.HEADERS_S", 0.1)
    with wire(scripted_url) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while b'"object":"list"' not in (answer := connection.recv(65536)):
            assert answer
        connection.sendall(b"GET /v1/models HTTP/1.1\r\n")
        assert refused(read(connection)) == (408, "request_timeout")


def test_a_body_that_stalls_is_not_waited_for(
    scripted_url: str, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.guard.BODY_S", 0.1)
    with wire(scripted_url) as connection:
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:5])
        assert refused(read(connection)) == (408, "request_timeout")
    assert not engine.prompts
    assert is_well(scripted_url)


def test_a_body_may_take_long_when_it_keeps_coming(
    scripted_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.guard.BODY_S", 0.5)
    monkeypatch.setattr("door.guard.BODY_RATE", 1)
    began = time.monotonic()

    def pieces() -> Iterator[bytes]:
        yield BODY
        while time.monotonic() < began + 0.6:  # longer than an empty body may take
            yield b" "

    kind = {"content-type": "application/json"}
    answer = httpx.post(f"{scripted_url}/v1/chat/completions", content=pieces(), headers=kind)
    assert answer.status_code == 200


def test_whoever_does_not_read_is_cut_off(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.stream.SEND_TIMEOUT_S", 0.2)
    engine.script = says(*[Text("x" * 65536)] * 400)
    body = json.dumps({**CHAT, "stream": True}).encode()
    with serving(create_app(Settings(), engine)) as url, wire(url) as connection:
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: engine.answers and engine.answers[0].is_cancelled, "it is given up")
        assert is_well(url)
        engine.script = says(Text("hi"))
        assert create(url)["status"] == "completed"


class EagerEngine(ScriptedEngine):
    """Says its parts whether they are read or not, as the real one does."""

    num_fed = 0

    async def submit(self, prompt: Prompt, params: SamplingParams, **options: Any) -> Any:
        scripted = await super().submit(prompt, params, **options)
        answer = RealAnswer(scripted.cancel, Progress)

        async def feed() -> None:
            async for parts in scripted:
                answer.feed(parts)
                self.num_fed += 1

        self.feeding = asyncio.create_task(feed())
        return answer


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"n": 2}),
        ("/v1/responses", {"input": "hi"}),
    ],
    ids=["chat", "choices", "response"],
)
def test_whoever_falls_too_far_behind_is_told_so_and_frees_the_place(
    path: str, rest: dict[str, Any]
) -> None:
    engine = EagerEngine(lambda prompt, params: [*[Text("x" * 65536)] * 400, asyncio.Event()])
    body = json.dumps({**CHAT, "stream": True, **rest}).encode()
    head = HEAD.replace(b"/v1/chat/completions", path.encode())
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url, wire(url) as raw:
        raw.sendall(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: engine.num_fed == 400 * rest.get("n", 1), "all is said")
        answer = read(raw)
        assert b'"slow_reader"' in answer
        assert b"data: [DONE]" in answer[-100:]
        assert len(answer) < 20_000_000
        assert all(each.is_cancelled for each in engine.answers)
        assert is_well(url)
        engine.script = says(Text("hi"))
        assert create(url)["status"] == "completed"


def test_whoever_does_not_read_a_socket_frees_the_place(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.websocket.SEND_TIMEOUT_S", 0.2)
    engine.script = lambda prompt, params: [*[Text("x" * 65536)] * 400, asyncio.Event()]
    asked = json.dumps({"type": "response.create", "input": "hi"}).encode()
    frame = bytes([0x81, 0x80 | len(asked)]) + bytes(4) + asked  # text, under a mask of zeros
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url, wire(url) as raw:
        raw.sendall(
            b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
            b"connection: Upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b" 101 " in raw.recv(65536)
        raw.sendall(frame)
        wait_until(lambda: engine.answers and engine.answers[0].is_cancelled, "it is given up")
        assert is_well(url)


# Those that are gone without a word


def test_a_connection_is_watched_by_the_operating_system(
    scripted_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = []
    made = Wire.connection_made

    def seen(self: Wire, transport: asyncio.Transport) -> None:
        made(self, transport)
        accepted.append(transport.get_extra_info("socket"))

    monkeypatch.setattr(Wire, "connection_made", seen)
    with wire(scripted_url):
        wait_until(lambda: accepted, "it is accepted")
        (connection,) = accepted
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        for option, value in (
            (idle, 60),
            (getattr(socket, "TCP_KEEPINTVL", None), 15),
            (getattr(socket, "TCP_KEEPCNT", None), 4),
            (getattr(socket, "TCP_USER_TIMEOUT", None), 120_000),
        ):
            assert option is None or connection.getsockopt(socket.IPPROTO_TCP, option) == value


# Those that leave


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"content-length: 50\r\n\r\n{"])
def test_whoever_leaves_before_the_request_is_whole_leaves_nothing(
    scripted_url: str, engine: ScriptedEngine, sent: bytes
) -> None:
    with nothing_left_open():
        for _ in range(1000):
            with wire(scripted_url) as connection:
                connection.sendall(sent)
        assert is_well(scripted_url)
        assert not engine.prompts


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("words", [[], [Text("a")]])
def test_whoever_leaves_frees_the_place(
    scripted_url: str, engine: ScriptedEngine, path: str, is_stream: bool, words: list[Any]
) -> None:
    engine.script = lambda prompt, params: [*words, asyncio.Event()]
    body = json.dumps({**CHAT, "input": "hi", "stream": is_stream}).encode()
    head = HEAD.replace(b"/v1/chat/completions", path.encode())
    for number in range(3):
        with wire(scripted_url) as connection:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: len(engine.answers) > number, "it is asked")  # noqa: B023
    wait_until(lambda: all(a.is_cancelled for a in engine.answers), "all are given up")
    assert is_well(scripted_url)


# Many of them


def test_a_thousand_at_once_are_all_answered() -> None:
    settings = Settings(max_batch=8, max_queue=16)
    with serving(create_app(settings, ScriptedEngine())) as url, nothing_left_open():
        number = many_connections(1000)
        answers = asyncio.run(ask_at_once(url, number))
        assert is_well(url)
        assert create(url)["status"] == "completed"
    statuses = [int(answer.split()[1]) for answer in answers]
    assert len(statuses) == number and set(statuses) <= {200, 429}
    for answer, status in zip(answers, statuses, strict=True):
        if status == 429:
            assert refused(answer) == (429, "queue_full")
            assert b"retry-after: 2\r\n" in answer


def many_connections(wanted: int) -> int:
    """So many, or as many as this system lets one process have at both ends."""
    most = open_files.allow_many()
    return wanted if most == resource.RLIM_INFINITY else min(wanted, (most - 200) // 2)


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """See that as many files are open afterwards as before."""
    before = num_open_files()
    yield
    wait_until(lambda: num_open_files() <= before, "all is closed")


def num_open_files() -> int:
    return len(os.listdir("/dev/fd"))


async def ask_at_once(url: str, number: int) -> list[bytes]:
    """The whole answers to so many chats, each on a connection of its own."""
    address = urlsplit(url)

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY)
        answer = await reader.read()
        writer.close()
        return answer

    return await asyncio.gather(*(ask() for _ in range(number)))


def test_a_full_queue_refuses_at_once(engine: ScriptedEngine) -> None:
    engine.script = lambda prompt, params: [asyncio.Event()]
    with serving(create_app(Settings(max_batch=1, max_queue=1), engine)) as url:
        taken = [create(url, background=True) for _ in range(2)]
        for answer in (post(url, input="hi"), post(url, input="hi", stream=True)):
            assert refusal(answer) == (429, "queue_full", None)
            assert answer.headers["retry-after"] == "2"
        for response in taken:
            httpx.post(f"{url}/v1/responses/{response['id']}/cancel")
        engine.script = says(Text("hi"))
        assert create(url)["status"] == "completed"


def test_idle_connections_do_not_keep_others_out(scripted_url: str) -> None:
    with nothing_left_open(), contextlib.ExitStack() as idle:
        for _ in range(many_connections(500)):
            idle.enter_context(wire(scripted_url))
        assert is_well(scripted_url)
        assert create(scripted_url)["status"] == "completed"


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))
    try:
        assert open_files.allow_many() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        with open_files.limit_kept():
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, 2))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("rest", [b'"unknown": "' + b"x" * 20_000_000 + b'"', b"keys"])
def test_a_body_that_is_large_and_means_nothing_is_read(scripted_url: str, rest: bytes) -> None:
    if rest == b"keys":
        rest = b",".join(b'"k%d":1' % number for number in range(200_000))
    kind = {"content-type": "application/json"}
    body = BODY[:-1] + b"," + rest + b"}"
    address = f"{scripted_url}/v1/chat/completions"
    assert httpx.post(address, content=body, headers=kind, timeout=60).status_code == 200
    assert is_well(scripted_url)


# What is no HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"\x00" * 200 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /nothing HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: x\r\n\r\n",
        HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
        HEAD + b"transfer-encoding: gzip\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[-30:]),
)
def test_what_is_no_http_is_refused_and_starts_nothing(
    scripted_url: str, engine: ScriptedEngine, sent: bytes
) -> None:
    with wire(scripted_url) as connection:
        connection.sendall(sent)
        with contextlib.suppress(OSError):  # it may have been refused, and closed, by now
            connection.shutdown(socket.SHUT_WR)
        try:
            answer = read(connection)
        except ConnectionResetError:
            answer = b""
    assert not answer or 400 <= int(answer.split()[1]) < 506
    assert not engine.prompts
    assert is_well(scripted_url)


def test_a_length_and_chunks_together_are_not_two_requests(scripted_url: str) -> None:
    smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with wire(scripted_url) as connection:
        connection.sendall(
            HEAD + b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % len(smuggled)
        )
        connection.sendall(smuggled)
        connection.shutdown(socket.SHUT_WR)
        assert read(connection).count(b"HTTP/1.1 200") <= 1


# Answers that take too long


@pytest.fixture
def hasty_url(engine: ScriptedEngine) -> Iterator[str]:
    """A server whose answers must not take longer than a moment, and whose engine never ends."""
    engine.script = lambda prompt, params: [Text("so"), asyncio.Event()]
    with serving(create_app(Settings(timeout=0.2), engine)) as url:
        yield url
    assert all(answer.is_cancelled for answer in engine.answers)


def test_a_whole_answer_that_takes_too_long_is_a_504(hasty_url: str) -> None:
    for path in ("/v1/chat/completions", "/v1/responses"):
        answer = httpx.post(hasty_url + path, json={**CHAT, "input": "hi"}, timeout=20)
        assert refusal(answer) == (504, "timeout", None)
        assert answer.headers["x-should-retry"] == "false"
    assert is_well(hasty_url)


def test_a_stream_that_takes_too_long_ends_with_an_event(hasty_url: str) -> None:
    body = {**CHAT, "stream": True}
    answer = httpx.post(f"{hasty_url}/v1/chat/completions", json=body, timeout=20)
    *_, error, done = events(answer.text)
    assert assert_envelope(error)["code"] == "timeout"
    assert done == "[DONE]"
    response = told(post(hasty_url, input="hi", stream=True).text)
    assert kinds(response)[-1] == "failed"
    assert response[-1]["response"]["output"][0]["content"][0]["text"] == "so"
    assert is_well(hasty_url)


def test_a_response_in_the_background_does_not_take_longer_either(hasty_url: str) -> None:
    id = create(hasty_url, background=True)["id"]
    wait_until(lambda: get(hasty_url, id).json()["status"] == "failed", "it has failed")


def test_even_the_way_into_the_queue_is_timed(engine: ScriptedEngine) -> None:
    async def submit() -> None:
        async def never(prompt: Prompt, params: SamplingParams, **_: Any) -> Any:
            await asyncio.Event().wait()

        engine.submit = never  # type: ignore[method-assign]
        admission = Admission(engine, max_admitted=1, timeout=0.01)
        for _ in range(2):  # the first has left
            with pytest.raises(TimedOut):
                await admission.submit(Prompt((Message("user", "hi"),)), SamplingParams())

    asyncio.run(submit())


# Prompts that cannot fit


LONG = "x" * 16_001
"""More characters than sixteen for each of a thousand tokens."""


@pytest.fixture
def small_engine(engine: ScriptedEngine) -> ScriptedEngine:
    """The scripted engine, with room for a thousand tokens."""
    engine.card = replace(engine.card, context_window=1000)
    return engine


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt((Message("user", LONG),)),
        Prompt((Message("user", LONG[:9000]), Message("assistant", "", LONG[:9000]))),
        Prompt((Message("assistant", tool_calls=(ToolCall("c", "f", LONG),)),)),
        Prompt((Message("user", "hi"),), tools=(Tool("f", LONG),)),
        Prompt((Message("user", "hi"),), tools=(Tool("f", "", {"title": LONG}),)),
        Prompt((Message("user", "hi"),), template_args={"mood": LONG}),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_tokenized(
    small_engine: ScriptedEngine, prompt: Prompt
) -> None:
    async def ask() -> None:
        admission = Admission(small_engine, max_admitted=1)
        with pytest.raises(ContextLengthExceeded, match="1000 tokens") as refusal:
            await admission.submit(prompt, SamplingParams())
        assert "16000 characters" in refusal.value.message
        with pytest.raises(ContextLengthExceeded):
            await admission.count(prompt)

    asyncio.run(ask())
    assert not small_engine.prompts


def test_two_megabytes_are_refused_without_a_look(
    scripted_url: str, small_engine: ScriptedEngine
) -> None:
    for text in ("a" * 2_000_000, "\n" * 2_000_000, "🙂" * 500_000):
        chat = {"messages": [{"role": "user", "content": text}]}
        answer = httpx.post(f"{scripted_url}/v1/chat/completions", json=chat, timeout=20)
        assert refusal(answer) == (400, "context_length_exceeded", "messages")
        answer = post(scripted_url, input=text)
        assert refusal(answer) == (400, "context_length_exceeded", "input")
    assert not small_engine.prompts


def test_turns_are_dropped_in_few_tries(
    scripted_url: str, small_engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    count = small_engine.count

    async def counted(prompt: Prompt) -> int:
        nonlocal tries
        tries += 1
        return await count(prompt)

    monkeypatch.setattr(small_engine, "count", counted)
    items = [{"role": "user", "content": f"{number:04} " + "a " * 8} for number in range(2000)]
    assert create(scripted_url, items, truncation="auto")["status"] == "completed"
    assert tries <= 11
    kept = small_engine.prompts[0].messages
    assert kept[-1].content.startswith("1999")
    assert 100 < len(kept) < 112  # of nine words each, in a window of a thousand


# What is kept


def test_the_events_of_a_run_that_goes_on_are_bounded_too(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.runs.KEPT_BYTES", 30_000)
    engine.script = lambda prompt, params: [*[Text("word ")] * 200, asyncio.Event()]
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url:
        id = create(url, background=True)["id"]
        wait_until(lambda: len(written(url, id)) == 1000, "all is written")
        assert refusal(get(url, id, stream=True))[:2] == (400, "stream_not_kept")
        address = f"{url}/v1/responses/{id}"
        with httpx.stream("GET", address, params={"stream": True, "starting_after": 200}) as told:
            assert told.status_code == 200
            assert '"sequence_number":201' in next(told.iter_text())
        assert httpx.post(f"{address}/cancel").json()["status"] == "cancelled"
        assert len(written(url, id)) == 1000


def written(url: str, id: str) -> str:
    output = get(url, id).json().get("output")
    return output[0]["content"][0]["text"] if output else ""


def test_the_events_of_finished_runs_are_bounded_in_bytes(
    scripted_url: str, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.runs.KEPT_BYTES", 100_000)
    engine.script = says(Text("x" * 5000))
    ids = [create(scripted_url)["id"] for _ in range(8)]
    told_again = [get(scripted_url, id, stream=True).status_code for id in ids]
    assert told_again[-1] == 200
    assert told_again[0] == 400
    assert get(scripted_url, ids[0]).status_code == 200


def test_a_socket_keeps_the_last_turns_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("door.websocket.PRIVATE_TURNS", 3)
    monkeypatch.setattr("door.websocket.PRIVATE_BYTES", 1000)
    kept = Private()
    for number in range(5):
        kept.keep(str(number), [{"text": "a"}], 15)
    assert [kept.get(str(number)) is not None for number in range(5)] == [False] * 2 + [True] * 3
    kept.keep("large", [{"text": "x" * 2000}], 2015)
    assert kept.get("4") is kept.get("large") is None
    kept.keep("small", [], 2)
    kept.forget("small")
    kept.forget(None)
    assert kept.get("small") is None


# Going down


def test_a_socket_is_told_that_the_server_goes(engine: ScriptedEngine) -> None:
    app = create_app(Settings(no_conversation_logs=True), engine)
    engine.script = lambda prompt, params: [Text("so"), asyncio.Event()]
    with (
        serving(app) as url,
        connect(url.replace("http", "ws") + "/v1/responses", open_timeout=20) as frames,
    ):
        frames.send(json.dumps({"type": "response.create", "input": "hi"}))
        wait_until(lambda: engine.answers, "the turn has begun")
        stopping = asyncio.run_coroutine_threadsafe(going_down(app, engine), engine._loop)
        *_, failed, goodbye = heard_to_the_end(frames)
        stopping.result(20)
    assert failed["type"] == "response.failed"
    assert (goodbye["type"], goodbye["error"]["code"]) == ("error", "shutting_down")
    assert frames.close_code == 1012


def heard_to_the_end(frames: ClientConnection) -> list[dict[str, Any]]:
    heard = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            heard.append(json.loads(frames.recv(20)))
    return heard


async def going_down(app: Any, engine: ScriptedEngine) -> None:
    await engine.stop()
    await app.state.sockets.end()


def test_a_response_is_read_well_after_all_of_this(scripted_url: str) -> None:
    assert response_of(post(scripted_url, input="hi"))["status"] == "completed"

"""Whatever is large is read, checked, kept and written on a thread: never on the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from door.requests import MAX_MEMBERS, Permissive
from door.settings import Settings
from door.turns import Turns, alone, alone_in_turn
from parts import Text
from protocol import json_text, sealed
from server import create_app
from tests.door.asking import get
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine, says
from tests.serving import serving

Json = Any
WORDS = "all sorts of words, {and} [more]; é\n"
LONG = WORDS * 12_000
TOOL = {
    "type": "function",
    "name": "f",
    "parameters": {"type": "object", "properties": {f"p{i}": {} for i in range(5_000)}},
}


def is_on_loop() -> bool:
    return asyncio._get_running_loop() is not None


class Seen:
    """What was done with something large: what it was, and whether the event loop waited for it."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.on_loop: set[str] = set()

    def note(self, kind: str) -> None:
        self.kinds.add(kind)
        if is_on_loop():
            self.on_loop.add(kind)

    def watch(
        self, patch: pytest.MonkeyPatch, where: Any, name: str, is_large: Callable[..., bool]
    ) -> None:
        """Note every call of a function with something large."""
        real = getattr(where, name)

        def watched(*given: Any, **named: Any) -> Any:
            if is_large(*given):
                self.note(name)
            return real(*given, **named)

        patch.setattr(where, name, watched)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    seen = Seen()
    seen.watch(monkeypatch, json_text.Reader, "read", lambda self: len(self._source) > 300_000)
    seen.watch(monkeypatch, json_text, "pieces", lambda value, encode: json_text.is_long(value))
    seen.watch(monkeypatch, json.JSONEncoder, "encode", lambda self, v: json_text.is_long(v))
    seen.watch(monkeypatch, sealed, "_decoded", lambda text: len(text) > 100_000)
    yield seen
    assert not seen.on_loop
    assert {"read", "pieces"} <= seen.kinds


def ask(url: str, path: str, body: Json) -> Json:
    answer = httpx.post(url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()


def items(number: int = 2_000) -> list[Json]:
    return [{"role": "user", "content": f"{i} {WORDS * 8}"} for i in range(number)]


def test_a_response_is_asked_kept_and_continued(scripted_url: str, seen: Seen) -> None:
    body = {"input": items(), "instructions": LONG, "tools": [TOOL]}
    made = ask(scripted_url, "/v1/responses", body)
    assert made["instructions"] == LONG
    assert get(scripted_url, made["id"]).json() == made
    listed = get(scripted_url, f"{made['id']}/input_items", limit=100).json()
    assert len(listed["data"]) == 100
    more = {"input": "and?", "previous_response_id": made["id"]}
    assert ask(scripted_url, "/v1/responses", more)["status"] == "completed"
    counted = ask(scripted_url, "/v1/responses/input_tokens", more)
    assert counted["input_tokens"] > 100_000
    shown = httpx.get(f"{scripted_url}/conversations/{made['id']}", timeout=30)
    assert len(shown.content) > 10**6
    assert httpx.get(f"{scripted_url}/conversations?q=such words", timeout=30).is_success


def test_its_events_are_written(scripted_url: str, seen: Seen) -> None:
    body = {"input": LONG, "instructions": LONG, "stream": True}
    told = httpx.post(f"{scripted_url}/v1/responses", json=body, timeout=60).text
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    assert events[0]["response"]["instructions"] == LONG
    assert events[-1]["type"] == "response.completed"


def test_a_response_that_is_cancelled_is_kept(
    engine: ScriptedEngine, scripted_url: str, seen: Seen
) -> None:
    engine.script = says(Text("a"), asyncio.Event())
    made = ask(scripted_url, "/v1/responses", {"input": items(), "background": True})
    ended = httpx.post(f"{scripted_url}/v1/responses/{made['id']}/cancel", timeout=30).json()
    assert ended["status"] == "cancelled"
    listed = get(scripted_url, f"{made['id']}/input_items", limit=3).json()
    assert len(listed["data"]) == 3


def test_it_is_packed_for_its_client_and_unpacked(scripted_url: str, seen: Seen) -> None:
    packed = ask(scripted_url, "/v1/responses/compact", {"model": "m", "input": items()})
    again = {"input": [*packed["output"], {"role": "user", "content": "and?"}]}
    assert ask(scripted_url, "/v1/responses", again)["status"] == "completed"
    assert "_decoded" in seen.kinds


def test_a_conversation_object_is_made_shown_and_changed(scripted_url: str, seen: Seen) -> None:
    made = ask(scripted_url, "/v1/conversations", {"items": items()})
    path = f"/v1/conversations/{made['id']}"
    added = ask(scripted_url, f"{path}/items", {"items": items(1_500)})
    assert len(added["data"]) == 1_500
    listed = httpx.get(f"{scripted_url}{path}/items?limit=100", timeout=30).json()["data"]
    first = f"{scripted_url}{path}/items/{listed[0]['id']}"
    assert httpx.get(first, timeout=30).json() == listed[0]
    assert httpx.delete(first, timeout=30).is_success
    assert httpx.get(first, timeout=30).status_code == 404
    body = {"input": "hi", "conversation": made["id"]}
    assert ask(scripted_url, "/v1/responses", body)["status"] == "completed"


def test_a_chat_is_read(scripted_url: str, seen: Seen) -> None:
    tool = {"type": "function", "function": {**TOOL, "parameters": TOOL["parameters"]}}
    body = {"messages": [{"role": "user", "content": LONG}], "tools": [tool]}
    assert ask(scripted_url, "/v1/chat/completions", body)["choices"]


def test_a_turn_on_a_socket_is_read_and_told(scripted_url: str, seen: Seen) -> None:
    address = scripted_url.replace("http", "ws", 1) + "/v1/responses"
    with connect(address, max_size=None, open_timeout=20) as socket:
        body = {"input": items(), "instructions": LONG, "store": False}
        socket.send(json.dumps({"type": "response.create", **body}))
        while (event := json.loads(socket.recv(30)))["type"] != "response.completed":
            pass
        assert event["response"]["instructions"] == LONG
        socket.send(
            json.dumps(
                {
                    "type": "response.create",
                    "input": "and?",
                    "previous_response_id": event["response"]["id"],
                }
            )
        )
        while (event := json.loads(socket.recv(30)))["type"] != "response.completed":
            pass


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_what_is_wrong_with_one_is_found_out_once(
    scripted_url: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    where: list[bool] = []
    real = Permissive._is_default.__func__  # type: ignore[attr-defined]

    def noted(cls: Any, name: str, value: Any) -> bool:
        where.append(is_on_loop())
        return bool(real(cls, name, value))

    monkeypatch.setattr(Permissive, "_is_default", classmethod(noted))
    body = {"messages": [{"role": "user", "content": LONG}], "input": LONG, "top_p": "much"}
    answer = httpx.post(scripted_url + path, json=body, timeout=30)
    assert answer.status_code == 422
    small = {**body, "messages": [{"role": "user", "content": "a"}], "input": "a"}
    assert answer.json() == httpx.post(scripted_url + path, json=small, timeout=30).json()
    assert assert_envelope(answer.json())["param"] == "top_p"
    assert not any(where[: len(where) // 2])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"tools": [{}]}, "tools[0]"),
        ("/v1/chat/completions", {"response_format": {}}, "response_format"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}]}]}, "messages[0]"),
        ("/v1/responses", {"text": {"format": {}}}, "text.format"),
        ("/v1/responses", {"tool_choice": {}}, "tool_choice"),
    ],
)
def test_an_object_has_so_many_members_and_no_more(
    scripted_url: str, path: str, body: Json, param: str
) -> None:
    """Pydantic looks at all of them in one go."""
    members = {f"m{i}": 0 for i in range(MAX_MEMBERS + 1)}
    filled = json.loads(json.dumps(body).replace("{}", json.dumps(members)))
    defaults = {"messages": [{"role": "user", "content": "a"}], "input": "a"}
    answer = httpx.post(scripted_url + path, json=defaults | filled, timeout=30)
    assert answer.status_code == 422
    assert (assert_envelope(answer.json())["param"] or "").startswith(param)


def test_what_was_asked_is_not_held_by_what_was_answered() -> None:
    """The store has it, and counts it; of the run, its events can be read again."""
    app = create_app(Settings(no_conversation_logs=True), ScriptedEngine())
    with serving(app) as url:
        made = ask(url, "/v1/responses", {"input": items(3), "instructions": "be brief"})
        more = {"input": "and?", "previous_response_id": made["id"]}
        run = app.state.runs.get(ask(url, "/v1/responses", more)["id"])
        assert not run.items and not run.history
        assert not run.stream._request.items and not run.stream._request.prompt.messages
        assert get(url, run.id, stream=True).status_code == 200


def test_what_takes_long_is_done_one_at_a_time_and_what_has_begun_first() -> None:
    order: list[str] = []
    may_end = threading.Event()

    def work(name: str) -> None:
        order.append(f"{name} begins")
        assert may_end.wait(30)
        order.append(f"{name} ends")

    async def scene() -> None:
        first = asyncio.create_task(alone_in_turn(work, "first"))
        while not order:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        new = asyncio.create_task(alone_in_turn(work, "new"))
        gone = asyncio.create_task(alone(work, "gone"))
        begun = asyncio.create_task(alone(work, "begun"))
        await asyncio.sleep(0)
        gone.cancel()
        may_end.set()
        await asyncio.gather(first, new, begun)

    asyncio.run(asyncio.wait_for(scene(), 30))
    names = [name for name in ("first", "begun", "new") for _ in range(2)]
    assert [each.split()[0] for each in order] == names


def test_who_leaves_when_its_turn_has_come_passes_it_on() -> None:
    async def scene() -> None:
        turns = Turns()
        await turns.take()
        leaving, next_one = (asyncio.create_task(turns.take()) for _ in range(2))
        await asyncio.sleep(0)
        turns.pass_on()
        leaving.cancel()  # it has not heard of its turn yet
        await next_one
        with pytest.raises(asyncio.CancelledError):
            await leaving
        turns.pass_on()
        await turns.take()

    asyncio.run(asyncio.wait_for(scene(), 30))

"""Requests for responses as real clients sent them: each is answered, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from door.settings import Settings
from parts import Reasoning, Text, ToolArguments, ToolCall
from server import create_app
from tests.door.asking import Json, told
from tests.oracle import assert_envelope
from tests.protocol import captures
from tests.protocol.captures import PATHS, name_of
from tests.protocol.openai_types import check_event, check_response
from tests.scripted import ScriptedEngine, says
from tests.serving import Running, running, serving

POSTS = [path for path in PATHS if "_POST_" in path.name]
CODEX = [path for path in PATHS if path.parent.name.startswith("codex")]
REFUSED = {
    "langchain-027": (400, "input[0].content[1]"),  # an image
    "openai-py-033": (400, "previous_response_id"),  # resp_nope
    "openai-py-047": (422, "input"),  # 5
}


def send(url: str, path: Path, **changes: Any) -> httpx.Response:
    """Send a capture; what it continues is made first, unless it was never there."""
    captured = json.loads(path.read_text(encoding="utf-8"))
    body = {**captured["body"], **changes}
    if "previous_response_id" in body and name_of(path) not in REFUSED:
        said = [{"role": "user", "content": "Hello!"}, *captures.calls_of(body)]
        made = httpx.post(f"{url}/v1/conversations", json={"items": said}, timeout=60)
        body["conversation"] = made.json()["id"]
        del body["previous_response_id"]
    kept = {k: v for k, v in captured["headers"].items() if k != "content-length"}
    return httpx.post(
        url + captured["path"],
        content=json.dumps(body).encode(),
        headers={"content-type": "application/json", **kept},
        timeout=300,
    )


def assert_answered(path: Path, answer: httpx.Response) -> None:
    """See that a capture got what it deserves."""
    if answer.status_code != 200 or name_of(path) in REFUSED:
        error = assert_envelope(answer.json())
        assert (answer.status_code, error["param"]) == REFUSED.get(name_of(path)), error
    elif "text/event-stream" in answer.headers["content-type"]:
        events = told(answer.text)
        assert events[0]["type"] == "response.created"
        assert events[-1]["type"] in ("response.completed", "response.incomplete")
    elif path.name.endswith("compact.json"):
        assert answer.json()["output"][-1]["type"] == "compaction"
    else:
        assert check_response(answer.json()).status in ("completed", "incomplete")


def test_every_captured_request_is_answered_or_refused_by_name(engine: ScriptedEngine) -> None:
    assert len(POSTS) > 80
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url:
        for path in POSTS:
            assert_answered(path, send(url, path))


def test_the_captured_frame_is_answered(scripted_url: str) -> None:
    (path,) = (path for path in PATHS if "_WS_" in path.name)
    captured = json.loads(path.read_text(encoding="utf-8"))
    address = scripted_url.replace("http", "ws", 1) + captured["path"]
    with connect(address, additional_headers=captured["headers"]) as socket:
        socket.send(json.dumps(captured["body"]))
        for frame in socket:
            event = json.loads(frame)
            check_event(event)
            if event["type"] == "response.completed":
                break


@pytest.mark.parametrize("path", CODEX, ids=name_of)
def test_codex_gets_what_it_needs(scripted_url: str, engine: ScriptedEngine, path: Path) -> None:
    engine.script = says(
        Reasoning("hm"),
        Text("Let me look."),
        ToolCall("call_1", "exec_command"),
        ToolArguments('{"cmd": "ls"}'),
        reason="tool_calls",
    )
    first, *events, last = told(send(scripted_url, path).text)
    assert first["type"] == "response.created"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call"]
    assert done[0]["encrypted_content"]
    assert done[2]["call_id"] == "call_1"
    assert last["type"] == "response.completed"
    assert last["response"]["output"] == done
    assert last["response"]["usage"]["total_tokens"] == 12
    assert last["response"]["store"] is False
    offered = {tool.name for tool in engine.prompts[0].tools}
    assert "exec_command" in offered
    assert any("__" in name for name in offered), "the tools of a namespace are left out"


def test_codex_is_not_refused_for_the_tools_that_only_openai_has(scripted_url: str) -> None:
    body = json.loads(CODEX[0].read_text(encoding="utf-8"))["body"]
    assert {tool["type"] for tool in body["tools"]} == {"function", "namespace", "web_search"}
    response = told(send(scripted_url, CODEX[0]).text)[-1]["response"]
    assert {tool["type"] for tool in response["tools"]} == {"function", "namespace"}


@pytest.fixture(scope="module")
def roomy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The demo model with the context that agents' prompts need."""
    with running(tmp_path_factory.mktemp("roomy"), "--ctx-size", "32768") as server:
        yield server


def shorter(tools: list[Json]) -> list[Json]:
    """A tool of each kind that Codex sends: all of them take minutes without a GPU."""
    smallest_last = sorted(tools, key=lambda tool: len(json.dumps(tool)), reverse=True)
    kinds = {tool["type"]: tool for tool in smallest_last}
    kinds["namespace"] = {**kinds["namespace"], "tools": kinds["namespace"]["tools"][:1]}
    return list(kinds.values())


@pytest.mark.parametrize("path", POSTS, ids=name_of)
def test_the_demo_model_answers_what_real_clients_send(path: Path, roomy_server: Running) -> None:
    changes: Json = {"max_output_tokens": 8}
    if path in CODEX:
        body = json.loads(path.read_text(encoding="utf-8"))["body"]
        changes["tools"] = shorter(body["tools"])
    assert_answered(path, send(roomy_server.base_url, path, **changes))

"""Requests as real clients sent them: each is answered, or what it asks for is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from door.settings import Settings
from server import create_app
from tests.oracle import assert_envelope, events, validated
from tests.scripted import ScriptedEngine
from tests.serving import Running, running, serving

CAPTURES = Path(__file__).resolve().parent.parent / "captures"
CHATS = sorted(CAPTURES.rglob("*_POST_v1_chat_completions.json"))
MALFORMED = {
    "openai-py/020": 422,  # no messages
    "openai-py/021": 422,  # temperature: "hot"
    "openai-py/022": 422,  # temperature: 9
    "openai-py/023": 400,  # half a JSON object
    "openai_node/024": 422,  # no messages
}
MEDIA = {"langchain/012": "messages[0].content[1]"}


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name.split('_')[0]}"


def send(url: str, path: Path, **changes: Any) -> httpx.Response:
    captured = json.loads(path.read_text(encoding="utf-8"))
    body = captured["body"]
    content = body["_raw"] if "_raw" in body else json.dumps({**body, **changes})
    kept = {k: v for k, v in captured["headers"].items() if k != "content-length"}
    kept.setdefault("content-type", "application/json")
    return httpx.post(
        f"{url}/v1/chat/completions", content=content.encode(), headers=kept, timeout=300
    )


def assert_answered(path: Path, answer: httpx.Response) -> None:
    """See that a capture got what it deserves."""
    if answer.status_code != 200:
        error = assert_envelope(answer.json())
        if name(path) in MALFORMED:
            assert answer.status_code == MALFORMED[name(path)]
        else:
            assert answer.status_code == 400, error
            assert error["param"] == MEDIA.get(name(path)), error
        return
    assert name(path) not in MALFORMED
    if "text/event-stream" in answer.headers["content-type"]:
        *chunks, done = events(answer.text)
        assert done == "[DONE]"
        for chunk in chunks:
            validated(ChatCompletionChunk, chunk)
        assert any(c["choices"] and c["choices"][0]["finish_reason"] for c in chunks)
    else:
        validated(ChatCompletion, answer.json())


def test_every_captured_chat_is_answered_or_refused_by_name(engine: ScriptedEngine) -> None:
    assert len(CHATS) > 90
    with serving(create_app(Settings(), engine)) as url:
        for path in CHATS:
            assert_answered(path, send(url, path))


@pytest.fixture(scope="module")
def roomy_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo model with the context that agents' prompts need."""
    folder = tmp_path_factory.mktemp("roomy")
    with running(folder, "--ctx-size", "32768", "--max-tokens", "12") as server:
        yield server


@pytest.mark.parametrize("path", CHATS, ids=name)
def test_the_demo_model_answers_what_real_clients_send(path: Path, roomy_server: Running) -> None:
    body = json.loads(path.read_text(encoding="utf-8"))["body"]
    changes = {"max_tokens": 8} if isinstance(body.get("messages"), list) else {}
    assert_answered(path, send(roomy_server.base_url, path, **changes))

"""What stands before every route: errors in one envelope, keys, sizes, CORS, the request id."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from openai.types import Model

from door.requests import Permissive
from door.settings import Settings
from parts import Counts, Memory, Text
from protocol import strict_json
from server import create_app
from tests.oracle import assert_envelope, validated
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

CHAT = {"messages": [{"role": "user", "content": "a secret"}]}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
    ],
)
def test_unknown_paths_and_methods_get_the_envelope(
    scripted_url: str, method: str, path: str, status: int
) -> None:
    answer = httpx.request(method, scripted_url + path, headers={"origin": "http://page"})
    assert answer.status_code == status
    assert_envelope(answer.json())
    assert answer.headers.get("access-control-allow-origin") == ("*" if "/v1" in path else None)
    assert answer.headers["x-request-id"]
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_a_body_that_is_not_json_is_a_415(scripted_url: str, kind: str) -> None:
    answer = httpx.post(
        f"{scripted_url}/v1/chat/completions", content=b"{}", headers={"content-type": kind}
    )
    assert answer.status_code == 415
    assert_envelope(answer.json())


def test_a_body_over_the_limit_is_a_413_before_it_is_read(scripted_url: str) -> None:
    address = urlsplit(scripted_url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n{"
            % (Settings().max_body + 1)
        )
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert b" 413 " in answer
    assert b"request_too_large" in answer


def test_a_body_over_the_limit_is_a_413_while_it_is_read(scripted_url: str) -> None:
    piece = b" " * 2**20
    answer = httpx.post(
        f"{scripted_url}/v1/chat/completions",
        content=iter([piece] * (Settings().max_body // len(piece) + 2)),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert_envelope(answer.json())


def large(num_bytes: int = 900_000) -> dict[str, object]:
    return {**CHAT, "unknown": "x" * num_bytes}


def test_only_so_many_large_bodies_are_held_and_small_ones_always(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.guard.MAX_LARGE_BODIES", 1)
    gate = asyncio.Event()
    engine.script = lambda prompt, params: [gate, *says(Text("hi"))(prompt, params)]
    with serving(create_app(Settings(max_body=2**20), engine)) as url, ThreadPoolExecutor() as pool:
        path = f"{url}/v1/chat/completions"
        first = pool.submit(httpx.post, path, json=large(), timeout=30)
        wait_until(lambda: engine.answers, "the first is held")
        second = httpx.post(path, json=large(), timeout=30)
        assert second.status_code == 503
        assert_envelope(second.json())
        assert (second.headers["retry-after"], second.headers["connection"]) == ("2", "close")
        small = pool.submit(httpx.post, path, json=CHAT, timeout=30)
        wait_until(lambda: len(engine.answers) == 2, "a small one is served")
        engine.go_on(gate)
        assert first.result().status_code == small.result().status_code == 200
        wait_until(lambda: httpx.post(path, json=large()).status_code == 200, "there is room again")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_large_body_is_read_and_checked_beside_the_event_loop(
    scripted_url: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    threads: dict[str, set[str]] = {"read": set(), "checked": set()}
    loads, given = strict_json.loads, Permissive.given

    def read(body: bytes) -> object:
        threads["read"].add(threading.current_thread().name)
        return loads(body)

    def checked(self: Permissive) -> dict[str, object]:
        threads["checked"].add(threading.current_thread().name)
        return given(self)

    monkeypatch.setattr(strict_json, "loads", read)
    monkeypatch.setattr(Permissive, "given", checked)
    for body in ({**large(), "input": "hi"}, {**large(), "input": "hi", "temperature": 7}):
        answer = httpx.post(scripted_url + path, json=body, timeout=30)
        assert answer.status_code == (422 if "temperature" in body else 200)
    assert all(name.startswith("asyncio_") for names in threads.values() for name in names)
    assert all(threads.values())


def test_the_key_is_asked_for_everywhere_but_at_health(engine: ScriptedEngine) -> None:
    with serving(create_app(Settings(api_key="s3cret"), engine)) as url:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer é"}):
            sent = [(k.encode(), v.encode()) for k, v in headers.items()]
            answer = httpx.get(f"{url}/v1/models", headers=sent)
            assert answer.status_code == 401
            assert assert_envelope(answer.json())["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{url}/openapi.json").status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer s3cret"}).is_success
        assert httpx.get(f"{url}/health").is_success


def test_a_browser_may_call_with_any_header_and_without_credentials(scripted_url: str) -> None:
    asked = "authorization, content-type, x-stainless-lang"
    answer = httpx.options(
        f"{scripted_url}/v1/chat/completions",
        headers={
            "origin": "http://page",
            "access-control-request-method": "POST",
            "access-control-request-headers": asked,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == asked
    assert "access-control-allow-credentials" not in answer.headers


def test_an_exception_that_nobody_expected_is_a_500_without_a_traceback(
    engine: ScriptedEngine,
) -> None:
    def broken(prompt: object, params: object) -> list[Text]:
        raise RuntimeError("/secret/path")

    engine.script = broken
    with serving(create_app(Settings(), engine)) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers={"origin": "http://p"})
    assert answer.status_code == 500
    assert "secret" not in assert_envelope(answer.json())["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["access-control-allow-origin"] == "*"


def test_a_request_id_is_given_back_unless_it_could_harm(scripted_url: str) -> None:
    kept = httpx.get(f"{scripted_url}/health", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    made = httpx.get(f"{scripted_url}/health", headers={"x-request-id": "a b\x1b[31m"})
    assert made.headers["x-request-id"].startswith("req_")


def test_one_log_line_tells_a_requests_story_but_nothing_that_was_said(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script = says(Text("an answer"))
    with caplog.at_level(logging.INFO), serving(create_app(Settings(), engine)) as url:
        httpx.post(f"{url}/v1/chat/completions", json=CHAT)
        httpx.get(f"{url}/v1/%1b[31mred")
    story, other = (r.getMessage() for r in caplog.records if r.name == "mlx_server")
    assert story.startswith("200 POST /v1/chat/completions  prompt 7 (2 cached + 5 computed)")
    assert "output 5 (1 thinking)" in story
    assert "stop  chatcmpl-" in story
    assert "secret" not in caplog.text
    assert "an answer" not in caplog.text
    assert "\x1b" not in other


def test_the_model_is_listed_with_what_it_can_do(scripted_url: str) -> None:
    listed = httpx.get(f"{scripted_url}/v1/models").json()
    assert listed["object"] == "list"
    (entry,) = listed["data"]
    validated(Model, entry)
    assert entry["id"] == "demo"
    assert entry["context_window"] == 10**6
    assert entry["capabilities"] == {"thinking": True, "tools": True}
    assert httpx.get(f"{scripted_url}/v1/models/demo").json() == entry


@pytest.mark.parametrize("phase", ["loading", "failed", "draining"])
def test_health_says_why_it_is_not_well(
    scripted_url: str, engine: ScriptedEngine, phase: str
) -> None:
    well = httpx.get(f"{scripted_url}/health")
    assert well.status_code == 200
    body = well.json()
    assert (body["status"], body["queue"]) == ("ok", {"running": 0, "waiting": 0})
    said = {"status", "model", "context_window", "queue", "archive", "uptime_s", "version"}
    said |= {"memory", "stalled_s", "failed_steps"}
    assert set(body) == said
    engine.phase = phase  # type: ignore[assignment]
    unwell = httpx.get(f"{scripted_url}/health")
    assert (unwell.status_code, unwell.json()["status"]) == (503, phase)
    assert unwell.headers["retry-after"].isdigit()


def test_health_shows_the_engines_figures_and_is_503_when_it_stalls(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.memory = Memory(limit=100, active=60, kv_caches=20, prefix_cache=10)
    engine.counts = Counts(failed_steps=3)
    engine.stalled_s = 119.0
    busy = httpx.get(f"{scripted_url}/health")
    assert busy.status_code == 200
    assert busy.json()["memory"] == {
        "limit": 100,
        "active": 60,
        "kv_caches": 20,
        "prefix_cache": 10,
    }
    assert (busy.json()["stalled_s"], busy.json()["failed_steps"]) == (119.0, 3)
    engine.stalled_s = 121.0
    stalled = httpx.get(f"{scripted_url}/health")
    assert (stalled.status_code, stalled.json()["status"]) == (503, "stalled")
    assert stalled.json()["reason"] == "stalled"

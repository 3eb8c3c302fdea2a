"""The log: one line a request, in either format, which nobody can forge and nothing can block."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from door import stream
from door.log import Stories, Story, progress_line
from door.log_lines import JsonLine, TextLine, exception_lines, one_line
from parts import Progress, Text
from tests.scripted import ScriptedEngine, says
from tests.serving import ROOT, Running, running, wait_until

CHAT = {"messages": [{"role": "user", "content": "a secret"}]}


def record(message: str, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("mlx_server", logging.INFO, __file__, 1, "%s", (message,), None)
    made.__dict__ |= more
    return made


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_a_line_of_text_is_one_line_and_drives_no_terminal(text: str) -> None:
    line = TextLine().format(record(text))
    assert len(line.splitlines()) == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066" for c in line)
    if text.isprintable():
        assert line.endswith(f" I {text}")


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_a_line_of_json_is_one_object_in_printable_ascii(text: str) -> None:
    line = JsonLine().format(record(text))
    assert line.isascii() and line.isprintable()
    told = json.loads(line)
    assert (told["level"], told["message"]) == ("info", text)


def test_an_exception_is_told_without_words_that_may_be_a_clients() -> None:
    try:
        try:
            int("a secret")
        except ValueError as cause:
            raise RuntimeError("out of\nmemory") from cause
    except RuntimeError as error:
        lines = exception_lines(error)
    assert "ValueError" in lines
    assert lines[-1] == "RuntimeError: out of\\nmemory"
    assert any("test_log.py" in line for line in lines)
    assert not any("invalid literal" in line for line in lines)


def test_a_reader_of_stories_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Story] = []

    def broken(story: Story) -> None:
        raise KeyError("a secret")

    story = Story("GET", "/x\n", request_id="req_1", status=200)
    with caplog.at_level(logging.INFO):
        Stories(broken, heard.append).end(story)
    assert heard == [story]
    assert caplog.records[0].getMessage().startswith("200 GET /x\\n  total")


def test_a_clients_own_words_are_marked_as_left_or_failed() -> None:
    for status, finish in ((200, "client left"), (500, "error")):
        story = Story(status=status, id="chatcmpl-1")
        Stories().end(story)
        assert story.finish == finish


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(0, 4096, 12000), "reading 34 % of 12,000 tokens"),
        (Progress(3, 0, 12000, stage="waiting"), "waiting behind 3"),
        (Progress(0, 0, 12000, stage="waiting"), "waiting, next"),
        (Progress(stage="waking"), "waking the model"),
        (Progress(), "reading 0 % of 0 tokens"),
    ],
)
def test_progress_is_told_in_words(progress: Progress, line: str) -> None:
    assert progress_line(progress) == line


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_a_prompt_that_takes_long_is_told_of_again_and_again(
    scripted_url: str,
    engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(stream, "FIRST_PROGRESS_S", 0.01)
    monkeypatch.setattr(stream, "PROGRESS_EVERY_S", 0.01)
    gate = asyncio.Event()
    engine.script = says(gate, Text("Hello"))

    def told() -> int:
        return sum("reading 34 % of 100 tokens" in r.getMessage() for r in caplog.records)

    body = CHAT if path.startswith("chat") else {"input": "hi"}
    with (
        caplog.at_level(logging.INFO),
        httpx.stream("POST", f"{scripted_url}/v1/{path}", json={**body, "stream": True}) as answer,
    ):
        wait_until(lambda: engine.answers, "the prompt is there")
        engine.answers[0].progress = Progress(0, 34, 100)
        wait_until(lambda: told() > 1, "progress is told twice")
        engine.go_on(gate)
        assert "Hello" in answer.read().decode()
    assert "a secret" not in caplog.text


# The real process


@pytest.fixture(scope="module")
def json_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("json"), "--log-format", "json") as server:
        yield server


def test_every_line_of_a_json_log_is_an_object(json_server: Running) -> None:
    body = {**CHAT, "max_tokens": 3, "model": "x\n\x1b[31m"}
    headers = {"x-request-id": "abc-1", "user-agent": "me\x1b/1"}
    httpx.post(f"{json_server.base_url}/v1/chat/completions", json=body, headers=headers)
    httpx.get(f"{json_server.base_url}/v1/%0a%1b[31m")

    def requests() -> list[dict[str, Any]] | None:
        lines = [json.loads(line) for line in json_server.log.read_text().splitlines()]
        found = [line for line in lines if line["message"] == "request"]
        return found if len(found) == 2 else None

    story, other = wait_until(requests, "both lines are written")
    assert (
        story.items()
        >= {
            "level": "info",
            "request_id": "abc-1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": 200,
            "model": "x\n\x1b[31m",
            "completion_tokens": 3,
            "finish_reason": "length",
        }.items()
    )
    assert story["total_s"] >= story["first_token_s"] > 0
    assert other["path"] == "/v1/\n\x1b[31m"
    text = json_server.log.read_text()
    assert "a secret" not in text and "\x1b" not in text
    ready = json.loads(text.splitlines()[0])
    assert (ready["message"], ready["url"]) == ("ready", json_server.base_url)


def test_a_signal_asks_for_the_stacks_and_stops_nothing(json_server: Running) -> None:
    for number in (1, 2):
        json_server.process.send_signal(signal.SIGUSR1)
        wait_until(
            lambda n=number: json_server.log.read_text().count("End of the stacks.") == n,
            "the stacks are told",
        )
    text = json_server.log.read_text()
    assert "most recent call first" in text
    assert text.count("Thread 0x") > 2
    assert "tasks:" in text and "Stack for <Task" in text
    assert json_server.health().status_code == 200


LOGGING = """
import logging, os, sys
from door import log_lines
log_lines.set_up("info")
for number in range(3000):
    logging.getLogger("mlx_server").info("x" * 100)
log_lines.say("banner", "ready")
open(sys.argv[1], "w").write("survived")
"""


@pytest.mark.parametrize("stderr", ["closed", "nobody reads", "reader left"])
def test_a_broken_stderr_harms_nobody(tmp_path: Path, stderr: str) -> None:
    reading, writing = os.pipe()
    if stderr == "reader left":
        os.close(reading)
    shell = "exec 0<&- 1>&- 2>&-; " if stderr == "closed" else ""
    done = subprocess.run(
        ["bash", "-c", f'{shell}exec "$@"', "bash", sys.executable, "-c", LOGGING, tmp_path / "a"],
        cwd=ROOT,
        stderr=writing,
        timeout=60,
        check=False,
    )
    assert (done.returncode, (tmp_path / "a").read_text()) == (0, "survived")


def test_one_line_keeps_what_can_be_printed() -> None:
    assert one_line("naïve 日本 🦊") == "naïve 日本 🦊"

"""The presets, understood by the clients that they are for: told by `connect`, they get answers.

`make test-clients` runs these.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from door.settings import ROOT, Settings, environment_name
from parts import Prompt, Reasoning, SamplingParams, Text, ToolArguments, ToolCall
from server import create_app
from tests.commands.real_clients import WANTED, ask, environment, installed
from tests.scripted import ScriptedEngine, Step, says
from tests.serving import serving, wait_until

pytestmark = pytest.mark.skipif(
    WANTED not in os.environ, reason="`make test-clients` installs the real clients (2 GB)"
)

MODEL = "mlx-community/Some-Model-4bit"
SAID = "Hello from the other side."
PROXY_KEY = {"authorization": "Bearer sk-local"}


@dataclass
class Place:
    """A server, and the home of somebody who has only just installed a client."""

    url: str
    engine: ScriptedEngine
    home: Path
    key: str | None

    def connect(self, client: str, *argv: str) -> tuple[str, str]:
        """Run `server.py connect`; what it printed, and the command that it says comes next."""
        key = ["--api-key", self.key] if self.key else []
        port = self.url.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "server.py", "connect", client, "--port", port, *key, *argv],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment(self.home),
            check=True,
        )
        then = re.search(r"^# then: (.*)$", done.stderr, re.MULTILINE)
        return done.stdout, then[1] if then else ""

    def heard(self, question: str) -> bool:
        """Whether the engine was asked this; agents ask more, and put more around it."""
        messages = (message for prompt in self.engine.prompts for message in prompt.messages)
        return any(message.role == "user" and question in message.content for message in messages)


@pytest.fixture(params=[None, "sk-house"], ids=["no key", "key"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    engine = ScriptedEngine(says(Reasoning("Hmm."), Text(SAID)))
    settings = Settings(
        served_model_name=MODEL, no_conversation_logs=True, api_key=request.param, temp=0
    )
    with serving(create_app(settings, engine)) as url:
        yield Place(url, engine, tmp_path, request.param)


def test_codex_answers_and_uses_a_tool(place: Place) -> None:
    def script(prompt: Prompt, params: SamplingParams) -> list[Step]:
        if prompt.messages[-1].role == "tool":
            return says(Text(SAID))(prompt, params)
        call = (ToolCall("call_1", "exec_command"), ToolArguments('{"cmd": "echo $((6 * 7))"}'))
        return says(*call, reason="tool_calls")(prompt, params)

    place.engine.script = script
    _, then = place.connect("codex", "--write")
    program, *options = shlex.split(then.partition(",")[0])
    assert (program, *options) == ("codex", "--profile", "mlx-server")
    key = {environment_name("--api-key"): place.key} if place.key else {}
    argv = ["exec", *options, "--skip-git-repo-check", "Say hello."]
    said = ask("codex", argv, place.home, key)
    assert SAID in said
    assert f"model: {MODEL}" in said
    first, second = place.engine.prompts
    assert place.heard("Say hello.")
    assert "exec_command" in {tool.name for tool in first.tools}
    # What the command says is not looked at: a container may allow no sandbox.
    assert second.messages[-1].role == "tool"
    assert second.messages[-2].tool_calls[0].name == "exec_command"
    key = {"authorization": f"Bearer {place.key}"}
    # Codex asks for nothing to be stored, and sends the whole conversation each time.
    assert httpx.get(f"{place.url}/conversations", headers=key).json()["data"] == []


def test_llm_answers(place: Place) -> None:
    place.connect("llm", "--write")
    if place.key:
        ask("llm", ["keys", "set", "mlx-server", "--value", place.key], place.home)
    assert SAID in ask("llm", ["-m", "mlx-server", "Say hello."], place.home)
    assert place.heard("Say hello.")


def test_opencode_knows_the_model_and_answers(place: Place) -> None:
    _, then = place.connect("opencode", "--write")
    model = shlex.split(then)[-1]
    assert model in ask("opencode", ["models"], place.home).splitlines()
    assert SAID in ask("opencode", ["run", "--model", model, "Say hello."], place.home)
    assert place.heard("Say hello.")


def test_continue_answers(place: Place) -> None:
    place.connect("continue", "--write")
    config = str(place.home / ".continue" / "config.yaml")
    assert SAID in ask("cn", ["--config", config, "-p", "Say hello."], place.home)
    assert place.heard("Say hello.")


def test_litellm_passes_a_chat_on(place: Place) -> None:
    text, _ = place.connect("litellm")
    with proxy(place, text) as url:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=PROXY_KEY, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == SAID
    assert place.heard("Say hello.")


def test_claude_code_answers_by_way_of_litellm(place: Place) -> None:
    text, then = place.connect("claude")
    with proxy(place, text) as url:
        *variables, program, flag, model = shlex.split(then)
        assert (program, flag, model) == ("claude", "--model", MODEL)
        given = dict(word.split("=", 1) for word in variables)
        assert given["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
        given["ANTHROPIC_BASE_URL"] = url
        said = ask("claude", [flag, model, "-p", "Say hello."], place.home, given)
    assert SAID in said
    assert "assumes a context window" not in said
    assert place.heard("Say hello.")


@contextlib.contextmanager
def proxy(place: Place, text: str) -> Iterator[str]:
    """LiteLLM's proxy with a configuration, for as long as the block lasts."""
    (place.home / "litellm.yaml").write_text(text)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = ["--config", "litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (place.home / "litellm.log").open("wb") as log:
        process = subprocess.Popen(
            [str(installed("litellm")), *argv],
            cwd=place.home,
            env=environment(place.home),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: is_up(url) or process.poll() is not None, "the proxy is up")
        assert process.poll() is None, (place.home / "litellm.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness").is_success
    except httpx.TransportError:
        return False

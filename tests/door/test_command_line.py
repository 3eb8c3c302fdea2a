"""Starting and stopping the server: flags, variables, mistakes, signals."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from door.settings import Settings, environment_name, parse
from parts import Unavailable
from server import create_app
from tests import demo
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine
from tests.serving import ROOT, running, serving, start, wait_until

FLAGS = [f"--{known.name.replace('_', '-')}" for known in fields(Settings)]


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `server.py` to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "server.py"), *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )


def test_help_names_every_flag_and_version_is_said() -> None:
    helped = run("--help")
    assert helped.returncode == 0
    for flag in [*FLAGS, "--version"]:
        assert flag in helped.stdout
    assert re.match(r"mlx-server \d+\.\d+\.\d+", run("--version").stdout)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['server.py', '--help']\n"
        "try: runpy.run_path('server.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'fastapi', 'pydantic', 'mlx', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0


def test_the_model_may_be_given_with_or_without_its_flag() -> None:
    assert parse(["a/b"]).model == parse(["--model", "a/b"]).model == "a/b"
    assert parse([]).model_name == "demo"


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("0", 0), ("300", 300), ("2k", 2048), ("1.5M", 3 * 2**19), ("2 GiB", None), ("2GiB", 2**31)],
)
def test_sizes_have_units(text: str, num_bytes: int | None) -> None:
    if num_bytes is None:
        with pytest.raises(SystemExit):
            parse(["--prompt-cache-bytes", text])
    else:
        assert parse(["--prompt-cache-bytes", text]).prompt_cache_bytes == num_bytes


@pytest.mark.parametrize("text", ["-1", "2X", "", "G", "1e3", "²", "9" * 30])
def test_what_is_no_size_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--prompt-cache-disk-bytes={text}"])
    assert "such as 512M or 2G" in capsys.readouterr().err


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_a_variable(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "--port": ("1234", 1234),
        "--max-tokens": ("12", 12),
        "--temp": ("0.5", 0.5),
        "--top-p": ("0.5", 0.5),
        "--max-batch": ("3", 3),
        "--max-queue": ("3", 3),
        "--ctx-size": ("99", 99),
        "--drain": ("1.5", 1.5),
        "--prompt-cache-bytes": ("1.5G", 3 * 2**29),
        "--prompt-cache-disk-bytes": ("20GB", 20 * 2**30),
        "--allowed-origins": ("http://a, http://b/", ("http://a", "http://b")),
        "--chat-template-args": ('{"a": 1}', {"a": 1}),
        "--reasoning-format": ("raw", "raw"),
        "--log-level": ("debug", "debug"),
        "--trust-remote-code": ("1", True),
        "--max-body": ("2MB", 2 * 2**20),
        "--timeout": ("9.5", 9.5),
        "--no-cors": ("1", True),
        "--allowed-hosts": ("a.example,.b", ("a.example", ".b")),
        "--top-k": ("7", 7),
        "--min-p": ("0.5", 0.5),
        "--reasoning-budget": ("7", 7),
        "--conversation-ttl": ("7", 7),
        "--no-conversation-logs": ("yes", True),
        "--no-revive": ("on", True),
        "--log-format": ("json", "json"),
        "--stall-timeout": ("7", 7),
        "--idle-unload": ("10m", 600),
        "--kv-bits": ("8", 8),
        "--memory-limit": ("12G", 12 * 2**30),
        "--force": ("true", True),
    }
    text, expected = values.get(flag, ("something", "something"))
    monkeypatch.setenv(environment_name(flag), text)
    field = flag.removeprefix("--").replace("-", "_")
    assert getattr(parse([]), field) == expected != getattr(Settings(), field)


@pytest.mark.parametrize(
    "argv",
    [
        ("--port", "70000"),
        ("--temp", "3"),
        ("--top-p", "x"),
        ("--max-batch", "0"),
        ("--reasoning-format", "some"),
        ("--chat-template-args", "[]"),
        ("--no-such-flag",),
        ("--max-body", "0"),
        ("--max-body", "many"),
        ("--timeout", "-1"),
    ],
)
def test_a_flag_that_makes_no_sense_is_a_usage_error(argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2


def test_a_port_in_use_is_said_before_anything_else(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("--port", port, "--model", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"Cannot start: port {port} is in use or may not be used (try --port 0)."
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "no folder"),
        ({}, "no config.json"),
        ({"config.json": "{"}, "cannot be read as JSON"),
        ({"config.json": "{}"}, "no model_type"),
        ({"config.json": '{"model_type": "qwen3"}'}, "no weights"),
        ({"config.json": '{"model_type": "qwen3"}', "pytorch_model.bin": "x"}, "pickle"),
        ({"config.json": '{"model_type": "qwen3"}', "model.safetensors": "short"}, "cut short"),
    ],
)
def test_a_broken_model_folder_is_one_clear_sentence(
    tmp_path: Path, files: dict[str, str] | None, said: str
) -> None:
    folder = tmp_path / "model"
    for name, text in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if files == {}:
        folder.mkdir()
    assert said in refused(folder)


def refused(folder: Path) -> str:
    """The one line that says why a server does not start, and that names the folder."""
    port = free_port()
    done = run("--port", str(port), "--no-conversation-logs", "--model", str(folder))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Cannot start: ")
    assert str(folder) in line
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    return line


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_a_repository_that_is_not_cached_is_one_clear_sentence_offline(tmp_path: Path) -> None:
    done = run("--port", "0", "nobody/no-such-model", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Cannot start: The model 'nobody/no-such-model'")


def configured(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: configured(folder, model_type="no_such_type"), "mlx-lm does not know"),
        (lambda folder: configured(folder, hidden_size=128), "do not fit its config.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read as JSON"),
    ],
    ids=["type", "shapes", "tokenizer"],
)
def test_a_model_that_cannot_be_loaded_ends_the_server(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((ROOT / "demo" / "model" / name).read_bytes())
    damage(tmp_path)
    assert said in refused(tmp_path)


def test_while_the_model_loads_the_port_answers_503(engine: ScriptedEngine) -> None:
    engine.phase = "loading"
    engine.refusal = Unavailable("The model is still loading.", code="loading")
    with serving(create_app(Settings(), engine)) as url:
        health = httpx.get(f"{url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        assert health.headers["retry-after"].isdigit()
        chat = httpx.post(
            f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]}
        )
        assert chat.status_code == 503
        assert assert_envelope(chat.json())["code"] == "loading"
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "demo"


def test_the_banner_says_what_a_person_wants_to_know(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        text = server.log.read_text()
    assert text.split()[:2] == ["open", server.base_url]
    assert text.count("    make serve MODEL=mlx-community/") == 3
    for words in (
        "callable from pages: any",
        "demo",
        f"context {demo.CONTEXT_WINDOW:,}",
        "MiB",
        "/v1/chat/completions",
        "OPENAI_API_KEY",
    ):
        assert words in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as server:
        body = {"input": "hi", "max_output_tokens": 1}
        made = httpx.post(f"{server.base_url}/v1/responses", json=body, timeout=30).json()
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert not server.complaints()
        assert server.is_port_free()
    (file,) = (tmp_path / "conversation_logs").glob("*.json")
    assert made["id"] in file.read_text()


def test_a_stream_that_outlasts_the_drain_ends_with_an_event(tmp_path: Path) -> None:
    server = start(tmp_path, "--drain", "0.2")
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="x", max_retries=0) as client:
        chunks = endless_story(client)
        next(iter(chunks))
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            for _ in chunks:
                pass
    assert server.process.wait(30) == 0
    assert not server.complaints()


def test_a_stream_may_finish_within_the_drain(tmp_path: Path) -> None:
    server = start(tmp_path, "--drain", "60")
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="x", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Tell me a story."}],
            temperature=0,
            stream=True,
        )
        next(iter(chunks))
        server.process.send_signal(signal.SIGTERM)
        refused = wait_until(lambda: is_refused(server.base_url), "new requests are refused")
        assert refused
        *_, last = chunks
    assert last.choices[0].finish_reason == "stop"
    assert server.process.wait(30) == 0


def endless_story(client: openai.OpenAI) -> openai.Stream[ChatCompletionChunk]:
    return client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Tell me a story."}],
        logit_bias=demo.NEVER_END,
        stream=True,
    )


def is_refused(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 503
    except httpx.TransportError:
        return True


def test_sizes_and_origins_may_be_said_in_more_than_one_way() -> None:
    sizes = {"1": 1, "64K": 2**16, "32MB": 2**25, "1gb": 2**30}
    for text, size in sizes.items():
        assert parse(["--max-body", text]).max_body == size
    assert parse(["--cors-origins", "http://a"]).origins == ("http://a",)
    assert parse(["--cors-origins", "http://a", "--no-cors"]).origins == ()


def test_without_a_home_or_a_cache_in_an_old_locale_it_serves_and_says_goodbye(
    tmp_path: Path,
) -> None:
    bare = {"LC_ALL": "C", "LANG": "C", "HF_HOME": "/dev/null/x", "HOME": "/dev/null/none"}
    server = start(tmp_path, "--drain", "0.2", env={**bare, "PYTHONUTF8": "0"})
    if hasattr(resource, "prlimit"):  # Linux: mlx-lm would have lowered it
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    address = server.base_url.replace("http", "ws") + "/v1/responses"
    with connect(address, open_timeout=20) as frames:
        asked = {"input": "Tell me a story. 🦊", "enable_thinking": False}
        frames.send(json.dumps({"type": "response.create", **asked}))
        heard = [json.loads(frames.recv(20))]
        server.process.send_signal(signal.SIGHUP)
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append(json.loads(frames.recv(20)))
    assert heard[-2]["type"] in ("response.failed", "response.completed")
    assert (heard[-1]["type"], heard[-1]["error"]["code"]) == ("error", "shutting_down")
    assert frames.close_code == 1012
    assert server.process.wait(30) == 0
    assert not server.complaints()


def test_with_nowhere_to_write_it_serves_and_a_second_signal_is_not_waited_for(
    tmp_path: Path,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = shlex.quote(str(tmp_path / "logs"))
    command = f"exec {sys.executable} server.py --port {port} --drain 60 --conversation-logs {logs}"
    process = subprocess.Popen(["sh", "-c", f"{command} >&- 2>&-"], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: is_ready(url), "the server is ready")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        chunks = endless_story(client)
        next(iter(chunks))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(url), "new requests are refused")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


SLOW_TO_LOAD = """
import sys, time
import server
from door.settings import Settings
from inference.engine import Engine

server._engine = lambda settings: Engine(lambda: time.sleep(300))
sys.exit(server.main(Settings(port=int(sys.argv[1]), no_conversation_logs=True)))
"""


def test_a_server_that_loads_ends_at_the_first_signal() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SLOW_TO_LOAD, str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}/health"

    def is_loading() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(httpx.get(url).json()["status"] == "loading")
        return False

    try:
        wait_until(is_loading, "the server is loading")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()

"""What a person sees: help, doctor, a download, the banner, the log; 80 columns and no colours.

REGENERATE_GOLDEN=1 makes these tests write `golden/*.txt` anew; look at what `git diff` says.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from door.log import banner
from door.settings import COMMANDS
from inference.sizes import in_words, suggested
from parts import ModelCard
from tests import hub as hubs
from tests.commands.terminal import COLUMNS, Terminal, compare, without_numbers
from tests.conftest import DEMO
from tests.serving import PATIENCE_S

REPO = "mlx-community/Demo-4bit"


@pytest.fixture
def opened() -> Iterator[list[Terminal]]:
    """The terminals of a test, which end with it."""
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


def capture(opened: list[Terminal], argv: list[str], cwd: Path, **env: str) -> Terminal:
    opened.append(Terminal(argv, cwd, env))
    return opened[-1]


def test_help(tmp_path: Path, opened: list[Terminal]) -> None:
    said = capture(opened, ["--help"], tmp_path).end()
    assert all(len(line) <= COLUMNS + 2 for line in said.splitlines())
    compare("help", said)


def test_doctor(tmp_path: Path, opened: list[Terminal]) -> None:
    terminal = capture(opened, ["doctor", "--conversation-logs", "logs"], tmp_path)
    said = without_numbers(terminal.end().replace(str(tmp_path), "~"))
    said = re.sub(r"at /\S+", "at PYTHON", said)
    said = re.sub(r"on the [CG]PU \(.*\)", "on the DEVICE", said)
    compare("doctor", re.sub(r"^[✓✗] port .*", "✓ port          # on # is free", said, flags=re.M))


def test_doctor_says_what_is_wrong(tmp_path: Path, opened: list[Terminal]) -> None:
    terminal = capture(opened, ["doctor", "--model", "some/model", "--host", "192.0.2.1"], tmp_path)
    said = terminal.end()
    assert terminal.process.wait() == 1
    assert "✗ model         some/model is not here, or not whole: serving it fetches it" in said
    assert re.search(r"^✗ port          8080: ", said, re.MULTILINE)


def test_a_download_the_banner_and_a_request(tmp_path: Path, opened: list[Terminal]) -> None:
    """In one go, as at the first start."""
    with hubs.running() as hub:
        hub.repos[REPO] = {p.name: p.read_bytes() for p in DEMO.iterdir() if p.is_file()}
        terminal = capture(
            opened,
            ["--port", "0", "--no-conversation-logs", "--model", REPO],
            tmp_path,
            HF_ENDPOINT=hub.url,
        )
        found = terminal.wait_for(lambda seen: "OPENAI_API_KEY" in seen, "the banner")
    address = re.search(r"OPENAI_BASE_URL=(\S+)/v1", found)
    assert address, found
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 5}
    assert httpx.post(f"{address[1]}/v1/chat/completions", json=body, timeout=60).is_success
    said = terminal.wait_for(lambda seen: "chatcmpl-" in seen, "the request's line")
    said = re.sub(r"chatcmpl-\w+", "chatcmpl-#", said.partition("\n\n\n")[0])
    said = re.sub(r"memory    .* of .*: ", "memory    # MB of # GB: ", said)
    said = re.sub(r"^ *100% (━+) .*", r"100% \1 # MB", said, flags=re.MULTILINE)
    compare("first_start", without_numbers(said).rstrip() + "\n")


def test_a_download_can_be_stopped(tmp_path: Path, opened: list[Terminal]) -> None:
    with hubs.running() as hub:
        hub.repos[REPO] = {p.name: p.read_bytes() for p in DEMO.iterdir() if p.is_file()}
        hub.held = threading.Event()
        argv = ["--port", "0", "--model", REPO]
        terminal = capture(opened, argv, tmp_path, HF_ENDPOINT=hub.url)
        assert hub.begun.wait(PATIENCE_S)
        terminal.process.send_signal(signal.SIGINT)
        said = terminal.end()
    assert "Stopped. The same command goes on where this one was." in said
    assert "Traceback" not in said
    assert terminal.process.returncode == 130


def test_a_chat_starts_a_server_of_its_own(tmp_path: Path, opened: list[Terminal]) -> None:
    argv = ["chat", "Hello!", "--port", "9", "--no-conversation-logs", "--temp", "0"]
    terminal = capture(opened, argv, tmp_path)
    said = terminal.end()
    assert terminal.process.returncode == 0
    assert said.startswith("Starting a server with demo.\n")
    assert re.search(r"\d+ tokens, .* tok/s, first after ", said)


def test_the_banner_names_three_models_that_fit() -> None:
    models = [f"{known.repo}  ({in_words(known.num_bytes)})" for known in suggested(16 * 10**9)]
    card = ModelCard("demo", 4096, thinking=True, tools=True, num_bytes=6_108_000)
    url = "http://127.0.0.1:8080"
    compare("banner", banner(card, url, has_key=False, origins="*", real_models=models))
    assert len(models) == 3


def test_every_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    import commands

    for name in COMMANDS:
        with pytest.raises(SystemExit):
            commands.run([name, "--help"])
        said = capsys.readouterr().out
        assert f"usage: server.py {name}" in said
        assert "The server's flags are understood too" in said

"""What a person sees: help, doctor, a download, the banner, the log; 80 columns and no colours.

REGENERATE_GOLDEN=1 makes these tests write `golden/*.txt` anew; look at what `git diff` says.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from door.log import banner
from door.settings import COMMANDS
from inference.sizes import in_words, suggested
from parts import ModelCard, Progress, Text
from tests import hub as hubs
from tests.commands.terminal import Terminal, Tmux, assert_fits, compare, rows, without_numbers
from tests.conftest import DEMO
from tests.scripted import ScriptedEngine, says
from tests.serving import PATIENCE_S

HALF = r"^ *46% ━"
"""As near to half as whole chunks come."""
REPO = "mlx-community/Demo-4bit"


@pytest.fixture
def opened() -> Iterator[list[Terminal]]:
    """The terminals of a test, which end with it."""
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


def capture(opened: list[Terminal], argv: list[str], cwd: Path, **env: str | None) -> Terminal:
    opened.append(Terminal(argv, cwd, env))
    return opened[-1]


def test_help(tmp_path: Path, opened: list[Terminal]) -> None:
    said = capture(opened, ["--help"], tmp_path).end()
    compare("help", said)


def test_doctor(tmp_path: Path, opened: list[Terminal]) -> None:
    terminal = capture(opened, ["doctor", "--conversation-logs", "logs"], tmp_path)
    said = terminal.end()
    assert_fits(said, wraps=r"/|on the [CG]PU")  # folders and devices have names of any length
    said = without_numbers(said.replace(str(tmp_path), "~"))
    said = re.sub(r"at /\S+", "at PYTHON", said)
    said = re.sub(r"on the [CG]PU \(.*\)", "on the DEVICE", said)
    compare("doctor", re.sub(r"^[✓✗] port .*", "✓ port          # on # is free", said, flags=re.M))


def test_doctor_says_what_is_wrong(tmp_path: Path, opened: list[Terminal]) -> None:
    terminal = capture(opened, ["doctor", "--model", "some/model", "--host", "192.0.2.1"], tmp_path)
    said = terminal.end()
    assert terminal.process.wait() == 1
    assert "✗ model         some/model is not here, or not whole: serving it fetches it" in said
    assert "✗ port          192.0.2.1 is not an address of this machine; try --host 127" in said


def test_doctor_does_not_wait_for_a_program_that_says_nothing(
    tmp_path: Path, opened: list[Terminal]
) -> None:
    """It takes the connection, and says nothing until the doctor has gone."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        said = capture(opened, ["doctor", "--port", str(port)], tmp_path).end()
    assert f"✗ port          {port}: address already in use; try --port 0" in said


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
    # A request is one line, however long, so that it can be searched for.
    assert_fits(said, wraps="chatcmpl-")
    said = re.sub(r"chatcmpl-\w+", "chatcmpl-#", said.partition("\n\n\n")[0])
    said = re.sub(r"memory    .* of .*: ", "memory    # MB of # GB: ", said)
    said = re.sub(r"^ *100% (━+) .*", r"100% \1 # MB", said, flags=re.MULTILINE)
    compare("first_start", without_numbers(said).rstrip() + "\n", wraps="chatcmpl-")


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


@pytest.mark.parametrize(("name", "no_color"), [("download", "1"), ("download_in_colours", None)])
def test_a_download_that_is_half_done(
    name: str, no_color: str | None, tmp_path: Path, opened: list[Terminal]
) -> None:
    with hubs.running() as hub:
        hub.repos[REPO] = {p.name: p.read_bytes() for p in DEMO.iterdir() if p.is_file()}
        hub.held = threading.Event()
        argv = ["--port", "0", "--model", REPO]
        terminal = capture(opened, argv, tmp_path, HF_ENDPOINT=hub.url, NO_COLOR=no_color)
        said = terminal.wait_for(lambda seen: re.search(HALF, seen, re.M), "half of it")
    assert (b"\x1b[3" in terminal.raw) is (no_color is None)
    assert_fits(said)
    said = re.sub(r"memory    .* of .*: ", "memory    # MB of # GB: ", said)
    said = re.sub(r"(/\d\.\d MB) .*", r"\1", said)  # its pace, and the time that is left
    compare(name, without_numbers(said).rstrip() + "\n")


@pytest.mark.parametrize("argv", [["--help"], ["doctor", "--conversation-logs", "logs"]])
def test_tmux_shows_what_the_terminal_shows(
    argv: list[str], tmp_path: Path, opened: list[Terminal]
) -> None:
    if not shutil.which("tmux"):
        pytest.skip("there is no tmux here")
    argv = [*argv, "--port", "0"]
    said = capture(opened, argv, tmp_path).end()
    tmux = Tmux(argv, tmp_path, {"HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "NO_COLOR": "1"})
    try:
        drawn = tmux.end()
    finally:
        tmux.close()
    wanted = rows(said)
    assert drawn[: len(wanted)] == wanted


def test_a_chat_says_how_far_the_prompt_is(
    engine: ScriptedEngine, scripted_url: str, tmp_path: Path, opened: list[Terminal]
) -> None:
    begin = asyncio.Event()
    engine.script = says(begin, Text("Hello"))
    engine.first_progress = Progress(num_computed=340, num_prompt=1000)
    terminal = capture(opened, ["chat", "Hi", "--port", scripted_url.rpartition(":")[2]], tmp_path)
    terminal.wait_for(lambda seen: "reading 34 % of 1,000 tokens" in seen, "how far it is")
    engine.go_on(begin)
    said = terminal.end()
    assert said.startswith("Hello\n5 tokens, ")
    assert "reading" not in said


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
    compare("banner", banner(card, url, has_key=False, origins="any", real_models=models))
    assert len(models) == 3


def test_every_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    import commands

    for name in COMMANDS:
        with pytest.raises(SystemExit):
            commands.run([name, "--help"])
        said = capsys.readouterr().out
        assert f"usage: server.py {name}" in said
        assert "The server's flags are understood too" in said

"""The commands beside serving: models, doctor, bench, chat, service, completion."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import plistlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import commands
from commands import service
from door.settings import ROOT, Settings, parse
from inference.sizes import fit, in_words, suggested
from parts import Prompt, Reasoning, SamplingParams, Text, Unavailable, Usage
from tests.scripted import ScriptedEngine, Step, says
from tests.serving import wait_until


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


# Models and sizes


def test_models_survive_a_machine_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert commands.run(["models"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["demo", "6.1", "MB", "fits"]
    assert "make serve MODEL=mlx-community/" in said


def test_models_lists_what_is_cached_and_whether_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, is_whole in (("whole", True), ("part", False)):
        folder = tmp_path / f"models--some--{name}"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
        for path in (ROOT / "demo" / "model").iterdir():
            if is_whole or path.suffix == ".json":
                shutil.copy(path, snapshot / path.name)
    assert commands.run(["models", "--json"]) == 0
    found = {entry["model"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["some/whole"]["is_whole"] is True
    assert found["some/whole"]["num_bytes"] > 6 * 10**6
    assert found["some/part"]["is_whole"] is False
    assert commands.run(["models"]) == 0
    assert "not whole: serving it fetches the rest" in capsys.readouterr().out


def test_models_says_what_is_no_model_for_mlx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repositories = {
        "gguf": ["model.Q4.gguf"],
        "pickles": ["config.json", "pytorch_model.bin"],
        "pictures": ["model_index.json", "unet/config.json", "unet/model.safetensors"],
        "ours": ["config.json", "model-00001-of-00002.safetensors", "onnx/model.onnx"],
        "begun": ["config.json"],
    }
    for name, files in repositories.items():
        snapshot = tmp_path / f"models--some--{name}" / "snapshots" / ("a" * 40)
        for file in files:
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / file).write_bytes(b"x" * 1000)
    blobs = tmp_path / "models--some--blobs" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"x" * 5000)
    assert commands.run(["models", "--json"]) == 0
    found = {entry["model"]: entry for entry in json.loads(capsys.readouterr().out)}
    ours = {name for name, entry in found.items() if entry["is_for_mlx"]}
    assert ours == {"demo", "some/ours", "some/begun", "some/blobs"}
    assert found["some/blobs"]["num_bytes"] == 5000
    assert commands.run(["models"]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "not for" in line]
    assert set(lines) == {"some/gguf", "some/pickles", "some/pictures"}


@pytest.mark.parametrize("gigabytes", [1, 2, 3, 4, 8, 16, 32, 64, 128, 512])
def test_what_is_suggested_fits(gigabytes: int) -> None:
    memory = gigabytes * 10**9
    found = suggested(memory)
    assert len(found) == 3
    assert all(fit(known.num_bytes, memory) == "fits" for known in found)
    assert found == sorted(found, key=lambda known: -known.num_bytes)


def test_sizes_are_said_as_people_say_them() -> None:
    said = [in_words(size) for size in (12, 1500, 6.1e6, 4.6e9, 999.96e6, 2e12)]
    assert said == ["12 bytes", "1.5 kB", "6.1 MB", "4.6 GB", "1.0 GB", "2.0 TB"]


# Chat


def test_a_chat_remembers_and_dims_thoughts(
    engine: ScriptedEngine,
    scripted_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine.script = says(Reasoning("hmm"), Text("[bold]Hello"), usage=Usage(7, 2, 5, 1))
    lines = "/system Be kind.\nHi\n\n/think off\nAgain\n/new\nOnce more\n/help\n/quit\nNever\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert commands.run(["chat", "--port", port_of(scripted_url)]) == 0
    said = capsys.readouterr().out
    assert said.count("[bold]Hello") == 3
    assert said.count("hmm\n\n[bold]Hello") == 3
    assert "5 tokens, " in said
    assert "2 cached" in said
    assert "/system TEXT" in said
    first, second, third = engine.prompts
    assert [m.content for m in first.messages] == ["Be kind.", "Hi"]
    assert [m.content for m in second.messages] == ["Be kind.", "Hi", "[bold]Hello", "Again"]
    assert second.template_args["enable_thinking"] is False
    assert [m.content for m in third.messages] == ["Be kind.", "Once more"]


def test_what_was_stopped_is_not_forgotten(
    engine: ScriptedEngine, scripted_url: str, tmp_path: Path
) -> None:
    def script(prompt: Prompt, params: SamplingParams) -> Iterable[Step]:
        parts = [Reasoning("hmm"), Text("Once upon")]
        if prompt.messages[-1].content == "Tell":
            parts.append(asyncio.Event())
        return says(*parts)(prompt, params)

    engine.script = script
    with talking(scripted_url) as chat:
        chat.say("Hi")
        chat.wait_for("tok/s")
        chat.say("Tell")
        chat.wait_for("tok/s.*Once upon")
        chat.process.send_signal(signal.SIGINT)
        chat.wait_for("stopped")
        chat.say("Go on")
        chat.wait_for("stopped.*tok/s")
        chat.say("And then?")
        chat.wait_for("stopped.*tok/s.*tok/s")
    hi, once = ("user", "Hi"), ("assistant", "Once upon")
    *_, third, fourth = engine.prompts
    stopped = [("user", "Tell"), once, ("user", "Go on")]
    assert [(m.role, m.content) for m in third.messages] == [hi, once, *stopped]
    assert [(m.role, m.content) for m in fourth.messages][:-1] == [hi, once, *stopped, once]
    wait_until(lambda: engine.answers[1].is_cancelled, "the stopped answer costs nothing more")


class Talking:
    """A chat in a process of its own, which can be interrupted."""

    def __init__(self, url: str) -> None:
        argv = [sys.executable, str(ROOT / "server.py"), "chat", "--port", port_of(url)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        self._said = b""

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def wait_for(self, pattern: str) -> None:
        wait_until(lambda: re.search(pattern, self._seen(), re.DOTALL), pattern)

    def _seen(self) -> str:
        assert self.process.stdout
        self._said += self.process.stdout.read() or b""
        return self._said.decode()


@contextlib.contextmanager
def talking(url: str) -> Iterator[Talking]:
    chat = Talking(url)
    with chat.process:
        try:
            yield chat
        except BaseException:
            chat.process.kill()  # or it would be waited for
            raise


def test_one_question_may_be_asked_at_once(
    engine: ScriptedEngine, scripted_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = port_of(scripted_url)
    assert commands.run(["chat", "What", "is", "--port", port, "this?", "--system", "Be"]) == 0
    assert "Hello" in capsys.readouterr().out
    assert [m.content for m in engine.prompts[0].messages] == ["Be", "What is this?"]


def test_a_failure_is_one_sentence_in_a_chat(
    engine: ScriptedEngine,
    scripted_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine.refusal = Unavailable("The engine has failed.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    assert commands.run(["chat", "--port", port_of(scripted_url)]) == 0
    assert "The engine has failed." in capsys.readouterr().out


def test_a_server_that_cannot_start_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["chat", "--port", "9", "--model", "/no/such", "Hi"]) == 1
    assert "There is no folder '/no/such'" in capsys.readouterr().err


# Bench


def test_the_bench_measures_each_number_of_clients(
    engine: ScriptedEngine, scripted_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.script = says(Text("a"), Text("b"), usage=Usage(100, 90, 12, 0))
    argv = ["bench", "--port", port_of(scripted_url), "--clients", "1,3", "--tokens", "9"]
    assert commands.run(argv) == 0
    *_, one, three = capsys.readouterr().out.splitlines()
    assert (one.split()[0], three.split()[0]) == ("1", "3")
    assert one.split()[-1] == "90"
    assert len(engine.prompts) == 1 + 2 + 6
    asked = [prompt.messages[0].content for prompt in engine.prompts]
    assert asked[1] == asked[2] != asked[3]
    assert {params.max_tokens for params in engine.params[1:]} == {9}


# The service


@pytest.fixture
def settings() -> Settings:
    """Flags with everything in them that a file format could trip over."""
    return parse(
        ["--model", 'a "b" %h $HOME \\ c', "--port", "9", "--api-key", 'k %$ "q"', "--no-revive"]
    )


def test_the_plist_starts_the_server_with_its_flags(settings: Settings) -> None:
    content = plistlib.loads(service.launchd(settings).text)
    assert content["ProgramArguments"][1] == str(ROOT / "server.py")
    assert parse(content["ProgramArguments"][2:]).model == settings.model
    assert content["EnvironmentVariables"]["MLX_SERVER_API_KEY"] == settings.api_key
    assert "--api-key" not in content["ProgramArguments"]
    assert content["RunAtLoad"] is True


def test_the_unit_starts_the_server_with_its_flags(settings: Settings, tmp_path: Path) -> None:
    text = service.systemd(settings).text.decode()
    lines = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    words = [w.replace("%%", "%").replace("$$", "$") for w in shlex.split(lines["ExecStart"])]
    assert parse(words[2:]).model == settings.model
    (variable,) = shlex.split(lines["Environment"])
    assert variable.replace("%%", "%") == f"MLX_SERVER_API_KEY={settings.api_key}"
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    unit = tmp_path / service.UNIT
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, unit.name in done.stderr) == (0, False), done.stderr


def test_paths_are_those_of_the_folder_in_which_it_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "models")
    monkeypatch.setattr(sys, "platform", "darwin")
    flags = ["--model", "./here", "--api-key-file", "keys.txt", "--adapter-path", "lora"]
    flags += ["--prompt-cache-dir", "cache", "--conversation-logs", "logs"]
    assert commands.run(["service", "install", "--print", *flags]) == 0
    content = plistlib.loads(capsys.readouterr().out.encode())
    installed = parse(content["ProgramArguments"][2:])
    for name, path in (
        ("model", "here"),
        ("api_key_file", "keys.txt"),
        ("adapter_path", "lora"),
        ("prompt_cache_dir", "cache"),
        ("conversation_logs", "logs"),
    ):
        assert getattr(installed, name) == str(tmp_path / path)
    assert content["EnvironmentVariables"]["HF_HOME"] == str(tmp_path / "models")
    assert commands.run(["service", "install", "--print", "--model", "some/repository"]) == 0
    assert "<string>some/repository</string>" in capsys.readouterr().out


SYSTEMCTL = """#!/bin/sh
echo "systemctl $@" >> called
case "$*" in
*"enable --now"*) sh -c "exec $(sed -n s/^ExecStart=//p "$UNIT")" >log 2>&1 & echo $! >pid;;
*"disable --now"*) kill "$(cat pid)";;
esac
"""
"""Starts what the unit says."""
LAUNCHCTL = """#!/bin/sh
echo "launchctl $@" >> called
case "$1" in
bootstrap) test ! -e known || { echo "Bootstrap failed: 5" >&2; exit 5; }; touch known;;
bootout) touch going;;
print) test -e known || exit 113; test ! -e going || rm going known;;
esac
"""
"""Knows a name for a moment longer than it was asked to."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home on a machine whose programs only say how they were called, or do a little."""
    for name, text in (("systemctl", SYSTEMCTL), ("launchctl", LAUNCHCTL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o700)
    monkeypatch.setenv("UNIT", str(tmp_path / ".config/systemd/user/mlx-server.service"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_installed_and_uninstalled(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = machine / ".config/systemd/user/mlx-server.service"
    port = str(free_port())
    assert commands.run(["service", "status"]) == 3
    assert commands.run(["service", "uninstall"]) == 1
    argv = ["service", "install", "--port", port, "--no-conversation-logs"]
    try:
        assert commands.run([*argv, "--api-key", "secret"]) == 0
        assert unit.stat().st_mode & 0o777 == 0o600
        assert commands.run(["service", "status"]) == 0
        said = capsys.readouterr().out
        assert f"It runs: http://127.0.0.1:{port}. " in said
        unit.unlink()  # as if it were somebody else's server
        assert commands.run(argv) == 1
        assert "Another server answers at" in capsys.readouterr().err
        unit.touch()
    finally:
        assert commands.run(["service", "uninstall"]) == 0
    assert not unit.exists()
    called = (machine / "called").read_text()
    for words in ("--user daemon-reload", "enable --now", "disable --now"):
        assert words in called
    assert "secret" not in said


def test_launchd_is_asked_again_only_when_the_old_one_is_gone(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(service, "START_S", 0)
    argv = ["service", "install", "--port", str(free_port())]
    assert commands.run(argv) == 0
    assert plistlib.loads((machine / "Library/LaunchAgents/local.mlx-server.plist").read_bytes())
    assert commands.run(argv) == 0
    said = capsys.readouterr().out
    assert said.count("It was told to start, and does not answer") == 2
    assert "It runs" not in said
    verbs = [line.split()[1] for line in (machine / "called").read_text().splitlines()]
    assert verbs == ["bootstrap", "bootout", "print", "print", "bootstrap"]
    assert commands.run(["service", "uninstall"]) == 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completions_know_flags_and_commands(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(["--print-completion", shell]) == 0
    said = capsys.readouterr().out
    for word in ("max-batch", "doctor", "conversations", "mlx-server"):
        assert word in said
    assert commands.is_called(["--port", "9", f"--print-completion={shell}"])
    assert commands.run(["--port", "9", f"--print-completion={shell}"]) == 0


def test_bash_understands_its_completions(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["--print-completion", "bash"]) == 0
    text = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_command_is_only_a_first_word() -> None:
    assert commands.is_called(["models"])
    assert not commands.is_called(["--model", "models"])
    assert not commands.is_called([])
    assert parse(["--model", "doctor"]).model == "doctor"

"""What clients are told, and what is done to their files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import commands
from commands.presets import PRESETS, Target
from tests.scripted import CARD
from tests.serving import run as run_program

TARGET = Target("http://127.0.0.1:8080/v1", "some/model-4bit", 32768, True, "secret key")
READERS: dict[str, Callable[[str], Any]] = {
    "codex": tomllib.loads,
    "opencode": json.loads,
    "zed": json.loads,
    "continue": yaml.safe_load,
    "llm": yaml.safe_load,
    "aider": yaml.safe_load,
    "litellm": yaml.safe_load,
    "claude": yaml.safe_load,
    "langchain": lambda text: compile(text, "preset", "exec") and text,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which no client has written anything yet, and no server that runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLX_SERVER_PORT", "9")
    for name in ("XDG_CONFIG_HOME", "CODEX_HOME", "LLM_USER_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("client", PRESETS)
def test_a_preset_names_the_address_the_model_and_the_key(client: str) -> None:
    preset = PRESETS[client](TARGET)
    read = READERS.get(client, str)(preset.text)
    words = str(read)
    inside = "host.docker.internal:8080/v1" if client == "open-webui" else TARGET.url
    assert inside in words
    assert TARGET.model in words or client in ("open-webui", "sdk")
    by_variable = client in ("codex", "zed", "llm")
    assert ("secret key" in words) is not by_variable
    if preset.entry:
        assert preset.entry.merge(None) == (preset.text if client == "codex" else read)


def test_a_preset_for_the_shell_can_be_run(tmp_path: Path) -> None:
    text = PRESETS["sdk"](TARGET).text + 'echo "$OPENAI_BASE_URL $OPENAI_API_KEY"'
    assert run_program(["sh", "-c", text], tmp_path) == f"{TARGET.url} secret key\n"


def test_the_running_server_is_asked(scripted_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = scripted_url.rpartition(":")[2]
    assert commands.run(["connect", "codex", "--port", port]) == 0
    said = capsys.readouterr()
    settings = tomllib.loads(said.out)
    assert settings["model_context_window"] == CARD.context_window
    assert settings["model_providers"]["mlx-server"]["base_url"] == f"{scripted_url}/v1"
    assert "from the flags" not in said.err


def test_without_a_server_the_flags_are_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["connect", "codex", "--model", "a/b", "-c", "5000"]) == 0
    said = capsys.readouterr()
    assert tomllib.loads(said.out)["model_context_window"] == 5000
    assert "nothing answers at http://127.0.0.1:9 yet: from the flags" in said.err


@pytest.mark.parametrize(
    ("client", "path", "theirs"),
    [
        ("opencode", ".config/opencode/opencode.json", '{"theme": "x", "provider": {"a": {}}}'),
        ("zed", ".config/zed/settings.json", '{"vim_mode": true}'),
        ("continue", ".continue/config.yaml", "name: Mine\nmodels:\n- name: other\n"),
        ("llm", ".config/io.datasette.llm/extra-openai-models.yaml", "- model_id: other\n"),
        ("aider", ".aider.conf.yml", "dark-mode: true\n"),
        ("codex", ".codex/mlx-server.config.toml", None),
    ],
)
def test_a_file_is_changed_backed_up_and_put_back(
    home: Path, client: str, path: str, theirs: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / path
    if theirs is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(theirs)
        file.chmod(0o640)
    assert commands.run(["connect", client, "--write"]) == 0
    written = file.read_text()
    kept = READERS[client](theirs) if theirs else {}
    for value in kept if isinstance(kept, list) else [kept]:
        for key in value if isinstance(value, dict) else []:
            assert key in written
    assert "http://127.0.0.1:9/v1" in written
    assert file.stat().st_mode & 0o777 == (0o640 if theirs else 0o600)
    assert commands.run(["connect", client, "--write"]) == 0
    assert "says it already" in capsys.readouterr().err
    assert commands.run(["connect", client, "--undo"]) == 0
    assert (file.read_text() if file.exists() else None) == theirs
    (undone,) = file.parent.glob(f"{file.name}.undone-*")
    assert undone.read_text() == written
    assert commands.run(["connect", client, "--undo"]) == 1
    assert "There is no backup" in capsys.readouterr().err


def test_ours_takes_the_place_of_ours_only(home: Path) -> None:
    file = home / ".config/io.datasette.llm/extra-openai-models.yaml"
    for name in ("one/model", "another/model"):
        assert commands.run(["connect", "llm", "--write", "--model", name]) == 0
    (entry,) = yaml.safe_load(file.read_text())
    assert entry["model_name"] == "another/model"


@pytest.mark.parametrize(
    ("client", "path", "theirs"),
    [
        ("zed", ".config/zed/settings.json", '{\n  // mine\n  "vim_mode": true,\n}\n'),
        ("continue", ".continue/config.yaml", "# mine\nname: Mine\n"),
    ],
)
def test_comments_are_never_lost(
    home: Path, client: str, path: str, theirs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / path
    file.parent.mkdir(parents=True)
    file.write_text(theirs)
    assert commands.run(["connect", client, "--write"]) == 1
    assert "add the lines above by hand" in capsys.readouterr().err
    assert file.read_text() == theirs
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_link_stays_a_link(home: Path) -> None:
    real = home / "dotfiles" / "settings.json"
    real.parent.mkdir()
    real.write_text("{}")
    link = home / ".config" / "zed" / "settings.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    assert commands.run(["connect", "zed", "--write"]) == 0
    assert link.is_symlink()
    assert "mlx-server" in real.read_text()


def test_a_client_without_a_file_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["connect", "cline", "--write"]) == 1
    assert "cline has no file that could be written" in capsys.readouterr().err

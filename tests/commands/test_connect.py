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
from door.settings import environment_name
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


ZED = ".config/zed/settings.json"
CONTINUE = ".continue/config.yaml"
CODEX = ".codex/mlx-server.config.toml"
COMMENTS = "has comments, which would be lost"


@pytest.mark.parametrize(
    ("client", "path", "theirs", "problem"),
    [
        ("zed", ZED, '{\n  // mine\n  "vim_mode": true,\n}\n', COMMENTS),
        ("zed", ZED, '{"a": 1} /* mine */', COMMENTS),
        ("zed", ZED, '{"a": "http://b"', "is not plain JSON (Expecting"),
        ("zed", ZED, "[]", "holds something else"),
        ("continue", CONTINUE, "# mine\nname: Mine\n", COMMENTS),
        ("continue", CONTINUE, "name: Mine # my own\n", COMMENTS),
        ("continue", CONTINUE, "name: |  # my own\n  # no comment\n", COMMENTS),
        ("continue", CONTINUE, "name: [\n", "is not plain YAML"),
        ("continue", CONTINUE, "models: {}\nname: [a, b]\n", None),
        ("continue", CONTINUE, "models: {a: b}\n", "no list where"),
        ("codex", CODEX, "model = \n", "it is no TOML"),
        ("codex", CODEX, 'model = """\nmodel_provider = "x"\n"""\n', "in another way"),
        ("codex", CODEX, 'model_providers.mlx-server.name = "x"\n', "in another way"),
    ],
)
def test_what_would_lose_something_is_refused(
    home: Path,
    client: str,
    path: str,
    theirs: str,
    problem: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = home / path
    file.parent.mkdir(parents=True)
    file.write_text(theirs)
    assert commands.run(["connect", client, "--write"]) == (0 if problem is None else 1)
    if problem is None:
        return
    said = capsys.readouterr().err
    assert problem in said
    assert "add the lines above by hand" in said
    assert file.read_text() == theirs
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "theirs",
    ["name: 'no # comment'\n", "name: a#b\n", "name: |\n  # no comment\n  text\nother: 1\n"],
)
def test_a_number_sign_in_a_value_is_no_comment(home: Path, theirs: str) -> None:
    file = home / CONTINUE
    file.parent.mkdir(parents=True)
    file.write_text(theirs)
    assert commands.run(["connect", "continue", "--write"]) == 0
    kept = yaml.safe_load(file.read_text())
    assert {**kept, **yaml.safe_load(theirs)} == kept


def test_only_our_lines_of_a_codex_profile_are_replaced(home: Path) -> None:
    file = home / CODEX
    file.parent.mkdir(parents=True)
    file.write_text(
        "# mine\n"
        'approval_policy = "never"  # really\n'
        'model = "old"\n'
        "model_context_window = 5\n\n"
        "[tui]\n"
        "notifications = true\n\n"
        "[model_providers.mlx-server]\n"
        'base_url = "http://old"\n'
        "[model_providers.mlx-server.query_params]\n"
        'a = "b"\n'
        "[model_providers.other]\n"
        'name = "other"\n'
    )
    assert commands.run(["connect", "codex", "--write", "--model", "a/b"]) == 0
    text = file.read_text()
    read = tomllib.loads(text)
    assert "# mine\n" in text
    assert 'approval_policy = "never"  # really\n' in text
    assert "model_context_window" not in read
    assert (read["model"], read["tui"]) == ("a/b", {"notifications": True})
    assert read["model_providers"]["other"] == {"name": "other"}
    ours = read["model_providers"]["mlx-server"]
    assert (ours["base_url"], "query_params" in ours) == ("http://127.0.0.1:9/v1", False)
    assert commands.run(["connect", "codex", "--write", "--model", "a/b"]) == 0
    assert file.read_text() == text


def test_zed_gets_a_variable_that_is_not_the_servers() -> None:
    """Its variable is its provider's name; the server would take its own for its key."""
    preset = PRESETS["zed"](Target("http://127.0.0.1:8080/v1", "some/model"))
    (name,) = json.loads(preset.text)["language_models"]["openai_compatible"]
    variable = name.upper().replace("-", "_") + "_API_KEY"
    assert f"export {variable}=" in preset.then
    assert variable != environment_name("--api-key")


def test_claude_code_is_told_how_much_fits() -> None:
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS=32768 " in PRESETS["claude"](TARGET).then
    no_window = Target("http://127.0.0.1:8080/v1", "some/model")
    assert "CONTEXT" not in PRESETS["claude"](no_window).then


def test_a_link_stays_a_link(home: Path) -> None:
    real = home / "dotfiles" / "settings.json"
    real.parent.mkdir()
    real.write_text("{}")
    link = home / ".config" / "zed" / "settings.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    assert commands.run(["connect", "zed", "--write"]) == 0
    assert link.is_symlink()
    assert "mlx-local" in real.read_text()


def test_a_client_without_a_file_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["connect", "cline", "--write"]) == 1
    assert "cline has no file that could be written" in capsys.readouterr().err

"""Flags: their other names, where a value came from, and what a mistyped one may have meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from door.settings import ALIASES, IGNORED, Settings, arguments_of, environment_name, parse

VALUES = {
    "--max-tokens": ("7", 7),
    "--temp": ("0.5", 0.5),
    "--top-p": ("0.5", 0.5),
    "--max-batch": ("3", 3),
    "--ctx-size": ("99", 99),
    "--chat-template-args": ('{"a": 1}', {"a": 1}),
    "--log-level": ("debug", "debug"),
    "--allowed-origins": ("http://a", ("http://a",)),
}


@pytest.mark.parametrize(("flag", "alias"), [(f, a) for f in ALIASES for a in ALIASES[f]])
def test_what_other_servers_call_a_flag_means_the_same(flag: str, alias: str) -> None:
    text, expected = VALUES.get(flag, ("something", "something"))
    name = flag.removeprefix("--").replace("-", "_")
    assert getattr(parse([alias, text]), name) == expected == getattr(parse([flag, text]), name)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["-c", "32k"], "ctx_size", 32000),
        (["-c", "32K"], "ctx_size", 32768),
        (["-c", "0"], "ctx_size", None),
        (["--log-level", "DEBUG"], "log_level", "debug"),
        (["--uvicorn-log-level", "trace"], "log_level", "debug"),
        (["--reasoning-format", "none"], "reasoning_format", "raw"),
        (["--reasoning-format", "deepseek"], "reasoning_format", "separate"),
        (["--allowed-origins", '["http://a/", "http://b"]'], "allowed_origins",
         ("http://a", "http://b")),
        (["--prompt-cache-bytes", "4GB"], "prompt_cache_bytes", 4 * 2**30),
        (["--prompt-cache-bytes", "1.5GiB"], "prompt_cache_bytes", 3 * 2**29),
        (["--served-model-name", "mine"], "model_name", "mine"),
    ],
)  # fmt: skip
def test_values_may_be_written_as_people_write_them(
    argv: list[str], name: str, value: object
) -> None:
    assert getattr(parse(argv), name) == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--prot", "9"], "there is no flag --prot; did you mean --port?"),
        (["--max-batches=9"], "there is no flag --max-batches; did you mean --max-batch?"),
        (["-ngk", "9"], "there is no flag -ngk; did you mean -ngl?"),
        (["-n5"], "there is no flag -n5"),
        (["--zzz"], "there is no flag --zzz (--help"),
        (["a/b", "c/d"], "nothing is known of 'c/d'"),
        (["--max-num-seqs", "0"], "--max-batch must be from 1 to 1024, not 0"),
        (["--prompt-cache-bytes", "much"], "must be a size such as 512M or 2G, not much"),
        (["--ctx-size", "big"], "must be a number of tokens"),
        (["@no/such/file"], "the flags in 'no/such/file' cannot be read: No such file"),
    ],
)
def test_a_mistake_is_one_sentence(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("flag", [flag for flags in IGNORED for flag in flags])
def test_what_has_nothing_to_set_here_is_ignored_aloud(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num_values = next(number for flags, (number, _) in IGNORED.items() if flag in flags)
    words = [flag, *["99"] * num_values]
    assert parse([*words, "a/b"]) == Settings(model="a/b")
    assert capsys.readouterr().err.startswith(f"{flag} is ignored: ")
    (tmp_path / "flags").write_text(" ".join([*words, "--port 9"]))
    assert parse([f"@{tmp_path / 'flags'}"]).port == 9


def test_a_variable_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, text in (("--port", "x"), ("--log-level", "loud"), ("--temp", "3")):
        monkeypatch.setenv(environment_name(flag), text)
        with pytest.raises(SystemExit):
            parse([])
        assert environment_name(flag) in capsys.readouterr().err
        monkeypatch.delenv(environment_name(flag))


def test_a_file_of_flags_counts_more_than_a_variable_and_less_than_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tmp_path / "my flags"
    flags.write_text("# mine\n--port 9001 --temp 0.3\n--model 'a folder'\n--no-revive\n")
    monkeypatch.setenv("MLX_SERVER_TEMP", "0.1")
    monkeypatch.setenv("MLX_SERVER_TOP_P", "0.2")
    argv = ["--port", "9002", f"@{flags}", "--api-key", "secret"]
    settings = parse(argv)
    assert (settings.port, settings.temp, settings.top_p) == (9002, 0.3, 0.2)
    assert (settings.model, settings.no_revive) == ("a folder", True)
    with pytest.raises(SystemExit) as ended:
        parse([*argv, "--print-config"])
    assert ended.value.code == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = {cells[0].strip(): [cell.strip() for cell in cells if cell] for cells in lines}
    assert rows["--port"][1:] == ["9002", "argument"]
    assert rows["--temp"][1:] == ["0.3", str(flags)]
    assert rows["--top-p"][1:] == ["0.2", "MLX_SERVER_TOP_P"]
    assert rows["--drain"][1:] == ["5.0", "default"]
    assert rows["--api-key"][1] == "(not shown)"


def test_a_flag_in_a_file_may_be_mistyped_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flags").write_text("--prot 3")
    with pytest.raises(SystemExit):
        parse([f"@{tmp_path / 'flags'}"])
    assert "did you mean --port?" in capsys.readouterr().err


def test_settings_can_be_written_as_a_command_line() -> None:
    settings = Settings(
        model="a/b",
        port=9,
        top_p=0.123456789,
        allowed_origins=("http://a", "http://b"),
        chat_template_args={"enable_thinking": False},
        trust_remote_code=True,
        prompt_cache_bytes=10**9,
    )
    assert parse(arguments_of(settings)) == settings
    assert arguments_of(Settings(api_key="secret")) == []

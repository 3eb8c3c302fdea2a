"""Archived conversations, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import commands
from protocol.archive import Archive
from protocol.tree import Tree, turn_of_response

FIRST, SECOND = "resp_" + "1" * 32, "resp_" + "2" * 32


def a_tree(tree_id: str, created_at: float, *turns: tuple[str, str]) -> Tree:
    """A conversation of questions and answers."""
    tree = Tree(tree_id, created_at)
    for number, (question, answer) in enumerate(turns):
        response = {
            "id": tree_id if number == 0 else f"resp_{number:031d}a",
            "object": "response",
            "status": "completed",
            "instructions": "Be short." if number == 0 else None,
            "output": [_message(f"msg_{number}a{created_at}", "assistant", answer, "output_text")],
        }
        asked = [_message(f"msg_{number}u{created_at}", "user", question, "input_text")]
        turn = turn_of_response(response, asked, created_at=created_at + number, source="a test")
        turn.parent = tree.turns[-1] if tree.turns else None
        tree.turns.append(turn)
    return tree


def _message(name: str, role: str, text: str, kind: str) -> dict[str, object]:
    content: list[dict[str, object]] = [{"type": kind, "text": text}]
    if kind == "output_text":
        content[0] |= {"annotations": [], "logprobs": []}
    return {
        "id": name,
        "type": "message",
        "status": "completed",
        "role": role,
        "content": content,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive with two conversations, and files that are not ours."""
    archive = Archive(tmp_path)
    archive.save(a_tree(FIRST, 1.7e9, ("Hello there", "Hi!")))
    archive.save(a_tree(SECOND, 1.8e9, ("Who are you?", "A model."), ("Really?", "Yes.")))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f"2026-01-01T00-00-00Z_resp_{'3' * 32}.json").write_text("{}")
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return commands.run(["conversations", "--conversation-logs", str(folder), *words])


def test_they_are_listed_the_newest_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == run(folder, "list") == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()[:3]
    assert lines[0].split() == ["id", "began", "turns", "title"]
    assert lines[1].split()[0] == SECOND
    assert lines[1].endswith("2  Who are you?")
    assert lines[2].endswith("1  Hello there")
    assert "passed over: it is not a conversation" in said.err


def test_one_is_shown_by_the_beginning_of_its_id(
    folder: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(folder, "show", "resp_2") == 0
    said = capsysbinary.readouterr().out.decode()
    positions = [said.index(words) for words in ("Who are you?", "A model.", "Really?", "Yes.")]
    assert positions == sorted(positions)


def test_an_export_is_what_the_archive_has(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path_factory.mktemp("export")
    assert run(folder, "export", "--format", "json", "--to", str(to)) == 0
    assert run(folder, "export", SECOND, "--format", "jsonl", "--to", str(to)) == 0
    assert run(folder, "export", SECOND, "--to", str(to)) == 0
    assert {path.name for path in to.iterdir()} == {
        f"{FIRST}.json", f"{SECOND}.json", f"{SECOND}.jsonl", f"{SECOND}.md",
    }  # fmt: skip
    (original,) = folder.glob(f"*_{FIRST}.json")
    assert (to / f"{FIRST}.json").read_text() == original.read_text()
    messages = [json.loads(line) for line in (to / f"{SECOND}.jsonl").read_text().splitlines()]
    said = [(m["role"], m["content"]) for m in messages if m["role"] != "system"]
    assert said == [
        ("user", "Who are you?"), ("assistant", "A model."), ("user", "Really?"),
        ("assistant", "Yes."),
    ]  # fmt: skip
    assert "Who are you?" in (to / f"{SECOND}.md").read_text()
    assert (to / f"{FIRST}.json").stat().st_mode & 0o077 == 0


def test_deleting_is_asked_about_and_final(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert run(folder, "delete", "resp_1") == 0
    assert len(list(folder.glob("*_resp_[12]*.json"))) == 2
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert run(folder, "delete", "resp_1") == 0
    assert [p.name[-8:] for p in folder.glob("*_resp_[12]*.json")] == ["222.json"]
    assert run(folder, "delete", "--all", "--yes") == 0
    assert {p.name for p in folder.iterdir()} == {
        "notes.txt", f"2026-01-01T00-00-00Z_resp_{'3' * 32}.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "resp_9"], "No archived conversation has the id 'resp_9'."),
        (["show", "resp_"], "2 conversations have ids that begin with 'resp_'."),
        (["show"], "Name the conversation to show"),
        (["delete"], "Name the conversations to delete, or give --all."),
    ],
)
def test_a_mistake_is_one_sentence(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *words) == 1
    assert said in capsys.readouterr().err


def test_no_archive_is_no_error_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing") == 1
    assert "There is no archive at" in capsys.readouterr().err
    assert run(tmp_path) == 0
    assert "No conversation is archived yet." in capsys.readouterr().out

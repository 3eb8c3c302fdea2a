"""The documents tell the truth: their code blocks run, their links lead somewhere, lists name what
there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from commands.presets import PRESETS
from door.settings import ALIASES, COMMANDS, IGNORED
from tests.serving import Running, run, wait_until

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
}
BLOCKS: list[tuple[str, str]] = [
    block for text in PAGES.values() for block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
]
NEVER_RUN = {
    "make test\n": "it is what runs this test",
    "make serve MODEL=mlx-community/Qwen3-8B-4bit\n": "it downloads 4 GB",
}


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def on(server: Running, text: str) -> str:
    return text.replace("http://127.0.0.1:8080", server.base_url)


def test_only_known_kinds_of_blocks_are_there() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", "javascript"}
    assert set(NEVER_RUN) <= set(blocks("bash"))


@pytest.mark.parametrize("block", [b for b in blocks("bash") if not b.startswith("make")])
def test_a_shell_block_runs(block: str, demo_server: Running, tmp_path: Path) -> None:
    """In a home of its own: some write into a client's file."""
    assert run(["env", f"HOME={tmp_path}", "bash", "-euc", on(demo_server, block)], ROOT)


@pytest.mark.parametrize(
    "block", [b for b in blocks("bash") if b.startswith("make serve") and b not in NEVER_RUN]
)
def test_a_make_block_serves(block: str, tmp_path: Path) -> None:
    command = re.sub(r"--port \d+", "", block.strip())
    if "ARGS" in command:
        command = command.replace('ARGS="', 'ARGS="--port 0 ')
    else:
        command += ' ARGS="--port 0"'
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "OPENAI_BASE_URL" in log.read_text() or process.poll(), "the banner")
        assert process.poll() is None, log.read_text()
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.mark.parametrize("block", NEVER_RUN)
def test_a_block_that_is_not_run_is_at_least_known_to_make(block: str) -> None:
    assert run(["make", "-n", *block.split()[1:]], ROOT)


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_runs(block: str, demo_server: Running) -> None:
    assert run([sys.executable, "-c", on(demo_server, block)], ROOT)


@pytest.mark.parametrize("block", blocks("javascript"))
def test_a_javascript_block_runs(block: str, demo_server: Running, node_folder: Path) -> None:
    script = node_folder / "block.mjs"
    script.write_text(on(demo_server, block), encoding="utf-8")
    assert run(["node", str(script)], node_folder)


def test_the_script_header_asks_for_what_requirements_txt_asks_for() -> None:
    text = (ROOT / "server.py").read_text(encoding="utf-8")
    header = re.search(r"^# /// script\n(.*?)^# ///$", text, re.DOTALL | re.MULTILINE)
    assert header
    script = tomllib.loads(re.sub(r"^# ?", "", header[1], flags=re.MULTILINE))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert script["dependencies"] == [x for x in lines if x and not x.startswith("#")]
    assert script["requires-python"] == ">=3.11"


def test_every_file_of_the_rooms_is_in_architecture_md() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for room in ("door", "protocol", "inference", "commands"):
        for path in (ROOT / room).glob("*.py"):
            assert path.name == "__init__.py" or path.name in page, path


def test_every_command_and_every_alias_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## {name}" in page
    for flag, aliases in ALIASES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{flag}` |"))
        assert [word for word in re.findall(r"`([^`]+)`", row) if word != flag] == list(aliases)
    for client in PRESETS:
        assert f"`{client}`" in page
    for flag in (flag for flags in IGNORED for flag in flags):
        assert f"`{flag}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", PAGES[page]):
        name, _, anchor = next(filter(None, target)).partition("#")
        if name.startswith("http"):
            continue
        path = (page.parent / name) if name else page
        assert path.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {h.lower().replace(" ", "-") for h in headings}, target

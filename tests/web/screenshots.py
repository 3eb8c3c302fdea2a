"""The screenshots of the README, made anew: the page in light and in dark.

python -m tests.web.screenshots [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from door.settings import Settings
from parts import Finish, Prompt, Reasoning, SamplingParams, Text, Usage
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine, Step
from tests.serving import ROOT, serving
from tests.web.chromium import launched
from tests.web.desk import Desk, Place

OTHERS = (
    ("codex_cli_rs/0.60", "Split the parser into small functions"),
    ("OpenAI/JS 6.2.0", "Summarise the minutes of Monday"),
    ("OpenAI/Python 3.54", "Name three rivers in Switzerland"),
    ("curl/8.9", "Is this thing on?"),
)
QUESTION = "What is a prefix cache, and why does it matter for agents?"
THOUGHT = "They want the idea first, then why agents gain. A small example helps; keep it short."
ANSWER = (
    "A **prefix cache** keeps what the model computed for the beginning of a prompt. When the next "
    "prompt *begins the same way*, the server starts from there.\n\n"
    "```python\n"
    "def num_shared(old: list[int], new: list[int]) -> int:\n"
    "    pairs = enumerate(zip(old, new))\n"
    "    return next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))\n"
    "```\n\n"
    "Agents send their whole history with every step, and only add to its end:\n\n"
    "| | prompt | computed |\n"
    "|---|---|---|\n"
    "| first step | 9,120 tokens | 9,120 |\n"
    "| every later step | 9,380 tokens | 260 |\n\n"
    "So a wait of many seconds becomes one of a few *milliseconds*.\n"
)


def script(prompt: Prompt, params: SamplingParams) -> list[Step]:
    if prompt.messages[-1].content != QUESTION:
        return [Text("Done."), Finish("stop", Usage(20, 0, 2, 0))]
    pieces = [Text(ANSWER[start : start + 5]) for start in range(0, len(ANSWER), 5)]
    return [Reasoning(THOUGHT), *pieces, Finish("stop", Usage(9380, 9120, 214, 38))]


def take(folder: Path) -> None:
    """Write the pictures into a folder."""
    with tempfile.TemporaryDirectory() as logs:
        clock, engine = Clock(), ScriptedEngine(script)
        store = Store(Archive(Path(logs), clock=clock), clock=clock)
        with serving(create_app(Settings(), engine, store)) as url:
            for source, words in OTHERS:
                headers = {"user-agent": source}
                httpx.post(f"{url}/v1/responses", json={"input": words}, headers=headers)
            place = Place(url, engine, store, clock)
            place.archive_all()
            for scheme in ("light", "dark"):
                shoot(place, scheme, folder / f"chat-{scheme}.png")


def shoot(place: Place, scheme: str, path: Path) -> None:
    """One picture."""
    size = {"width": 1200, "height": 820}
    with (
        sync_playwright() as playwright,
        launched(playwright) as browser,
        Desk.at(browser, place, viewport=size, color_scheme=scheme) as desk,
    ):
        desk.ask(QUESTION)
        desk.page.mouse.move(0, 0)
        desk.page.screenshot(path=path)
        row = desk.page.evaluate("location.hash.slice(1)")
        place.store.delete_tree(row)


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    chosen.mkdir(parents=True, exist_ok=True)
    take(chosen)

"""The screenshots of the README, made anew: the page in light and in dark.

python -m tests.web.screenshots [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from unittest import mock

import httpx
from playwright.sync_api import Browser, expect, sync_playwright

from door.runs import Run
from door.settings import Settings
from parts import Finish, Prompt, Reasoning, SamplingParams, Text, Usage
from protocol.archive import Archive
from protocol.conversations import Store
from protocol.tree import Timings
from server import create_app
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine, Step
from tests.serving import ROOT, serving
from tests.web.chromium import launched
from tests.web.desk import Desk, Place

OTHERS = (
    ("Agents/Python 0.6.1", "Find what changed between the two reports"),
    ("OpenAI/JS 6.2.0", "Summarise the minutes of Monday"),
    ("OpenAI/Python 3.54", "Name three rivers in Switzerland"),
    ("curl/8.9", "Is this thing on?"),
)
TIMINGS = Timings(first_token_s=0.42, thinking_s=0.9, tokens_per_s=41.7)
"""A scripted engine answers at once: these are of a model of 8 billion weights on a laptop."""
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
    return [Reasoning(THOUGHT), Text(ANSWER), Finish("stop", Usage(9380, 9120, 214, 38))]


def take(folder: Path, browser: Browser) -> list[Path]:
    """Write the pictures into a folder."""
    with tempfile.TemporaryDirectory() as logs:
        clock, engine = Clock(), ScriptedEngine(script)
        store = Store(Archive(Path(logs), clock=clock), clock=clock)
        with serving(create_app(Settings(), engine, store)) as url:
            place = Place(url, engine, store, clock)
            for source, words in OTHERS:
                ask(url, words, source)
            place.archive_all()
            with mock.patch.object(Run, "timings", return_value=TIMINGS):
                made = ask(url, QUESTION, "Mozilla/5.0")
            return [shoot(place, browser, made, scheme, folder) for scheme in ("light", "dark")]


def ask(url: str, words: str, source: str) -> str:
    headers = {"user-agent": source}
    answer = httpx.post(f"{url}/v1/responses", json={"input": words}, headers=headers)
    return str(answer.json()["id"])


def shoot(place: Place, browser: Browser, id: str, scheme: str, folder: Path) -> Path:
    """One picture."""
    path = folder / f"chat-{scheme}.png"
    size = {"width": 1200, "height": 820}
    with Desk.at(browser, place, f"/#{id}", viewport=size, color_scheme=scheme) as desk:
        expect(desk.measures).to_be_visible()
        desk.page.mouse.move(0, 0)
        desk.page.screenshot(path=path)
    return path


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    chosen.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, launched(playwright) as started:
        take(chosen, started)

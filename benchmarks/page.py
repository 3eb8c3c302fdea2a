"""What a long streamed answer costs the browser: milliseconds of script, style and layout.

They are the page's own time on a processor: on a busy machine a clock would count what others take.

    python -m benchmarks.page [KiB]

Needs Playwright and a Chromium. The answer is a scripted one, as fast as the wire takes it: once a
token an event, and once in the larger pieces that a reader gets who falls behind a quick model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from playwright.sync_api import Browser, CDPSession, sync_playwright

from door.settings import Settings
from parts import Finish, Part, Prompt, SamplingParams, Text, Usage
from server import create_app
from tests.scripted import ScriptedEngine
from tests.serving import serving
from tests.web.chromium import launched

SENTENCES = "Some *words* with `code`, and **more words**, make a sentence of ordinary length. " * 4
SECTION = (
    f"## A heading\n\n{SENTENCES}\n\n{SENTENCES}See [there](https://example.com).\n\n"
    f"- one thing\n- another thing\n\n{SENTENCES}\n\n"
    "```python\ndef f(x: int) -> int:\n    return x + 1\n```\n\n"
)
MEASURES = ("ScriptDuration", "RecalcStyleDuration", "LayoutDuration", "TaskDuration")


def script(prompt: Prompt, params: SamplingParams) -> Iterator[Part]:
    """An answer of so many KiB as the prompt says, in pieces of so many characters."""
    kib, piece = map(int, prompt.messages[-1].content.split())
    size = kib << 10
    text = (SECTION * (size // len(SECTION) + 1))[:size]
    yield from (Text(text[start : start + piece]) for start in range(0, size, piece))
    yield Finish("stop", Usage(10, 0, size // 4, 0))


def measured(session: CDPSession) -> dict[str, float]:
    """Milliseconds so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return {each["name"]: 1000 * each["value"] for each in metrics if each["name"] in MEASURES}


def measure(url: str, browser: Browser, kib: str, piece: int) -> None:
    """Print what one answer costs."""
    page = browser.new_page()
    page.goto(url)
    page.get_by_role("button", name="Send").wait_for()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before, began = measured(session), time.perf_counter()
    page.get_by_label("Message", exact=True).fill(f"{kib} {piece}")
    page.keyboard.press("Enter")
    page.locator(".measures").wait_for(timeout=120_000)
    took, after = time.perf_counter() - began, measured(session)
    costs = (f"{n.removesuffix('Duration')} {after[n] - before[n]:.0f}" for n in MEASURES)
    print(f"{kib} KiB, {piece} characters an event, in {took:.1f} s: {' · '.join(costs)} ms")
    page.close()


def main() -> None:
    kib = sys.argv[1] if len(sys.argv) > 1 else "64"
    app = create_app(Settings(no_conversation_logs=True), ScriptedEngine(script))
    with serving(app) as url, sync_playwright() as playwright, launched(playwright) as browser:
        for piece in (4, 64):
            measure(url, browser, kib, piece)


if __name__ == "__main__":
    main()

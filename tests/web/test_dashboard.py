"""The page at `/dashboard`, in a real browser."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from door import dashboard
from door.settings import Settings
from parts import Counts, Memory
from server import create_app
from tests.scripted import ScriptedEngine
from tests.serving import serving, wait_until
from tests.web.conftest import Watched

HIDE = """(is) => {
  Object.defineProperty(document, "hidden", { value: is, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
CHAT = {"messages": [{"role": "user", "content": "a secret"}], "model": "any-<b>name"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "SAMPLE_S", 0.05)


@pytest.fixture
def board(page: Page) -> Page:
    page.goto("/dashboard")
    expect(page.locator("#state")).to_have_text("ready")
    return page


def chat(url: str) -> None:
    sent = {"user-agent": "tester/1.0"}
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=sent).is_success


def test_a_request_is_shown_when_it_ends(board: Page, scripted_url: str) -> None:
    expect(board.locator("#nothing")).to_be_visible()
    chat(scripted_url)
    row = board.locator("tbody tr").first
    expect(row).to_contain_text("/v1/chat/completions")
    cells = [cell.inner_text() for cell in row.locator("td").all()]
    assert cells[2:7] == ["any-<b>name", "tester/1.0", "7", "2", "5"]
    assert cells[9:] == ["stop", "200"]
    httpx.get(f"{scripted_url}/v1/nothing")
    expect(board.locator("tbody tr")).to_have_count(2)
    expect(board.locator("tbody tr").first).to_contain_text("404")
    assert "a secret" not in board.content()
    board.set_viewport_size({"width": 360, "height": 740})
    expect(board.locator("tbody tr").first).to_be_visible()
    assert board.evaluate("document.documentElement.scrollWidth") == 360


def test_tiles_show_the_engine(board: Page, engine: ScriptedEngine, scripted_url: str) -> None:
    tiles = board.locator(".tile")
    engine.num_waiting = 4
    engine.memory = Memory(limit=8 * 2**30, active=2 * 2**30, kv_caches=2**29, prefix_cache=2**28)
    engine.counts = Counts(steps=100, prompt_tokens=400, cached_tokens=100, completion_tokens=50)
    expect(tiles.nth(0)).to_contain_text("4 waiting")
    expect(tiles.nth(3)).to_contain_text("25 %")
    expect(tiles.nth(4)).to_contain_text("2.0 GB of 8.0 GB")
    expect(tiles.nth(4)).to_contain_text("KV 512 MB")
    expect(tiles.nth(1).locator("path.line.written")).not_to_have_count(0)
    chat(scripted_url)
    expect(tiles.nth(2)).to_contain_text("median of 1")
    expect(tiles.nth(2).locator("path.dot")).to_have_count(1)


def test_every_state_of_the_engine_has_a_name_and_a_colour(
    board: Page, engine: ScriptedEngine
) -> None:
    state, grey = board.locator("#state"), board.evaluate(DOT.format("none"))
    for phase, words in (
        ("sleeping", "sleeping"),
        ("loading", "loading the model"),
        ("ready", "ready"),
    ):
        engine.phase = phase  # type: ignore[assignment]
        expect(state).to_have_text(words)
        assert board.evaluate(DOT.format(phase)) != grey


DOT = """(() => {{
  const probe = document.createElement("p");
  probe.className = "state";
  probe.dataset.state = "{}";
  document.body.append(probe);
  const {{ backgroundColor }} = getComputedStyle(probe, "::before");
  probe.remove();
  return backgroundColor;
}})()"""


def test_the_page_comes_back_when_its_stream_breaks(
    board: Page, engine: ScriptedEngine, scripted_url: str, watched: Watched
) -> None:
    chat(scripted_url)
    expect(board.locator("tbody tr")).to_have_count(1)
    board.context.set_offline(True)
    engine.phase = "draining"  # which ends the stream
    expect(board.locator("#state")).to_have_text("not reached, trying again")
    engine.phase = "ready"
    board.context.set_offline(False)
    expect(board.locator("#state")).to_have_text("ready")
    expect(board.locator("tbody tr")).to_have_count(1)
    # The browser itself tells of what failed while it was offline.
    assert all("ERR_INTERNET_DISCONNECTED" in told for told in watched.complaints)
    watched.complaints.clear()


def test_a_page_that_is_not_looked_at_costs_nothing(
    browser: Browser, engine: ScriptedEngine
) -> None:
    app = create_app(Settings(no_conversation_logs=True), engine)
    with serving(app) as url:
        page = browser.new_page(base_url=url)
        page.goto("/dashboard")
        expect(page.locator("#state")).to_have_text("ready")
        hide = (
            "(is) => { Object.defineProperty(document, 'hidden', { value: is, configurable: true })"
        )
        hide += "; document.dispatchEvent(new Event('visibilitychange')) }"
        page.evaluate(hide, True)
        wait_until(lambda: not app.state.board._pages, "the stream is closed")
        page.evaluate(hide, False)
        wait_until(lambda: app.state.board._pages, "the stream is open again")
        page.close()

"""A real browser for the pages, and an eye on what it asks for and complains about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from door.settings import Settings
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine
from tests.serving import serving
from tests.web.chromium import NoBrowser, launched
from tests.web.desk import Desk, Place, context_in

VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. For this package only: while it is open, no test can run a loop of its own."""
    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        try:
            with launched(playwright) as started:
                yield started
        except NoBrowser as problem:
            if "REQUIRE_BROWSER" in os.environ:
                raise
            pytest.skip(f"no Chromium can be started here (make test-browser): {problem}")


@dataclass
class Watched:
    """What a browser did that it should not have done."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext, url: str) -> None:
        """Watch every page of a context, on the site at `url`."""
        context.add_init_script(VIOLATIONS)
        context.on("page", lambda page: self._watch(page, url))

    def _watch(self, page: Page, url: str) -> None:
        page.on("request", lambda r: r.url.startswith((url, "data:")) or self.foreign.append(r.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Fails the test when the browser asked for anything foreign or complained."""
    watched = Watched()
    yield watched
    assert not watched.foreign
    assert not watched.complaints


@pytest.fixture
def context(browser: Browser, scripted_url: str, watched: Watched) -> Iterator[BrowserContext]:
    """A browser without a past, on the application around the scripted engine."""
    context = browser.new_context(base_url=scripted_url)
    context.set_default_timeout(15_000)
    watched.watch(context, scripted_url)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("web") / "conversation_logs"
    clock, engine = Clock(), ScriptedEngine()
    store = Store(Archive(folder, clock=clock), clock=clock)
    with serving(create_app(Settings(), engine, store)) as url:
        yield Place(url, engine, store, clock)


@pytest.fixture(scope="package")
def room(browser: Browser) -> Iterator[BrowserContext]:
    """Where desks stand: what the browser read for one of them it need not read again."""
    context = context_in(browser)
    yield context
    context.close()


@pytest.fixture
def desk(room: BrowserContext, place: Place) -> Iterator[Desk]:
    """The page, just opened, on a server without conversations."""
    place.clear()
    with Desk.on(room, place) as opened:
        yield opened

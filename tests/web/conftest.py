"""A browser, and pages in it that are watched: whatever they should not do fails the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from door.settings import Settings
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine
from tests.serving import serving
from tests.web.chromium import NoBrowser, launched
from tests.web.desk import Desk, Place


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Not for the whole session: Playwright's event loop would be in the way of other tests'.
    with sync_playwright() as playwright:
        try:
            with launched(playwright) as started:
                yield started
        except NoBrowser as problem:
            if "REQUIRE_BROWSER" in os.environ:
                raise
            pytest.skip(f"no Chromium can be started here (make test-browser): {problem}")


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("web") / "conversation_logs"
    clock, engine = Clock(), ScriptedEngine()
    store = Store(Archive(folder, clock=clock), clock=clock)
    with serving(create_app(Settings(), engine, store)) as url:
        yield Place(url, engine, store, clock)


@pytest.fixture
def desk(browser: Browser, place: Place) -> Iterator[Desk]:
    """The page, just opened, on a server without conversations."""
    place.clear()
    with Desk.at(browser, place) as opened:
        yield opened

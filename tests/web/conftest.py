"""A real browser for the pages, and an eye on what it asks for and complains about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. For this package only: while it is open, no test can run a loop of its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium is installed (looked for " + ", ".join(names) + ")")
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        browser.close()


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

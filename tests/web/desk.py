"""A desk is the page as a person sees it, with ears for everything that a person would not see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from parts import Message, Progress
from protocol.conversations import Store
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine, says

LISTEN = """
  window.violations = [];
  addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective));
"""


@dataclass
class Place:
    """A server with a scripted engine and a store whose clock the test moves."""

    url: str
    engine: ScriptedEngine
    store: Store
    clock: Clock

    def clear(self) -> None:
        for each in self.store.listed():
            self.store.delete_tree(each.summary.id)
        self.engine.script = says()
        self.engine.refusal = None
        self.engine.phase, self.engine.may_wake = "ready", None
        self.engine.first_progress = Progress()

    def archive_all(self) -> None:
        self.clock.advance(self.store.ttl)
        self.store.sweep()

    @property
    def last_said(self) -> list[tuple[str, str]]:
        """The messages of the engine's last prompt."""
        messages: tuple[Message, ...] = self.engine.prompts[-1].messages
        return [(message.role, message.content) for message in messages]


def context_in(browser: Browser, **options: Any) -> BrowserContext:
    """A part of the browser that shares nothing with others."""
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(LISTEN)
    context.set_default_timeout(15_000)
    return context


@dataclass
class Desk:
    page: Page
    place: Place
    complaints: list[str] = field(default_factory=list)
    allowed: set[str] = field(default_factory=set)
    """Beginnings of complaints that the test provokes."""

    @classmethod
    @contextlib.contextmanager
    def at(cls, browser: Browser, place: Place, path: str = "/", **options: Any) -> Iterator[Desk]:
        """The page in a browser without a past, with Playwright's options for a context."""
        settles = options.pop("settles", True)
        with (
            contextlib.closing(context_in(browser, **options)) as context,
            cls.on(context, place, path, settles=settles) as desk,
        ):
            yield desk

    @classmethod
    @contextlib.contextmanager
    def on(
        cls, context: BrowserContext, place: Place, path: str = "/", *, settles: bool = True
    ) -> Iterator[Desk]:
        """Open the page; at the end, nothing may have gone wrong in it, and nothing of it stays."""
        page = context.new_page()
        desk = cls(page, place)
        desk._listen()
        page.goto(place.url + path)
        if settles:
            desk.settle()
        yield desk
        desk.complaints += page.evaluate("window.violations")
        page.evaluate("localStorage.clear(), sessionStorage.clear()")
        page.close()
        unforeseen = [c for c in desk.complaints if not c.startswith(tuple(desk.allowed))]
        assert not unforeseen, unforeseen

    def _listen(self) -> None:
        self.page.on(
            "console",
            lambda m: m.type in ("error", "warning") and self.complaints.append(m.text),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("dialog"))
        self.page.on("popup", lambda page: self.complaints.append("popup"))
        self.page.on("request", self._see)

    def _see(self, request: Any) -> None:
        if not request.url.startswith((self.place.url, "blob:", "data:")):
            self.complaints.append(f"a request to {request.url}")

    def settle(self) -> None:
        """Wait until the page knows the model and the conversations, and shows what it should."""
        expect(self.page.locator("#model")).not_to_be_empty()
        expect(self.page.locator("#conversations > *")).not_to_have_count(0)
        if "#" in self.page.url:
            expect(self.page.locator(".turn, #notice:not([hidden])").first).to_be_visible()

    def reload(self) -> None:
        self.page.reload()
        self.settle()

    # What is seen

    @property
    def prompt(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    @property
    def turns(self) -> Locator:
        return self.page.locator("article.turn")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer .prose")

    @property
    def state(self) -> Locator:
        return self.page.locator(".turn:last-child .answer .state")

    @property
    def measures(self) -> Locator:
        return self.page.locator(".turn:last-child .measures")

    @property
    def titles(self) -> Locator:
        return self.page.locator("#conversations .name")

    def button(self, name: str, within: Locator | None = None) -> Locator:
        return (within or self.page).get_by_role("button", name=name)

    def seen(self) -> list[str]:
        """Every bubble and answer, from the top."""
        return self.page.locator(".bubble, .prose").all_inner_texts()

    # What is done

    def write(self, text: str) -> None:
        self.prompt.fill(text)
        self.prompt.press("Enter")

    def ask(self, text: str) -> None:
        """Ask, and wait for the end of the answer."""
        num_turns = self.turns.count()
        self.write(text)
        expect(self.turns).to_have_count(num_turns + 1)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        expect(self.measures).to_be_visible()
        expect(self.button("Send")).to_be_visible()

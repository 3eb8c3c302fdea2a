"""The page at `/docs`, in a real browser: what it shows, and that its samples are true."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from door.settings import Settings
from parts import Reasoning, Text
from server import create_app
from tests.scripted import ScriptedEngine, says
from tests.serving import ROOT, run, serving
from tests.web.conftest import Watched

CHAT = "#post-v1-chat-completions"


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def site(engine: ScriptedEngine) -> Iterator[str]:
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url:
        yield url


@pytest.fixture(scope="module")
def opened(browser: Browser, site: str) -> Iterator[tuple[Page, Watched]]:
    """The page, opened once: that is what costs time here."""
    watched = Watched()
    context = browser.new_context(base_url=site)
    context.set_default_timeout(15_000)
    watched.watch(context, site)
    page = context.new_page()
    page.goto("/docs")
    expect(page.locator(CHAT)).to_be_visible()
    yield page, watched
    context.close()


@pytest.fixture
def docs(opened: tuple[Page, Watched], engine: ScriptedEngine) -> Iterator[Page]:
    page, watched = opened
    engine.script = says(Text("Hello"))
    engine.prompts.clear()
    engine.params.clear()
    yield page
    assert (watched.foreign, watched.complaints) == ([], [])


def sample(endpoint: Locator, language: str) -> str:
    endpoint.get_by_role("button", name=language, exact=True).click()
    return endpoint.locator(".sample pre").first.inner_text()


def test_every_endpoint_of_the_description_is_shown(docs: Page, site: str) -> None:
    paths = json.loads(docs.request.get("/openapi.json").text())["paths"]
    assert docs.locator("article").count() == sum(len(methods) for methods in paths.values())
    expect(docs.locator("#facts")).to_contain_text(f"{site}/v1")
    expect(docs.locator("#facts")).to_contain_text("demo")
    chat = docs.locator(CHAT)
    chat.get_by_text("Fields (").click()
    expect(chat.locator(".fields").first).to_contain_text("temperature")
    expect(chat.locator(".field-head").first).to_contain_text("required")


def test_run_shows_the_answer_while_it_streams(docs: Page, engine: ScriptedEngine) -> None:
    gate = asyncio.Event()
    engine.script = says(Reasoning("I think."), Text("Hello"), gate, Text(" there"))
    chat = docs.locator(CHAT)
    chat.get_by_role("button", name="Run").click()
    expect(chat.locator(".said")).to_have_text("Hello")
    expect(chat.locator(".thought")).to_have_text("I think.")
    expect(chat.get_by_role("button", name="Stop")).to_be_visible()
    engine.go_on(gate)
    expect(chat.locator(".said")).to_have_text("Hello there")
    expect(chat.locator(".outcome")).to_contain_text("200 · ")
    expect(chat.get_by_role("button", name="Run")).to_be_visible()
    assert engine.params[0].max_tokens == 200


def test_stop_gives_the_answer_up(docs: Page, engine: ScriptedEngine) -> None:
    engine.script = says(Text("Hello"), asyncio.Event())
    chat = docs.locator(CHAT)
    chat.get_by_role("button", name="Run").click()
    expect(chat.locator(".said")).to_have_text("Hello")
    chat.get_by_role("button", name="Stop").click()
    expect(chat.locator(".outcome")).to_have_text("Stopped.")


def test_the_body_can_be_changed_and_ids_are_known_to_the_next_endpoint(docs: Page) -> None:
    making = docs.locator("#post-v1-responses")
    making.locator("select").select_option("Whole")
    making.locator("textarea").fill('{"input": "hi"')
    making.get_by_role("button", name="Run").click()
    expect(making.locator(".outcome")).to_contain_text("The body is not JSON")
    making.locator("textarea").fill('{"input": "hi"}')
    making.get_by_role("button", name="Run").click()
    expect(making.locator(".said")).to_have_text("Hello")
    reading = docs.locator("#get-v1-responses-response_id")
    expect(reading.locator("input")).to_have_value(
        json.loads(making.locator(".raw pre").text_content() or "")["id"]
    )
    reading.get_by_role("button", name="Run").click()
    expect(reading.locator(".outcome")).to_contain_text("200")
    missing = docs.locator("#get-v1-conversations-conversation_id")
    missing.get_by_role("button", name="Run").click()
    expect(missing.locator(".outcome")).to_have_text("Fill in conversation_id.")
    expect(missing.locator("input")).to_be_focused()


def test_samples_run_as_they_stand(docs: Page, engine: ScriptedEngine) -> None:
    chat, counting = docs.locator(CHAT), docs.locator("#post-v1-responses-input_tokens")
    scripts = [sample(chat, "Python"), sample(counting, "Python")]
    # Fields that the SDK does not know, and a quote that a shell would end its text at.
    chat.get_by_role("button", name="Body").click()
    body = {"messages": [{"role": "user", "content": "It's"}], "top_k": 3, "logprobs": None}
    chat.locator("textarea").fill(json.dumps(body))
    scripts.append(sample(chat, "Python"))
    told = run(
        [sys.executable, "-c", "\n".join(scripts)], ROOT
    )  # one process costs less than three
    assert told.startswith("Hello{") and '"input_tokens":1' in told and "content='Hello'" in told
    assert "Hello" in run(["bash", "-euc", sample(chat, "curl")], ROOT)
    assert [params.top_k for params in engine.params] == [None, 3, 3]
    assert engine.prompts[-1].messages[0].content == "It's"
    script = ["node", "--input-type=module", "-e", sample(counting, "JavaScript")]
    assert "input_tokens" in run(script, ROOT)


def test_search_finds_endpoints_by_their_fields_and_the_keyboard_is_enough(docs: Page) -> None:
    docs.keyboard.press("/")
    expect(docs.locator("#search")).to_be_focused()
    docs.keyboard.type("max_completion_tokens answer")
    expect(docs.locator("article:visible")).to_have_count(1)
    expect(docs.locator("#found")).to_have_text("1 found")
    docs.keyboard.press("Tab")
    docs.keyboard.press("Enter")
    assert docs.url.endswith(CHAT)
    docs.locator("#search").fill("nothing like it")
    expect(docs.locator("#found")).to_have_text("Nothing found")
    docs.locator("#search").press("Escape")
    assert docs.locator("article:visible").count() > 10


def test_it_fits_a_phone_and_keeps_the_theme(docs: Page) -> None:
    docs.set_viewport_size({"width": 360, "height": 740})
    assert docs.evaluate("document.documentElement.scrollWidth") == 360
    before = docs.evaluate("getComputedStyle(document.body).backgroundColor")
    docs.get_by_role("button", name="Dark or light").click()
    after = docs.evaluate("getComputedStyle(document.body).backgroundColor")
    assert after != before
    docs.reload()
    assert docs.evaluate("getComputedStyle(document.body).backgroundColor") == after


def test_the_key_is_asked_for_once_and_only_when_it_is_needed(
    browser: Browser, engine: ScriptedEngine
) -> None:
    name = "<img src=x onerror=alert(1)>"  # which stays text
    with serving(create_app(Settings(model=name, api_key="s3cret"), engine)) as url:
        context = browser.new_context(base_url=url)
        watched = Watched()
        watched.watch(context, url)
        page = context.new_page()
        page.goto("/docs")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_label("API key")).to_have_value("")
        page.get_by_label("API key").fill("s3cret")
        page.keyboard.press("Enter")
        chat = page.locator(CHAT)
        chat.get_by_role("button", name="Run").click()
        expect(chat.locator(".said")).to_have_text("Hello")
        assert page.locator("dialog").count() == 0
        expect(page.locator("#facts")).to_contain_text(name)
        curl = sample(chat, "curl")
        context.close()
    assert "s3cret" not in curl and "$OPENAI_API_KEY" in curl
    # The browser itself tells of each 401; nothing else may be told.
    assert watched.foreign == []
    assert all("401" in told for told in watched.complaints) and len(watched.complaints) == 2

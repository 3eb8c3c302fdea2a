"""The chat page in a real browser, against a server whose engine says what it is told to."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, CDPSession, Route, expect

from door.settings import Settings
from parts import (
    ContextLengthExceeded,
    EngineFailed,
    Progress,
    Prompt,
    QueueFull,
    Reasoning,
    Text,
    ToolArguments,
    ToolCall,
    Usage,
)
from server import create_app
from tests.door.asking import create, post
from tests.protocol.turns import say
from tests.scripted import ScriptedEngine, echo, says
from tests.serving import Running, serving
from tests.web.desk import Desk, Place

# An answer comes


def test_an_answer_streams_and_says_how_it_went(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    usage = Usage(prompt_tokens=70, cached_tokens=48, completion_tokens=5)
    engine.script = says(Text("Hello **you**"), rest, Text(", and goodbye."), usage=usage)
    desk.write("Hi there")
    expect(desk.answers).to_have_text("Hello you")
    expect(desk.state).to_have_text("Writing")
    expect(desk.button("Stop")).to_be_visible()
    engine.go_on(rest)
    desk.wait_for_end()
    expect(desk.answers).to_have_text("Hello you, and goodbye.")
    expect(desk.answers.locator("strong")).to_have_text("you")
    for words in ("5 tokens", "tok/s", "first ", "read 70", "48 cached", "finished"):
        expect(desk.measures).to_contain_text(words)
    expect(desk.titles).to_have_text(["Hi there"])
    assert desk.place.last_said == [("user", "Hi there")]
    desk.ask("And again")
    assert desk.place.last_said[:2] == [
        ("user", "Hi there"),
        ("assistant", "Hello **you**, and goodbye."),
    ]


def test_waiting_has_a_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("door.progress.EVERY_S", 0.01)
    engine, begin = desk.place.engine, asyncio.Event()
    engine.first_progress = Progress(2, 0, 500, stage="waiting")
    engine.script = says(begin, Text("At last."))
    desk.write("Hi")
    expect(desk.state).to_have_text("Queued, 2 ahead")
    engine.answers[-1].progress = Progress(0, 0, 500, stage="waiting")
    expect(desk.state).to_have_text("Queued, next")
    engine.answers[-1].progress = Progress(0, 340, 500)
    expect(desk.state).to_have_text("Reading 68 %")
    engine.go_on(begin)
    desk.wait_for_end()
    expect(desk.page.get_by_role("progressbar")).to_have_count(0)


def test_a_model_that_sleeps_is_said_to_wake(desk: Desk) -> None:
    engine, wake = desk.place.engine, asyncio.Event()
    engine.script = says(Text("Good morning."))
    engine.phase, engine.may_wake = "sleeping", wake
    desk.write("Hi")
    expect(desk.state).to_have_text("Waking the model")
    assert "#resp_" in desk.page.url
    engine.go_on(wake)
    desk.wait_for_end()
    expect(desk.answers).to_have_text("Good morning.")


def test_thinking_is_folded_with_its_time_and_tokens(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    engine.script = says(
        Reasoning("Hm, <b>let me</b> see."), rest, Text("42"), usage=Usage(7, 0, 20, 12)
    )
    desk.write("Why?")
    expect(desk.state).to_have_text("Thinking")
    thought = desk.page.locator(".thought-text")
    expect(thought).to_be_hidden()
    engine.go_on(rest)
    desk.wait_for_end()
    summary = desk.page.locator(".thought summary")
    expect(summary).to_have_text(re.compile(r"Thought\d+\.\d s · 12 tokens"))
    summary.click()
    expect(thought).to_have_text("Hm, <b>let me</b> see.")
    desk.reload()
    expect(summary).to_have_text(re.compile(r"Thought\d+\.\d s · 12 tokens"))


@pytest.mark.parametrize("way", ["button", "key"])
def test_what_was_stopped_is_kept_and_can_be_continued(desk: Desk, way: str) -> None:
    engine, never = desk.place.engine, asyncio.Event()
    engine.script = says(Text("Once upon a time"), never)
    desk.write("A story")
    # The last letter may yet become markup.
    expect(desk.answers).to_contain_text("Once upon a tim")
    if way == "button":
        desk.button("Stop").click()
    else:
        desk.page.keyboard.press("Escape")
    desk.wait_for_end()
    expect(desk.state).to_have_text("Stopped")
    assert engine.answers[-1].is_cancelled
    engine.script = echo
    desk.write("Go on")
    expect(desk.page.locator(".prose")).to_have_text(["Once upon a time", "You said: Go on"])
    desk.wait_for_end()
    said = [("user", "A story"), ("assistant", "Once upon a time"), ("user", "Go on")]
    assert desk.place.last_said == said
    expect(desk.titles).to_have_text(["A story"])
    expect(desk.button("The branch before")).to_have_count(0)
    before = desk.seen()
    desk.reload()
    assert desk.seen() == before


def test_what_was_written_outlives_a_reload(desk: Desk) -> None:
    desk.place.engine.script = says(Text("Once upon a time."), asyncio.Event())
    desk.write("A story")
    expect(desk.answers).to_contain_text("Once upon a tim")
    # The new page may ask for it before the server has heard that the old one left.
    desk.allowed.add("Failed to load resource: the server responded with a status of 404")
    desk.reload()
    expect(desk.answers).to_have_text("Once upon a time.")
    expect(desk.state).to_have_text("Stopped")
    assert desk.place.engine.answers[-1].is_cancelled


def test_an_answer_that_is_still_being_written_is_waited_for(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    engine.script = says(Text("Slow"), rest, Text(" answer."))
    made = post(desk.place.url, input="Write slowly", background=True).json()["id"]
    desk.allowed.add("Failed to load resource: the server responded with a status of 404")
    with desk.page.expect_response(lambda answer: answer.url.endswith(f"/v1/responses/{made}")):
        desk.page.goto(f"{desk.place.url}/#{made}")
    expect(desk.turns).to_have_count(0)
    engine.go_on(rest)
    expect(desk.answers).to_have_text("Slow answer.")
    expect(desk.page.locator("#notice")).to_be_hidden()


def test_what_is_stopped_before_the_server_has_answered_is_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, may_enter = desk.place.engine, asyncio.Event()
    submit = engine.submit

    async def slowly(*asked: Any, **options: Any) -> Any:
        await may_enter.wait()
        return await submit(*asked, **options)

    monkeypatch.setattr(engine, "submit", slowly)
    engine.script = says(asyncio.Event())
    desk.write("A story")
    desk.page.keyboard.press("Escape")
    expect(desk.state).to_have_text("Stopping")
    engine.go_on(may_enter)
    desk.wait_for_end()
    expect(desk.state).to_have_text("Stopped")
    assert engine.answers[-1].is_cancelled
    expect(desk.titles).to_have_text(["A story"])
    engine.script = echo
    desk.write("Go on")
    expect(desk.answers).to_have_text("You said: Go on")
    desk.wait_for_end()
    expect(desk.titles).to_have_text(["A story"])
    before = desk.seen()
    desk.reload()
    assert desk.seen() == before == ["A story", "Go on", "You said: Go on"]


def test_a_button_pressed_twice_asks_once(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    desk.ask("Hi")
    num_asked = len(engine.prompts)
    engine.script = says(Text("Again"), rest)
    desk.button("Try again").evaluate("(button) => { button.click(); button.click(); }")
    expect(desk.answers).to_contain_text("Agai")
    engine.go_on(rest)
    desk.wait_for_end()
    assert len(engine.prompts) == num_asked + 1
    expect(desk.turns.last).to_contain_text("2 / 2")


def test_a_conversation_that_outgrows_the_context_can_go_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = desk.place.engine
    engine.script = echo
    submit = engine.submit

    async def short_sighted(prompt: Prompt, *rest: Any, **options: Any) -> Any:
        if len(prompt.messages) > 3:
            raise ContextLengthExceeded("Too long.", param="messages")
        return await submit(prompt, *rest, **options)

    monkeypatch.setattr(engine, "submit", short_sighted)
    for text in ("one", "two"):
        desk.ask(text)
    desk.allowed.add("Failed to load resource: the server responded with a status of 400")
    desk.ask("three")
    expect(desk.state).to_have_text("Failed: Too long.")
    desk.button("Go on without the oldest turns").click()
    expect(desk.answers.last).to_have_text("You said: three")
    desk.ask("four")
    assert [text for _, text in desk.place.last_said] == ["three", "You said: three", "four"]


def test_a_failure_says_why_and_can_be_tried_again(desk: Desk) -> None:
    engine = desk.place.engine
    engine.script = says(Text("Half"), EngineFailed("The graphics card is gone."))
    desk.ask("Hi")
    expect(desk.state).to_have_text("Failed: The graphics card is gone.")
    engine.refusal = QueueFull("Too many are waiting.")
    desk.allowed.add("Failed to load resource: the server responded with a status of 429")
    desk.button("Try again").click()
    expect(desk.state).to_have_text("Failed: Too many are waiting.")
    engine.refusal, engine.script = None, echo
    desk.button("Try again").click()
    expect(desk.answers).to_have_text("You said: Hi")
    assert desk.place.last_said == [("user", "Hi")]


def test_a_cut_answer_can_be_continued(desk: Desk) -> None:
    desk.place.engine.script = says(Text("One, two,"), reason="length")
    desk.ask("Count")
    expect(desk.measures).to_contain_text("cut at the limit")
    desk.place.engine.script = says(Text(" three."))
    desk.button("Continue").click()
    expect(desk.answers).to_have_text(["One, two,", "three."])
    assert desk.place.last_said[1] == ("assistant", "One, two,")


def test_a_call_is_shown_and_its_result_is_given(desk: Desk) -> None:
    engine = desk.place.engine
    call = ToolCall("call_1", "get_weather"), ToolArguments('{"city": '), ToolArguments('"Zürich"}')
    engine.script = says(*call, reason="tool_calls")
    desk.button("Settings").click()
    tools = '[{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}]'
    desk.page.get_by_label("Tools").fill(tools)
    desk.button("Done").click()
    desk.ask("How is it?")
    assert [tool.name for tool in engine.prompts[-1].tools] == ["get_weather"]
    expect(desk.page.locator(".call summary")).to_have_text("Calls get_weather")
    expect(desk.page.locator(".call pre")).to_have_text('{\n  "city": "Zürich"\n}')
    engine.script = echo
    desk.page.get_by_label("Result of get_weather").fill("sunny")
    desk.button("Give the results").click()
    expect(desk.answers).to_have_text("You said: sunny")
    desk.reload()
    expect(desk.page.locator(".call summary")).to_have_text(
        ["Calls get_weather", "Result of get_weather"]
    )


# Branches


def test_editing_makes_a_branch_and_both_can_be_seen(desk: Desk) -> None:
    desk.place.engine.script = echo
    desk.ask("one")
    desk.ask("two")
    last = desk.turns.last
    last.hover()
    desk.button("Edit the message", last).click()
    field = desk.page.get_by_label("Edit the message", exact=True).last
    expect(field).to_have_value("two")
    field.fill("three")
    field.press("Enter")
    right = ["one", "You said: one", "three", "You said: three"]
    expect(desk.answers).to_have_text(right[1::2])
    assert [text for _, text in desk.place.last_said] == [*right[:3]]
    expect(last).to_contain_text("2 / 2")
    desk.button("The branch before", last).click()
    left = ["one", "You said: one", "two", "You said: two"]
    assert desk.seen() == left
    desk.reload()
    assert desk.seen() == left
    desk.button("The next branch").click()
    assert desk.seen() == right
    expect(desk.titles).to_have_text(["one"])


def test_the_first_message_edited_begins_another_conversation(desk: Desk) -> None:
    desk.place.engine.script = echo
    desk.ask("one")
    desk.turns.hover()
    desk.button("Edit the message").click()
    field = desk.page.get_by_label("Edit the message", exact=True)
    field.fill("other")
    field.press("Enter")
    expect(desk.answers).to_have_text("You said: other")
    expect(desk.titles).to_have_text(["other", "one"])
    expect(desk.page.locator(".row.active")).to_contain_text("other")
    desk.button("The branch before").click()
    expect(desk.page.locator(".row.active")).to_contain_text("one")


def test_trying_again_asks_the_same_once_more(desk: Desk) -> None:
    desk.place.engine.script = echo
    desk.ask("one")
    desk.ask("two")
    asked = desk.place.last_said
    desk.place.engine.script = says(Text("Something else."))
    desk.button("Try again", desk.turns.last).click()
    expect(desk.answers.last).to_have_text("Something else.")
    assert desk.place.last_said == asked
    expect(desk.turns.last).to_contain_text("2 / 2")


def test_an_earlier_answer_can_be_branched_from(desk: Desk) -> None:
    desk.place.engine.script = echo
    for text in ("one", "two"):
        desk.ask(text)
    desk.button("Branch from here", desk.turns.first).click()
    expect(desk.turns).to_have_count(1)
    desk.ask("three")
    assert [text for _, text in desk.place.last_said] == ["one", "You said: one", "three"]
    expect(desk.turns.last).to_contain_text("2 / 2")


# Long answers


COUNT = """() => {
  window.counted = { reads: 0, added: 0, removed: 0 };
  new MutationObserver((changes) => {
    counted.reads++;
    for (const { addedNodes, removedNodes } of changes) {
      counted.added += addedNodes.length;
      counted.removed += removedNodes.length;
    }
  }).observe(document.querySelector(".prose"), { childList: true, subtree: true });
}"""


def test_a_long_answer_costs_little(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    text = (SECTION * 100)[: 64 << 10]
    pieces = [Text(text[start : start + 8]) for start in range(0, len(text), 8)]
    engine.script = says(Text("Now:\n\n"), rest, *pieces)
    session = desk.page.context.new_cdp_session(desk.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    desk.write("Write much")
    expect(desk.answers).to_have_text("Now:")
    desk.page.evaluate(COUNT)
    before = script_ms(session)
    engine.go_on(rest)
    desk.wait_for_end()
    # An answer is 40 ms of scripting; whoever renders all of it anew for each piece takes seconds.
    assert script_ms(session) - before < 1000
    counted = desk.page.evaluate("counted")
    shown = desk.page.evaluate(
        "{ const walk = document.createTreeWalker(document.querySelector('.prose'));"
        " let num = 0; while (walk.nextNode()) num++; num }"
    )
    assert counted["reads"] < len(pieces) / 4  # what has come is shown together
    assert counted["removed"] == 0  # and what is there stays
    assert shown / 2 < counted["added"] <= shown


def script_ms(session: CDPSession) -> float:
    """The page's own time for scripts, whatever else the processor does."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return sum(1000 * each["value"] for each in metrics if each["name"] == "ScriptDuration")


SECTION = (
    f"## A heading\n\n{'Some *words* with `code` and **more**. ' * 8}\n\n- one\n- two\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f(x: int) -> int:\n    return x\n```\n\n"
)


# Conversations


def test_conversations_of_other_clients_are_opened_and_continued(desk: Desk) -> None:
    desk.place.engine.script = echo
    with openai.OpenAI(base_url=f"{desk.place.url}/v1", api_key="none") as client:
        first = client.responses.create(model="m", input="Made by the SDK")
        desk.place.archive_all()
        assert desk.place.store.num_conversations == 0
        client.responses.create(model="m", input="Nobody sees this", store=False)
        messages = [{"role": "user", "content": "Nor this"}]
        client.chat.completions.create(model="m", messages=messages)  # type: ignore[call-overload]
    desk.reload()
    expect(desk.titles).to_have_text(["Made by the SDK"])
    row = desk.page.locator(".row")
    expect(row).to_contain_text("openai-python")
    expect(row).to_contain_text("archived")
    row.get_by_role("link").click()
    expect(desk.answers).to_have_text("You said: Made by the SDK")
    for words in ("tok/s", "first "):  # as the server measured it
        expect(desk.measures).to_contain_text(words)
    assert desk.page.url.endswith(f"#{first.id}")
    desk.ask("Continued here")
    assert [text for _, text in desk.place.last_said][::2] == ["Made by the SDK", "Continued here"]
    expect(desk.page.locator(".row")).not_to_contain_text("archived")


def test_a_conversation_object_goes_on_as_one(desk: Desk) -> None:
    desk.place.engine.script = echo
    with openai.OpenAI(base_url=f"{desk.place.url}/v1", api_key="none") as client:
        item = {"type": "message", "role": "user", "content": "Put in by hand"}
        made = client.conversations.create(items=[item])  # type: ignore[list-item]
        desk.reload()
        desk.page.get_by_role("link", name="Put in by hand").click()
        expect(desk.turns).to_have_count(1)
        desk.ask("And?")
        assert [text for _, text in desk.place.last_said] == ["Put in by hand", "And?"]
        assert len(client.conversations.items.list(made.id).data) == 3


def test_a_conversation_is_found_exported_and_deleted(desk: Desk, tmp_path: Path) -> None:
    desk.place.engine.script = says(Reasoning("Who hoots?"), Text("Nobody."))
    for text in ("About foxes", "About owls"):
        create(desk.place.url, text)
        desk.place.engine.script = says(Reasoning("Who hoots?"), Text("An OWL."))
    desk.place.archive_all()
    desk.reload()
    expect(desk.titles).to_have_count(2)
    desk.page.get_by_label("Search conversations").fill("an owl")
    expect(desk.titles).to_have_text(["About owls"])
    for format, words in (("Markdown", "## User\n\nAbout owls"), ("JSON lines", '"role": "user"')):
        open_menu(desk, "About owls")
        with desk.page.expect_download() as saved:
            desk.page.get_by_role("menuitem", name=f"Export as {format}").click()
        assert saved.value.suggested_filename.startswith("About-owls.")
        saved.value.save_as(tmp_path / format)
        assert words in (tmp_path / format).read_text(encoding="utf-8")
    open_menu(desk, "About owls")
    desk.page.get_by_role("menuitem", name="Delete").click()
    desk.button("Delete", desk.page.get_by_role("dialog")).click()
    expect(desk.titles).to_have_count(0)
    desk.page.get_by_label("Search conversations").fill("")
    expect(desk.titles).to_have_text(["About foxes"])


def test_the_branch_that_is_seen_is_exported(desk: Desk, tmp_path: Path) -> None:
    desk.place.engine.script = echo
    desk.ask("one")
    desk.ask("two")
    desk.button("Branch from here", desk.turns.first).click()
    desk.ask("three")
    desk.button("The branch before", desk.turns.last).click()
    assert "two" in (seen := exported(desk, "one", tmp_path)) and "three" not in seen
    say(desk.place.store, "Other")
    desk.page.evaluate("dispatchEvent(new Event('focus'))")
    desk.page.get_by_role("link", name="Other").click()
    expect(desk.answers).to_have_text(["OTHER"])
    assert "three" in (newest := exported(desk, "one", tmp_path)) and "two" not in newest


def exported(desk: Desk, title: str, folder: Path) -> str:
    """A conversation as Markdown."""
    open_menu(desk, title)
    with desk.page.expect_download() as saved:
        desk.page.get_by_role("menuitem", name="Export as Markdown").click()
    saved.value.save_as(folder / title)
    return (folder / title).read_text(encoding="utf-8")


def test_what_other_clients_make_is_seen_when_the_page_is_looked_at_again(desk: Desk) -> None:
    say(desk.place.store, "Made elsewhere")
    expect(desk.titles).to_have_count(0)
    desk.page.evaluate("dispatchEvent(new Event('focus'))")
    expect(desk.titles).to_have_text(["Made elsewhere"])
    say(desk.place.store, "And another")
    desk.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(desk.titles).to_have_text(["And another", "Made elsewhere"])


def test_rows_that_stay_are_not_made_anew_while_the_list_changes(desk: Desk) -> None:
    for text in ("First", "Second", "Third"):
        say(desk.place.store, text)
    desk.reload()
    second = desk.page.get_by_role("link", name="Second").element_handle()
    assert second
    say(desk.place.store, "Fourth")
    desk.place.store.delete_tree(desk.place.store.listed()[1].summary.id)
    desk.page.evaluate("dispatchEvent(new Event('focus'))")
    expect(desk.titles).to_have_text(["Fourth", "Second", "First"])
    box = second.bounding_box()
    assert box
    desk.page.mouse.move(box["x"] + 20, box["y"] + 10)
    desk.page.mouse.down()
    say(desk.place.store, "Fifth")
    desk.page.evaluate("dispatchEvent(new Event('focus'))")
    expect(desk.titles).to_have_count(4)
    desk.page.mouse.move(box["x"] + 20, box["y"] + 10 + box["height"])
    desk.page.mouse.up()
    assert desk.page.evaluate("row => row.isConnected", second)


def open_menu(desk: Desk, title: str) -> None:
    desk.page.locator(".row", has_text=title).hover()
    desk.button(f"More for {title}").click()


def test_a_long_list_comes_in_pages(desk: Desk) -> None:
    for number in range(45):
        say(desk.place.store, f"number {number}")
    desk.reload()
    expect(desk.titles).to_have_count(40)
    desk.button("Show more").click()
    expect(desk.titles).to_have_count(45)
    expect(desk.button("Show more")).to_have_count(0)


def test_another_conversation_can_be_read_while_an_answer_is_written(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    say(desk.place.store, "Old")
    desk.reload()
    engine.script = says(Text("Slow"), rest, Text(" answer"))
    desk.write("Write slowly")
    expect(desk.answers).to_contain_text("Slo")
    desk.page.get_by_role("link", name="Old").click()
    expect(desk.answers).to_have_text("OLD")
    expect(desk.button("Send")).to_be_visible()
    engine.go_on(rest)
    desk.page.get_by_role("link", name="Write slowly").click()
    expect(desk.answers).to_have_text("Slow answer")


def test_who_goes_back_is_not_taken_on_by_what_was_on_its_way(desk: Desk) -> None:
    held: list[Route] = []
    desk.place.engine.script = echo
    for text in ("Old", "Other"):
        create(desk.place.url, text)
    desk.reload()
    desk.page.get_by_role("link", name="Old").click()
    expect(desk.answers).to_have_text("You said: Old")
    desk.page.route("**/conversations/resp_*", lambda route: held.append(route))
    with desk.page.expect_request("**/conversations/resp_*"):
        desk.page.get_by_role("link", name="Other").click()
    desk.page.go_back()
    with desk.page.expect_response("**/conversations/resp_*"):
        held[0].continue_()
    desk.ask("Go on")
    assert desk.place.last_said[0] == ("user", "Old")
    expect(desk.turns).to_have_count(2)


def test_an_answer_that_begins_leaves_the_address_of_what_is_being_opened(desk: Desk) -> None:
    engine, wake, held = desk.place.engine, asyncio.Event(), list[Route]()
    old = say(desk.place.store, "Old")
    desk.reload()
    submit_held: list[Route] = []
    desk.page.route("**/v1/responses", lambda route: submit_held.append(route))
    desk.page.route("**/conversations/resp_*", lambda route: held.append(route))
    engine.script = says(Text("Slow"), wake)
    with desk.page.expect_request("**/v1/responses"):
        desk.write("Write slowly")
    with desk.page.expect_request("**/conversations/resp_*"):
        desk.page.get_by_role("link", name="Old").click()
    submit_held[0].continue_()
    expect(desk.answers).to_contain_text("Slo")
    held[0].continue_()
    expect(desk.answers).to_have_text("OLD")
    assert desk.page.url.endswith(f"#{old}")
    engine.go_on(wake)
    expect(desk.titles).to_have_count(2)


# What must not happen


HOSTILE = """<script>document.title = "owned"</script><img src=x onerror="document.title='owned'">

[a](javascript:document.title='owned') [b](JaVaScRiPt:alert(1))
[c](data:text/html,<script>1</script>)
[d](https://example.com "t") <https://example.org/> ![e](https://example.com/spy.png)
![](/web/icon.svg)
`<b>bold</b>` [f](vbscript:x) [g](//example.com/x) [h](mailto:a@example.com)

<iframe src="https://example.com"></iframe><style>body { display: none }</style>

```html"><img src=x onerror=alert(1)>
</code></pre><script>document.title = "owned"</script>
```
"""


def test_what_a_model_writes_stays_text(desk: Desk) -> None:
    desk.place.engine.script = says(
        Reasoning("<img src=x onerror=alert(1)>"),
        Text(HOSTILE),
        ToolCall("c", '<img src=x onerror="alert(1)">'),
        ToolArguments("<script>alert(1)</script>"),
        reason="tool_calls",
    )
    desk.ask('"><img src=x onerror=alert(1)> <script>alert(1)</script>')
    expect(desk.titles).to_have_text(['"><img src=x onerror=alert(1)> <script>alert(1)</script>'])
    for _ in range(2):
        thread = desk.page.locator("#thread, #sidebar")
        assert thread.locator("img, script, iframe, style, b:not(summary b)").count() == 0
        links = desk.answers.locator("a[href]")
        assert {link.get_attribute("href") for link in links.all()} <= {
            "https://example.com",
            "https://example.org/",
            "https://example.com/spy.png",
            "mailto:a@example.com",
        }
        for link in links.all():
            assert link.get_attribute("rel") == "noopener noreferrer"
        assert "owned" not in desk.page.title()
        assert '<script>document.title = "owned"</script>' in desk.answers.inner_text()
        desk.reload()


def test_markdown_that_nests_too_deeply_is_shown_as_it_is(desk: Desk) -> None:
    deep = "".join(f"{'  ' * level}- {level}\n" for level in range(60)) + "> " * 60 + "end"
    desk.place.engine.script = says(Text(deep), Text("\n\nafter"))
    desk.ask("Nest")
    expect(desk.answers).to_contain_text("59")
    expect(desk.answers).to_contain_text("after")


def test_a_key_is_asked_for_only_when_there_is_one(browser: Browser, place: Place) -> None:
    engine = ScriptedEngine(echo)
    settings = Settings(api_key="s3cret", no_conversation_logs=True)
    with serving(create_app(settings, engine)) as url:
        locked = Place(url, engine, place.store, place.clock)
        with Desk.at(browser, locked, settles=False) as desk:
            desk.allowed.add("Failed to load resource: the server responded with a status of 401")
            for key in ("wrong", "s3cret"):
                desk.page.get_by_label("API key").fill(key)
                desk.page.get_by_label("API key").press("Enter")
            expect(desk.page.get_by_text("tokens of context")).to_be_visible()
            desk.ask("Hi")
            desk.complaints.clear()
            desk.reload()
            expect(desk.answers).to_have_text("You said: Hi")
            expect(desk.page.get_by_role("dialog")).to_have_count(0)
            assert not desk.complaints


def test_an_address_that_leads_nowhere_says_so(browser: Browser, place: Place) -> None:
    place.clear()
    with Desk.at(browser, place, f"/#resp_{'0' * 32}") as desk:
        desk.allowed.add("Failed to load resource: the server responded with a status of 404")
        expect(desk.page.get_by_role("alert")).to_contain_text("not found")
        expect(desk.prompt).to_be_visible()


# The real thing


def test_the_demo_model_chats_and_a_reload_keeps_it(
    browser: Browser, place: Place, demo_server: Running
) -> None:
    real = Place(demo_server.base_url, place.engine, place.store, place.clock)
    with Desk.at(browser, real) as desk:
        desk.ask("My name is Zorblat.")
        desk.ask("What is my name?")
        expect(desk.answers.last).to_contain_text("Zorblat")
        expect(desk.measures).to_contain_text("cached")
        before = desk.seen()
        desk.reload()
        assert desk.seen() == before
        expect(desk.page.locator(".thought").first).to_contain_text("token")

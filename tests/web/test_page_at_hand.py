"""The chat page by keyboard, on a phone, in the dark: whoever comes, with whatever is at hand."""

from __future__ import annotations

import asyncio
import re
import struct
import zlib
from pathlib import Path

from playwright.sync_api import Browser, Locator, expect

from parts import (
    Text,
    ToolArguments,
    ToolCall,
)
from tests.protocol.turns import say
from tests.scripted import echo, says
from tests.web import screenshots
from tests.web.desk import Desk, Place


def test_everything_can_be_done_from_the_keyboard(desk: Desk) -> None:
    desk.place.engine.script = echo
    keyboard = desk.page.keyboard
    expect(desk.prompt).to_be_focused()
    keyboard.type("first line")
    keyboard.press("Shift+Enter")
    keyboard.type("second line")
    keyboard.press("Enter")
    desk.wait_for_end()
    assert desk.place.last_said == [("user", "first line\nsecond line")]
    expect(desk.titles).to_have_count(1)
    keyboard.press("Control+k")
    expect(desk.page.get_by_label("Search conversations")).to_be_focused()
    keyboard.press("Shift+Tab")
    expect(desk.button("New chat")).to_be_focused()
    keyboard.press("Enter")
    expect(desk.page.get_by_role("heading", name="What’s on your mind?")).to_be_visible()
    keyboard.press("Control+k")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(desk.answers).to_contain_text("second line")
    keyboard.press("Control+k")
    keyboard.press("Tab")
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(desk.page.get_by_role("menuitem", name="Export as Markdown")).to_be_focused()
    for _ in range(3):
        keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(desk.page.get_by_role("dialog")).to_be_visible()
    keyboard.press("Escape")
    expect(desk.titles).to_have_count(1)


def tab_to(desk: Desk, target: Locator, *, back: bool = False) -> None:
    """Go somewhere by the keyboard alone."""
    for _ in range(80):
        desk.page.keyboard.press("Shift+Tab" if back else "Tab")
        if target.count() and target.evaluate("e => e === document.activeElement"):
            return
    raise AssertionError(f"the keyboard does not reach {target}")


def press(desk: Desk, name: str, within: Locator | None = None, *, back: bool = True) -> None:
    """Press a button by the keyboard alone."""
    tab_to(desk, desk.button(name, within), back=back)
    desk.page.keyboard.press("Enter")


def test_an_answer_can_be_worked_with_from_the_keyboard(desk: Desk) -> None:
    engine, keyboard = desk.place.engine, desk.page.keyboard
    call = ToolCall("call_1", "get_weather"), ToolArguments("{}")
    engine.script = says(*call, reason="tool_calls")
    keyboard.type("How is it?")
    keyboard.press("Enter")
    desk.wait_for_end()
    tab_to(desk, desk.page.get_by_label("Result of get_weather"), back=True)
    keyboard.type("sunny")
    engine.script = says(Text("One, two,"), reason="length")
    press(desk, "Give the results", back=False)
    expect(desk.answers).to_have_text("One, two,")
    desk.wait_for_end()
    expect(desk.prompt).to_be_focused()
    engine.script = echo
    press(desk, "Continue")
    expect(desk.answers.last).to_contain_text("You said: Continue")
    desk.wait_for_end()
    expect(desk.button("Continue")).to_be_focused()
    press(desk, "Edit the message", desk.turns.last)
    keyboard.press("Control+a")
    keyboard.type("Go on")
    keyboard.press("Enter")
    expect(desk.answers.last).to_have_text("You said: Go on")
    desk.wait_for_end()
    expect(desk.prompt).to_be_focused()
    press(desk, "The branch before", desk.turns.last)
    expect(desk.answers.last).to_contain_text("You said: Continue")
    press(desk, "Edit the message", desk.turns.last)
    keyboard.press("Escape")
    expect(desk.button("Edit the message", desk.turns.last)).to_be_focused()
    press(desk, "Branch from here", desk.turns.nth(1))
    expect(desk.turns).to_have_count(2)
    expect(desk.prompt).to_be_focused()


def test_settings_and_theme_can_be_changed_from_the_keyboard(desk: Desk) -> None:
    desk.place.engine.script = echo
    keyboard, root = desk.page.keyboard, desk.page.locator("html")
    before = brightness(root)
    press(desk, "Dark or light")
    assert brightness(root) != before
    press(desk, "Settings", back=False)
    tab_to(desk, desk.page.get_by_label("System prompt"))
    keyboard.type("Be brief.")
    tab_to(desk, desk.page.locator(".fold summary"))
    keyboard.press("Enter")
    tab_to(desk, desk.page.get_by_label("Seed"))
    keyboard.type("7")
    keyboard.press("Escape")
    expect(desk.page.get_by_role("dialog")).to_have_count(0)
    expect(desk.button("Settings")).to_be_focused()
    tab_to(desk, desk.prompt)
    keyboard.type("Hi")
    keyboard.press("Enter")
    desk.wait_for_end()
    assert desk.place.last_said == [("system", "Be brief."), ("user", "Hi")]
    assert desk.place.engine.params[-1].seed == 7


def test_the_keyboard_stays_in_an_answer_that_another_follows(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    engine.script = echo
    desk.ask("Hi")
    engine.script = says(Text("Slow"), rest, Text(" answer"))
    desk.write("Write slowly")
    expect(desk.answers.last).to_contain_text("Slo")
    copy = desk.button("Copy the answer")
    tab_to(desk, copy, back=True)
    engine.go_on(rest)
    desk.wait_for_end()
    expect(copy.first).to_be_focused()


def test_the_keyboard_stays_where_it_is_when_the_list_is_made_anew(desk: Desk) -> None:
    engine, rest = desk.place.engine, asyncio.Event()
    say(desk.place.store, "Old")
    desk.reload()
    engine.script = says(Text("Slow"), rest, Text(" answer"))
    desk.write("Write slowly")
    expect(desk.answers).to_contain_text("Slo")
    old = desk.page.get_by_role("link", name="Old")
    old.focus()
    engine.go_on(rest)
    expect(desk.titles).to_have_text(["Write slowly", "Old"])
    expect(old).to_be_focused()


WIDE = "A line of code that is very much wider than a phone: " + "x" * 200


def test_a_phone_has_room_for_it(browser: Browser, place: Place) -> None:
    place.clear()
    say(place.store, "An older one")
    place.engine.script = says(
        Text(f"```\n{WIDE}\n```\n\n{'y' * 300}\n\n| {' | '.join('abcdefghij')} |\n"),
        Text(f"|{'---|' * 10}\n| {' | '.join(['wide cell'] * 10)} |\n"),
    )
    size = {"width": 360, "height": 640}
    with Desk.at(browser, place, viewport=size, is_mobile=True, has_touch=True) as desk:
        desk.ask("Write something wide")
        assert desk.page.evaluate("document.documentElement.scrollWidth") == 360
        assert desk.page.evaluate("scroller.scrollWidth <= scroller.clientWidth")
        expect(desk.page.locator("#sidebar")).to_be_hidden()
        desk.button("Conversations").tap()
        desk.page.get_by_role("link", name="An older one").tap()
        expect(desk.answers).to_have_text("AN OLDER ONE")
        expect(desk.page.locator("#sidebar")).to_be_hidden()
        for button in desk.page.locator("button:visible").all():
            box = button.bounding_box()
            assert box and box["width"] >= 24 and box["height"] >= 24
            assert button.get_attribute("aria-label") or button.inner_text().strip()


def brightness(locator: Locator) -> int:
    colour: str = locator.evaluate("e => getComputedStyle(e).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_it_follows_the_system_until_a_theme_is_chosen(browser: Browser, place: Place) -> None:
    place.clear()
    for scheme in ("light", "dark"):
        with Desk.at(browser, place, color_scheme=scheme) as desk:
            root = desk.page.locator("html")
            is_dark = brightness(root) < 200
            assert is_dark == (scheme == "dark")
            desk.button("Dark or light").click()
            assert (brightness(root) < 200) != is_dark
            desk.reload()
            assert (brightness(root) < 200) != is_dark


def test_its_pictures_are_taken_in_light_and_in_dark(browser: Browser, tmp_path: Path) -> None:
    light, dark = screenshots.take(tmp_path, browser)
    assert first_pixel(light) > 600 and first_pixel(dark) < 150


def first_pixel(path: Path) -> int:
    """How bright the first pixel of a PNG is: the one that no filter changes."""
    chunks, picture = path.read_bytes()[8:], b""
    while chunks:
        length, kind = struct.unpack(">I4s", chunks[:8])
        picture += chunks[8 : 8 + length] if kind == b"IDAT" else b""
        chunks = chunks[12 + length :]
    return sum(zlib.decompress(picture)[1:4])


def test_settings_are_sent_and_stay(desk: Desk) -> None:
    desk.place.engine.script = echo
    for _ in range(2):
        desk.button("Settings").click()
        for label, value in (("System prompt", "Be brief."), ("Temperature", "0.25")):
            desk.page.get_by_label(label).fill(value)
        desk.page.get_by_label("Most tokens").fill("77")
        desk.page.get_by_label("Thinking").select_option("off")
        desk.button("Done").click()
        desk.ask("Hi")
        params = desk.place.engine.params[-1]
        assert (params.temperature, params.max_tokens) == (0.25, 77)
        assert desk.place.engine.prompts[-1].template_args == {"enable_thinking": False}
        assert desk.place.last_said[0] == ("system", "Be brief.")
        desk.reload()
    desk.button("Settings").click()
    desk.button("Reset").click()
    desk.button("Done").click()
    desk.ask("Hi")
    assert desk.place.engine.params[-1].max_tokens == 4096


def test_all_of_sampling_can_be_set(desk: Desk) -> None:
    desk.button("Settings").click()
    desk.page.get_by_text("More sampling").click()
    for label, value in FOLDED.items():
        desk.page.get_by_label(label, exact=True).fill(value)
    desk.page.get_by_label("When the context is full").select_option("auto")
    desk.button("Done").click()
    with desk.page.expect_request("**/v1/responses") as sent:
        desk.ask("Hi")
    params = desk.place.engine.params[-1]
    assert (params.top_k, params.min_p, params.seed) == (20, 0.05, 7)
    assert (params.presence_penalty, params.frequency_penalty) == (-0.5, 0.25)
    assert params.repetition_penalty == 1.1
    assert sent.value.post_data_json["truncation"] == "auto"
    desk.button("Settings").click()
    expect(desk.page.get_by_label("Seed")).to_be_visible()  # for it is set
    desk.button("Reset").click()
    desk.button("Done").click()
    desk.ask("Hi")
    assert desk.place.engine.params[-1].seed is None


FOLDED = {
    "Top k": "20",
    "Min p": "0.05",
    "Presence penalty": "-0.5",
    "Frequency penalty": "0.25",
    "Repetition penalty": "1.1",
    "Seed": "7",
}


def test_what_was_said_can_be_copied(desk: Desk) -> None:
    desk.place.engine.script = says(Text("Look:\n\n```python\nprint('**hi**')\n```\n"))
    desk.ask("Show me")
    clipboard = "navigator.clipboard.readText()"
    desk.button("Copy the code").click()
    assert desk.page.evaluate(clipboard) == "print('**hi**')"
    desk.button("Copy the answer").click()
    assert desk.page.evaluate(clipboard) == "Look:\n\n```python\nprint('**hi**')\n```\n"

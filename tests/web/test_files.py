"""The files of the page: small, whole, with the licences of what is not ours."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import Browser

from door.pages import WEB
from tests.web.desk import Desk, Place


def test_the_page_weighs_less_than_100_kib_on_the_wire(browser: Browser, place: Place) -> None:
    place.clear()
    with Desk.at(browser, place) as desk:
        desk.page.wait_for_load_state("networkidle")
        loaded = desk.page.evaluate(
            "performance.getEntriesByType('resource').map((each) => each.name)"
        )
    paths = {each.removeprefix(place.url) for each in loaded if "/web/" in each}
    assert {"/web/chat/main.js", "/web/chat/style.css"} <= paths
    sent = [_num_bytes(place.url + path) for path in ("/", *paths)]
    assert sum(sent) < 100 << 10


def _num_bytes(address: str) -> int:
    """What a browser gets from the wire: the head and the body, as it is coded."""
    with httpx.stream("GET", address, headers={"accept-encoding": "gzip, br"}) as answer:
        head = sum(len(name) + len(value) + 4 for name, value in answer.headers.raw)
        return head + sum(map(len, answer.iter_raw()))


def test_what_is_not_ours_has_its_version_in_its_name_and_its_licence_beside_it() -> None:
    vendored = list(WEB.glob("vendor/*.js"))
    assert vendored
    for path in vendored:
        named = re.fullmatch(r"(.+-\d+\.\d+\.\d+)\.min\.js", path.name)
        assert named and (path.parent / f"{named[1]}.license.txt").read_text(encoding="utf-8")


def test_every_module_that_is_imported_is_there() -> None:
    for path in WEB.glob("chat/*.js"):
        for name in re.findall(r'from "([^"]+)"', path.read_text(encoding="utf-8")):
            found = WEB.parent / name[1:] if name.startswith("/") else path.parent / name
            assert found.is_file(), (path, name)


def test_nothing_is_ever_parsed_as_html() -> None:
    for path in WEB.glob("chat/*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)

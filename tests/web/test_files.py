"""The files of the page: small, whole, with the licences of what is not ours."""

from __future__ import annotations

import gzip
import re

from door.pages import WEB

CHAT = [*WEB.glob("*.*"), *WEB.glob("chat/*"), *WEB.glob("vendor/*.js")]


def test_the_page_weighs_less_than_100_kib_on_the_wire() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in CHAT) < 100 << 10


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

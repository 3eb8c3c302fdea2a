"""The static pages: found, cached, fenced in."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from door import pages
from door.settings import Settings
from server import create_app
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine
from tests.serving import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An application that serves a small folder, beside which lies a secret."""
    folder = tmp_path_factory.mktemp("site") / "web"
    (folder / "docs").mkdir(parents=True)
    (folder / "index.html").write_text("<title>chat</title>")
    (folder / "docs" / "index.html").write_text("<title>docs</title>")
    (folder / "docs" / "page.js").write_text("export const π = 3;")
    (folder / "docs" / "long.js").write_text(LONG)
    (folder / "notes.py").write_text("secret")
    (folder / ".hidden.txt").write_text("secret")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    app = FastAPI(docs_url=None)
    pages.add_routes(app.router, folder)
    with serving(app) as address:
        yield address


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/", "text/html; charset=utf-8", "<title>chat</title>"),
        ("/docs", "text/html; charset=utf-8", "<title>docs</title>"),
        ("/web/index.html", "text/html; charset=utf-8", "<title>chat</title>"),
        ("/web/docs/page.js", "text/javascript; charset=utf-8", "export const π = 3;"),
    ],
)
def test_a_file_is_given_with_its_kind_and_the_headers_of_a_safe_page(
    url: str, path: str, kind: str, text: str
) -> None:
    answer = httpx.get(url + path)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, kind, text)
    assert answer.headers.items() >= pages.HEADERS.items()
    assert "unsafe" not in answer.headers["content-security-policy"]
    head = httpx.head(url + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("br;q=1.0, GZIP;q=0.5", "gzip"),
        ("*", "gzip"),
        ("", None),
        ("identity", None),
        ("gzip;q=0, *", None),
        ("gzip; q=0.0", None),
    ],
)
def test_a_file_is_compressed_for_who_reads_that(
    url: str, accepted: str, coding: str | None
) -> None:
    address = f"{url}/web/docs/long.js"
    answer = httpx.get(address, headers={"accept-encoding": accepted})
    assert (answer.text, answer.headers.get("content-encoding")) == (LONG, coding)
    assert (int(answer.headers["content-length"]) < len(LONG)) == (coding is not None)
    etag = answer.headers["etag"]
    for other, status in ((accepted, 304), ("identity" if coding else "gzip", 200)):
        sent = {"accept-encoding": other, "if-none-match": etag}
        again = httpx.get(address, headers=sent)
        assert (again.status_code, again.headers["vary"]) == (status, "accept-encoding")
        assert "content-encoding" not in again.headers or status == 200


LONG = "export const pi = 3;\n" * 100


@pytest.mark.parametrize("sent", ["{}", "W/{}", '"other", {}', "*"])
def test_a_file_that_the_browser_has_is_not_sent_again(url: str, sent: str) -> None:
    etag = httpx.get(f"{url}/docs").headers["etag"]
    answer = httpx.get(f"{url}/docs", headers={"if-none-match": sent.format(etag)})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == etag
    other = httpx.get(f"{url}/docs", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/web/../secret.txt",
        "/web/%2e%2e/secret.txt",
        "/web/..%2fsecret.txt",
        "/web//secret.txt",
        "/web/docs/../../secret.txt",
        "/web/docs/..%5c..%5csecret.txt",
        "/web/link.txt",
        "/web/.hidden.txt",
        "/web/notes.py",
        "/web/docs",
        "/web/",
        "/web/%00",
        "/dashboard",
    ],
)
def test_nothing_else_can_be_reached(url: str, path: str) -> None:
    # Over a bare socket: an HTTP client would tidy the path up.
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert b" 404 " in answer.split(b"\r\n")[0]
    assert b"secret" not in answer


def test_pages_need_no_key_and_what_they_ask_for_does(engine: ScriptedEngine) -> None:
    with serving(create_app(Settings(api_key="s3cret"), engine)) as url:
        assert httpx.get(f"{url}/docs").status_code == 200
        assert httpx.get(f"{url}/web/plain.css").status_code == 200
        assert httpx.get(f"{url}/openapi.json").status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 401
        missing = httpx.get(f"{url}/web/nothing.js")
    assert missing.status_code == 404
    assert_envelope(missing.json())


def test_the_files_of_the_project_hold_no_inline_script_or_style_and_name_no_other_host() -> None:
    found = list(pages.WEB.rglob("*.html"))
    assert found
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert "style=" not in text and "<style" not in text, path
        assert all("src=" in tag for tag in text.split("<script")[1:]), path
        assert not re.search(r'(src|href)="(https?:)?//', text), path


def test_only_known_kinds_are_read(tmp_path: Path) -> None:
    for name in ("a.html", "b.py", "c.SVG", "d.svg"):
        (tmp_path / name).write_text(name)
    assert set(pages.read_pages(tmp_path)) == {"a.html", "d.svg"}

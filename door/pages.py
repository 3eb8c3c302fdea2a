"""Pages are the files under `web/`: read and compressed once, and given from memory.

They have the headers of a safe page.

A path is looked up among the files that were read, so none can lead out of the folder. What a page
shows it asks of the same API as every other client.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

WEB = Path(__file__).resolve().parent.parent / "web"
PREFIX = "/web/"
"""Where every file is found under its own name."""
INDEXES = {"/": "index.html", "/docs": "docs/index.html", "/dashboard": "dashboard/index.html"}
"""The addresses that people type, and their files."""

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
"""Files of other kinds are not given out."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # that is: ask each time, with the ETag
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file."""

    content: bytes
    packed: bytes
    """The same, compressed; not smaller where there is nothing to gain."""
    content_type: str
    digest: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 when the browser has it."""
        accepted = request.headers.get("accept-encoding", "")
        is_packed = len(self.packed) < len(self.content) and _accepts_gzip(accepted)
        # The same file in another coding is other bytes, so it has another tag.
        etag = f'"{self.digest}-gzip"' if is_packed else f'"{self.digest}"'
        headers = {**HEADERS, "etag": etag}
        if _is_known(etag, request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        if is_packed:
            headers["content-encoding"] = "gzip"
        content = self.packed if is_packed else self.content
        return Response(content, headers=headers, media_type=self.content_type)


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client reads gzip (RFC 9110, section 12.5.3)."""
    weights = dict[str, bool]()
    for each in accept_encoding.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        weights[name] = weight.strip("0.") != "" or not weight
    return weights.get("gzip", weights.get("*", False))


def _is_known(etag: str, if_none_match: str) -> bool:
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in known or "*" in known


def read_pages(folder: Path) -> dict[str, Page]:
    """Every file that may be given out, under its path in the folder."""
    return {path.relative_to(folder).as_posix(): _read(path) for path in _given_out(folder)}


def _given_out(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        is_hidden = any(step.startswith(".") for step in path.relative_to(folder).parts)
        is_plain = path.is_file() and not path.is_symlink() and not is_hidden
        if is_plain and path.suffix in CONTENT_TYPES:
            yield path


def _read(path: Path) -> Page:
    content = path.read_bytes()
    packed = gzip.compress(content, mtime=0)
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Page(content, packed, CONTENT_TYPES[path.suffix], digest)


def is_page(path: str) -> bool:
    """Whether a request's path is a page's, which everybody may see: no page holds a secret."""
    return path in INDEXES or path.startswith(PREFIX)


def add_routes(router: APIRouter, folder: Path = WEB) -> None:
    """Add the pages' routes, for `GET` and `HEAD`."""
    pages = read_pages(folder)

    def giving(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def give(request: Request) -> Response:
            page = pages.get(name or request.path_params["name"])
            if page is None:
                raise HTTPException(404)
            return page.answer(request)

        return give

    for path, name in INDEXES.items():
        router.add_route(path, giving(name), methods=["GET"], include_in_schema=False)
    router.add_route(PREFIX + "{name:path}", giving(""), methods=["GET"], include_in_schema=False)

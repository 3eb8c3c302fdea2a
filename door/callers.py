"""Callers: by which names this server may be called, and from which web pages.

A browser sends a page's requests to any address, also to this machine's. Programs say nothing of
themselves and may call; pages are told apart by what browsers say for them: the name that the page
knows us by (Host), and where the page is from (Origin, Sec-Fetch-Site).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{0,5})?")
_OUR_NAMES = ("localhost", "host.docker.internal", "host.containers.internal")
"""What this machine is called from itself and from its containers: nobody else can own them."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Refusal(NamedTuple):
    """Why a request is turned away."""

    status: int
    sentence: str
    code: str | None = None


def is_api(path: str) -> bool:
    """Whether web pages of other servers may have business here."""
    return path.startswith("/v1/") or path == "/health"


class Callers:
    """Who may call."""

    def __init__(self, host: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        """`host` is the address that the server listens on; `hosts` are more names for it.

        A name of `hosts` that begins with a dot stands for all names that end with it.
        """
        own = socket.gethostname().lower()
        names = {*_OUR_NAMES, own, f"{own.split('.')[0]}.local", host, *hosts}
        self._names = frozenset(_plain(name) for name in names)
        self._suffixes = (".localhost", *(n.lower() for n in hosts if n.startswith(".")))
        self._is_any_host = "*" in self._names
        self._origins = frozenset(origins)

    def refusal(
        self, scope: MutableMapping[str, Any], headers: Mapping[str, str]
    ) -> Refusal | None:
        """Why a request or a socket is turned away, if it is."""
        for name, value in scope["headers"]:
            if name.lower() == b"host" and not self._is_host(value.decode("latin-1")):
                return Refusal(
                    403,
                    "This server is not called by this name. If it should be, start it with "
                    "--allowed-hosts and the name.",
                    "forbidden_host",
                )
        if self._is_foreign(scope, headers) and not self._may_call(scope, headers):
            return Refusal(
                403, "Web pages of other servers may not do this here.", "forbidden_origin"
            )
        return None

    def _is_host(self, host: str) -> bool:
        """Addresses are always ours: only a name can be made to point elsewhere."""
        if self._is_any_host:
            return True
        found = _HOST.fullmatch(host)
        if not found:
            return False
        name = _plain(found[1])
        return name in self._names or name.endswith(self._suffixes) or _is_address(name)

    def _is_foreign(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
        """Whether a page of another server asks, and not merely a person who follows a link."""
        origin = headers.get("origin")
        is_own = origin is None or origin.partition("://")[2] == headers.get("host")
        if scope["type"] == "websocket":  # browsers let any page open one
            return not is_own
        if scope["method"] not in _READING and not is_own:
            return True
        is_visit = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
            "navigate",
            "document",
        )
        is_cross = headers.get("sec-fetch-site") == "cross-site"
        return is_cross and not (is_visit and scope["method"] in _READING)

    def _may_call(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
        if not is_api(scope["path"]):
            return False
        # A form, an image or a script can ask, too, but not as the pages do that may.
        if headers.get("sec-fetch-mode", "cors") not in ("cors", "websocket"):
            return False
        return "*" in self._origins or headers.get("origin") in self._origins


def _plain(name: str) -> str:
    return name.lower().strip("[]").rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

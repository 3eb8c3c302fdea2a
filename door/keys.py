"""Keys say who may call. Those of a file belong to people: what one makes is nobody else's."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from door.settings import Settings
from parts import Unavailable


class Keys:
    """The keys that open this server; none means that it is open."""

    def __init__(self, shared: Iterable[str] = (), personal: Iterable[str] = ()) -> None:
        """What is made with a `shared` key belongs to all of them."""
        self._owners = {_encoded(key): "" for key in shared}
        self._owners |= {_encoded(key): _owner(key) for key in personal}

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        """The keys that the settings name. Raises `Unavailable` when their file has none."""
        shared = [settings.api_key] if settings.api_key else []
        return cls(shared, _read(settings.api_key_file) if settings.api_key_file else ())

    def __bool__(self) -> bool:
        return bool(self._owners)

    def owner(self, headers: Mapping[str, str]) -> str | None:
        """Whose a request is, by the key in its headers; None when it has none of ours."""
        if not self._owners:
            return ""
        sent = _encoded(_sent(headers))
        found = None
        for key, owner in self._owners.items():  # all of them: how long it takes tells nothing
            if secrets.compare_digest(sent, key):
                found = owner
        return found


def _sent(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "replace")


def _owner(key: str) -> str:
    return hashlib.sha256(_encoded(key)).hexdigest()[:32]


def _read(path: str) -> list[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise Unavailable(f"The file of keys {path!r} cannot be read.") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise Unavailable(f"The file of keys {path!r} has none.")
    return keys

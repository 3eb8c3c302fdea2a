"""Server-sent events, each as the bytes of a single write.

(https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

from protocol import json_text

DONE = b"data: [DONE]\n\n"
"""Ends every stream: clients take one that ends without it for complete."""
HOLE = secrets.token_hex(16)
"""Stands for what changes from one event to the next; no client can have written it."""
_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def data_event(value: Any) -> bytes:
    """An event without a name, as chat completions have them."""
    return b"data: " + json_bytes(value) + b"\n\n"


def named_event(event: Mapping[str, Any]) -> bytes:
    """An event named like its `type`."""
    return f"event: {event['type']}\n".encode("ascii") + data_event(event)


def long_named_event(event: Mapping[str, Any]) -> bytes:
    """The same of one that may be long, for a thread."""
    return b"".join(
        (f"event: {event['type']}\ndata: ".encode("ascii"), long_json_bytes(event), b"\n\n")
    )


def json_bytes(value: Any) -> bytes:
    """JSON on one line, in ASCII: there are clients that end a line at U+2028 or U+0085."""
    return _JSON.encode(value).encode("ascii")


def long_json_bytes(value: Any) -> bytes:
    """The same of a value that may be long, for a thread."""
    return json_text.joined(json_text.pieces(value, _JSON.encode))


def text_bytes(text: str) -> bytes:
    """The same of a text, in a tenth of the time."""
    return encode_basestring_ascii(text).encode("ascii")


def around_holes(event: bytes) -> list[bytes]:
    """What stays the same of an event: the pieces around its holes."""
    return event.split(text_bytes(HOLE))


class NamedEvents:
    """Writes named events one after another; what a run of deltas has in common is written once."""

    def __init__(self) -> None:
        self._kind: tuple[str, str] | None = None
        self._pieces: list[bytes] = []

    def write(self, event: Mapping[str, Any]) -> bytes:
        """The same bytes as `named_event`."""
        if "delta" not in event or event.get("logprobs"):
            return named_event(event)
        kind = event["type"], event["item_id"]
        if kind != self._kind:
            holed = {**event, "sequence_number": HOLE, "delta": HOLE}
            self._kind, self._pieces = kind, around_holes(named_event(holed))
        before, between, after = self._pieces
        number = b"%d" % event["sequence_number"]
        return b"".join((before, number, between, text_bytes(event["delta"]), after))

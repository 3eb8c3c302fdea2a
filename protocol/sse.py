"""Server-sent events, each as the bytes of a single write.

(https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
"""Ends every stream: clients take one that ends without it for complete."""


def data_event(value: Any) -> bytes:
    """An event without a name, as chat completions have them."""
    return b"data: " + json_bytes(value) + b"\n\n"


def named_event(event: Mapping[str, Any]) -> bytes:
    """An event named like its `type`."""
    return f"event: {event['type']}\n".encode("ascii") + data_event(event)


def json_bytes(value: Any) -> bytes:
    """JSON on one line, in ASCII: there are clients that end a line at U+2028 or U+0085."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")

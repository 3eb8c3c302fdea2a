"""A sealed text is a value of ours in a client's keeping: opaque, versioned, checked on its return.

The seal tells damage and foreign texts, not forgery: whatever a client may put into a sealed text,
it may also say in plain words. It needs no secret, so it outlives the process that made it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any, Literal

from parts import InvalidRequest
from protocol import json_text, strict_json

PIECE = 2**15
Purpose = Literal["reasoning", "compaction"]

VERSION = "v1."
DIGEST_BYTES = 16
MAX_FOLDS = 8
"""How many times larger a value's JSON may be than what it is packed into: small texts must not
unfold into some that fill the memory, nor many of them into hours of work."""
MAX_VALUES = 1_000_000
"""More than in one request: what is sealed may have come in many."""
SMALL_BYTES = 64 * 2**10
"""A value's JSON may have so many bytes, however well it packs."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


def seal(purpose: Purpose, value: Any) -> str:
    """Make an opaque text of a JSON value."""
    content = json_text.joined(json_text.pieces(value, _encode))
    packed = zlib.compress(content)
    if len(content) > _most(packed):
        packed = zlib.compress(content, level=0)
    return VERSION + _encoded(_digest(purpose, packed) + packed)


def unseal(purpose: Purpose, text: str) -> Any:
    """Read a sealed text; None when it is damaged, sealed for another purpose or not ours."""
    if not text.startswith(VERSION):
        return None
    try:
        content = _decoded(text[len(VERSION) :])
        digest, packed = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != _digest(purpose, packed):
            return None
        # Whoever knows the seal may have made it.
        return strict_json.loads(_unpacked(packed), MAX_VALUES)
    except (ValueError, InvalidRequest, zlib.error):
        return None


def _encoded(content: bytes) -> str:
    """Base64, a piece at a time: others wait meanwhile."""
    pieces = (content[start : start + 3 * PIECE] for start in range(0, len(content), 3 * PIECE))
    return "".join(base64.urlsafe_b64encode(piece).decode() for piece in pieces)


def _decoded(text: str) -> bytes:
    """The bytes in a text of ours. Raises `ValueError` where it is none."""
    pieces = (text[start : start + 4 * PIECE] for start in range(0, len(text), 4 * PIECE))
    return b"".join(base64.b64decode(piece, altchars="-_", validate=True) for piece in pieces)


def _digest(purpose: Purpose, packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=DIGEST_BYTES, person=purpose.encode()).digest()


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(packed, _most(packed))
    if not unpacking.eof:
        raise ValueError("incomplete, or too long")
    return content


def _most(packed: bytes) -> int:
    return max(MAX_FOLDS * len(packed), SMALL_BYTES)

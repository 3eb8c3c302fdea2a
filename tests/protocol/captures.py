"""Requests for responses as real clients sent them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "captures"
PATHS = sorted(FOLDER.glob("*/*_v1_responses*.json"))


def name_of(path: Path) -> str:
    """The client and the number of its request."""
    return f"{path.parent.name}-{path.name[:3]}"


def body_of(path: Path) -> dict[str, Any]:
    """The JSON that the client sent."""
    body: dict[str, Any] = json.loads(path.read_text())["body"]
    return body


def calls_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that a request's results answer, which were said before it."""
    given = body.get("input")
    items = [item for item in given if "call_id" in item] if isinstance(given, list) else []
    said = {item["call_id"] for item in items if not item["type"].endswith("_output")}
    return [
        {"type": "function_call", "call_id": item["call_id"], "name": "f", "arguments": "{}"}
        for item in items
        if item["call_id"] not in said
    ]

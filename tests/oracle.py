"""The `openai` package's own types as an oracle: is it theirs, and is nothing of it invented?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

OURS = frozenset(
    {"reasoning", "reasoning_content", "context_window", "capabilities", "prompt_progress"}
)
"""The only fields that we add, because clients look for them."""


def validated(kind: type[M], value: Any) -> M:
    """See that `value` is a `kind`, with no field that the type does not know."""
    made = kind.model_validate(value, strict=False)
    invented = [path for path in _extra(made, "") if path.split(".")[-1] not in OURS]
    assert not invented, f"{kind.__name__} has no {invented}"
    return made


def _extra(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in value.model_fields_set & set(type(value).model_fields):
            yield from _extra(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _extra(item, f"{path}.{index}")


def events(body: str) -> list[Any]:
    """The data of each server-sent event; "[DONE]" as it stands."""
    found = []
    for block in body.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        if data:
            found.append(data[0] if data[0] == "[DONE]" else json.loads(data[0]))
    return found


def assert_envelope(body: Any) -> dict[str, Any]:
    """See that a body is the one error envelope, and give what is in it."""
    assert set(body) - {"detail"} == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert "Traceback" not in error["message"] and "/inference/" not in error["message"]
    return error

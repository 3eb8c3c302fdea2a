"""What OpenAI's own types say of our JSON: whether it fits, and what of it they do not know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

ALLOWED_EXTRAS = {
    # What their service sends, or Open Responses asks for, and the package's types leave out.
    ("Response", "presence_penalty"),
    ("Response", "frequency_penalty"),
    ("Response", "store"),
    ("ResponseCustomToolCall", "status"),
    ("ResponseFunctionCallArgumentsDoneEvent", "name"),
    ("Logprob", "bytes"),
    ("LogprobTopLogprob", "bytes"),
    # Their HTTP errors have it; clients read one form or the other.
    ("ResponseErrorEvent", "error"),
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check_event(event: dict[str, Any]) -> Any:
    """Give an event as OpenAI's type; fail when a field is missing, wrong or invented."""
    return _check(ResponseStreamEvent, event)


def check_response(response: dict[str, Any]) -> Any:
    """Give a response object as OpenAI's type."""
    return _check(Response, response)


def check_item(item: dict[str, Any]) -> Any:
    """Give an item of `GET …/input_items` as OpenAI's type."""
    return _check(ResponseItem, item)


def _check(kind: Any, value: dict[str, Any]) -> Any:
    model = _adapter(kind).validate_python(value)
    assert set(_extras(model)) <= ALLOWED_EXTRAS
    return model


def _extras(value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case BaseModel():
            for key in value.model_extra or ():
                yield type(value).__name__, key
            for key in type(value).model_fields:
                yield from _extras(getattr(value, key))
        case list():
            for one in value:
                yield from _extras(one)

"""Items are what a conversation is made of on the wire: messages, thoughts, calls, their results.

Clients send them in many shapes; normalised, an item has an id, a type, a status and its content as
parts. Normalising it once more changes nothing.
(https://platform.openai.com/docs/api-reference/responses/input-items)
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from parts import InvalidRequest
from protocol.sealed import unseal

log = logging.getLogger(__name__)

Item = dict[str, Any]
Resolve = Callable[[str], Mapping[str, Any] | None]
"""Finds the item that an `item_reference` names."""

ROLES = frozenset({"user", "assistant", "system", "developer"})
STATUSES = frozenset({"in_progress", "completed", "incomplete"})
PHASES = frozenset({"commentary", "final_answer"})
MEDIA_PARTS = frozenset(
    {"input_image", "image_url", "image", "image_file", "computer_screenshot"}
    | {"input_video", "video_url", "video", "input_audio", "audio_url", "audio", "output_audio"}
    | {"input_file", "file_url", "file_data", "file_id", "file"}
)
"""Types of parts that are no text, and keys by which one without a type is known."""
IMPLIED_KINDS = {
    "role": "message",
    "output": "function_call_output",
    "arguments": "function_call",
    "summary": "reasoning",
    "id": "item_reference",
}
"""What an item without a `type` is, by the first of these fields that it has."""


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(16)}"


def normalised(
    given: str | Sequence[Any] | None, resolve: Resolve | None = None, *, param: str = "input"
) -> list[Item]:
    """Give every item its id, type and status, and its content as parts.

    Items and content parts of unknown kinds are skipped, and so are reasoning items that hold
    nothing. The log has their number; their kinds are a client's words.

    Raises:
        InvalidRequest: an item holds media (`unsupported_content`), refers to an item that is not
            here, or is broken; `param` is its path, such as `input[3].content[0]`.
    """
    if isinstance(given, str):
        given = [given]
    read = [_item(one, f"{param}[{i}]", resolve) for i, one in enumerate(given or ())]
    items = [item for item in read if item is not None]
    if len(items) < len(read):
        log.info("skipped %d items that this server does not know", len(read) - len(items))
    return items


def refuse_media(part: Mapping[str, Any], where: str) -> None:
    """Raise `InvalidRequest` for a part that a model which reads text cannot take."""
    kind = part.get("type")
    for name in (kind,) if kind else part:
        if isinstance(name, str) and name in MEDIA_PARTS:
            raise InvalidRequest(
                f"This model reads text only; it cannot take a part of type {name!r}.",
                param=where,
                code="unsupported_content",
            )


def _item(given: Any, where: str, resolve: Resolve | None) -> Item | None:
    if isinstance(given, str):
        given = {"role": "user", "content": given}
    if not isinstance(given, Mapping):
        raise InvalidRequest("An item is an object.", param=where, code="invalid_type")
    match _kind(given):
        case "message":
            return _message(given, where)
        case "function_call":
            return _call(given, where, "fc", "arguments")
        case "custom_tool_call":
            return _call(given, where, "ctc", "input")
        case "function_call_output" | "custom_tool_call_output":
            return _result(given, where)
        case "reasoning":
            return _reasoning(given, where)
        case "compaction" | "compaction_summary":
            return _compaction(given, where)
        case "item_reference":
            return _item(_resolved(given, where, resolve), where, None)
        case kind:
            refuse_media(given, where)
            log.debug("skipped an item of type %r", kind[:64])
            return None


def _kind(given: Mapping[str, Any]) -> str:
    kind = given.get("type")
    if isinstance(kind, str) and kind:
        return kind
    return next((implied for key, implied in IMPLIED_KINDS.items() if key in given), "")


def _head(given: Mapping[str, Any], prefix: str, kind: str) -> Item:
    """The fields that every item has."""
    status = given.get("status")
    return {
        "id": _text(given, "id") or new_id(prefix),
        "type": kind,
        "status": status if status in STATUSES else "completed",
    }


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    return value if isinstance(value, str) else ""


def _json_text(value: Any) -> str:
    """What should be text and may be the JSON value itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


# Messages


def _message(given: Mapping[str, Any], where: str) -> Item:
    role = _text(given, "role")
    if role not in ROLES:
        log.debug("read a message of role %r as the user's", role[:64])
        role = "user"
    part = output_text if role == "assistant" else _input_text
    item = _head(given, "msg", "message") | {
        "role": role,
        "content": _parts(given.get("content"), f"{where}.content", part),
    }
    if role == "assistant" and given.get("phase") in PHASES:
        item["phase"] = given["phase"]
    return item


Part = Callable[[str], Item]


def _input_text(text: str) -> Item:
    return {"type": "input_text", "text": text}


def output_text(text: str, logprobs: Iterable[Item] = ()) -> Item:
    """The part that holds the text of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _parts(content: Any, where: str, part: Part) -> list[Item]:
    match content:
        case None:
            return []
        case str():
            return [part(content)]
        case list() | tuple():
            parts = (_part(p, f"{where}[{i}]", part) for i, p in enumerate(content))
            return [p for p in parts if p is not None]
        case _:
            raise InvalidRequest(
                "Content is text or a list of parts.", param=where, code="invalid_type"
            )


def _part(given: Any, where: str, part: Part) -> Item | None:
    if isinstance(given, Mapping):
        refuse_media(given, where)
    match given:
        case str():
            return part(given)
        case {"type": "refusal", "refusal": str(refusal)}:
            is_answer = part is output_text
            return {"type": "refusal", "refusal": refusal} if is_answer else part(refusal)
        case {"text": str(text)}:
            return part(text) | _kept(given, part)
        case _:
            kind = _text(given, "type") if isinstance(given, Mapping) else ""
            log.debug("skipped a content part of type %r", kind[:64])
            return None


def _kept(given: Mapping[str, Any], part: Part) -> Item:
    """What an answer's text carries besides, when it comes back from a client or the store."""
    if part is not output_text:
        return {}
    return {
        key: given[key] for key in ("annotations", "logprobs") if isinstance(given.get(key), list)
    }


# Calls and their results


def _call(given: Mapping[str, Any], where: str, prefix: str, content: str) -> Item:
    if not _text(given, "name"):
        raise InvalidRequest(
            "A call needs the name of its tool.",
            param=f"{where}.name",
            code="missing_required_parameter",
        )
    item = _head(given, prefix, _kind(given)) | {
        "call_id": _text(given, "call_id") or _text(given, "id") or new_id("call"),
        "name": given["name"],
        content: _json_text(given.get(content)),
    }
    if _text(given, "namespace"):
        item["namespace"] = given["namespace"]
    return item


def _result(given: Mapping[str, Any], where: str) -> Item:
    kind = _kind(given)
    output = given.get("output")
    if isinstance(output, list) and all(isinstance(p, dict) and "type" in p for p in output):
        output = _parts(output, f"{where}.output", _input_text)
    else:
        output = _json_text(output)
    return _head(given, "fco" if kind == "function_call_output" else "ctco", kind) | {
        "call_id": _text(given, "call_id") or new_id("call"),
        "output": output,
    }


# Thoughts


def _reasoning(given: Mapping[str, Any], where: str) -> Item | None:
    item = _head(given, "rs", "reasoning") | {
        "summary": _parts(given.get("summary"), f"{where}.summary", summary_text),
        "content": _parts(given.get("content"), f"{where}.content", reasoning_text),
        "encrypted_content": _text(given, "encrypted_content") or None,
    }
    is_empty = not (item["summary"] or item["content"] or item["encrypted_content"])
    return None if is_empty else item


def summary_text(text: str) -> Item:
    """The part that holds the summary of a thought."""
    return {"type": "summary_text", "text": text}


def reasoning_text(text: str) -> Item:
    """The part that holds a thought in full."""
    return {"type": "reasoning_text", "text": text}


# Items that stand for others


def _compaction(given: Mapping[str, Any], where: str) -> Item:
    sealed = _text(given, "encrypted_content")
    if not isinstance(unseal("compaction", sealed), list):
        # To answer without the turns that it stands for would be to forget them in silence.
        raise InvalidRequest(
            "This compaction was not made by this server, or it is damaged.",
            param=f"{where}.encrypted_content",
            code="invalid_encrypted_content",
        )
    return {
        "id": _text(given, "id") or new_id("cmp"),
        "type": "compaction",
        "encrypted_content": sealed,
    }


def _resolved(given: Mapping[str, Any], where: str, resolve: Resolve | None) -> Mapping[str, Any]:
    found = resolve(_text(given, "id")) if resolve else None
    if found is None:
        raise InvalidRequest(
            "There is no item with this id.", param=f"{where}.id", code="item_not_found"
        )
    return found

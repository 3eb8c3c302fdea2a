"""An export is a conversation as a file for people or programs: Markdown, JSON, or JSON lines.

JSON is the whole tree, as the archive writes it. The others are one branch, from the first turn to
the last response or to one that is named: as a text, or as messages for `/v1/chat/completions`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from parts import Message, NotFound, ToolCall
from protocol import record
from protocol.browser import source_name
from protocol.transcript import messages
from protocol.tree import Tree, Turn, chain

Json = dict[str, Any]

HEADS = {"system": "System", "developer": "Developer", "user": "User", "assistant": "Assistant"}


def branch(tree: Tree, response_id: str | None = None) -> list[Turn]:
    """The turns up to a response, or up to the last. Raises `NotFound`."""
    if response_id is None:
        return chain(tree.turns[-1] if tree.turns else None)
    turn = tree.find(response_id)
    if turn is None:
        raise NotFound(f"Response with id '{response_id[:64]}' not found.", param="response_id")
    return chain(turn)


def as_json(tree: Tree, turns: list[Turn], now: float) -> str:
    """The whole tree, in the archive's own format."""
    return record.render(tree, now).decode("utf-8")


def as_json_lines(tree: Tree, turns: list[Turn], now: float) -> str:
    """One message a line."""
    lines = (json.dumps(_message_json(each), ensure_ascii=False) for each in _said(turns))
    return "".join(f"{line}\n" for line in lines)


def as_markdown(tree: Tree, turns: list[Turn], now: float) -> str:
    """A text to read: what was said stands in it as it was said."""
    summary = tree.summary()
    began = datetime.fromtimestamp(tree.created_at, UTC)
    origin = f"{began:%Y-%m-%d %H:%M} UTC · {source_name(summary.source)}"
    title = re.sub(r"([\\`*_\[\]<>#])", r"\\\1", summary.title) or "Conversation"
    blocks = [f"# {title}", f"*{origin}*"]
    for message in _said(turns):
        blocks += _blocks(message)
    return "\n\n".join(blocks) + "\n"


Write = Callable[[Tree, list[Turn], float], str]
FORMATS: dict[str, tuple[str, Write]] = {
    "md": ("text/markdown; charset=utf-8", as_markdown),
    "json": ("application/json", as_json),
    "jsonl": ("application/jsonl; charset=utf-8", as_json_lines),
}
"""Content types and writers, by the end of the file's name."""


def _said(turns: list[Turn]) -> Iterable[Message]:
    """The messages of a branch, after the instructions of its last response."""
    last = next((turn for turn in reversed(turns) if turn.response), None)
    instructions = json.loads(last.response).get("instructions") if last else None
    if isinstance(instructions, str) and instructions:
        yield Message("system", instructions)
    yield from messages(item for turn in turns for item in turn.items())


def _message_json(message: Message) -> Json:
    said: Json = {"role": message.role, "content": message.content}
    if message.reasoning:
        said["reasoning_content"] = message.reasoning
    if message.tool_calls:
        said["tool_calls"] = [_call_json(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    return said


def _call_json(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _blocks(message: Message) -> Iterator[str]:
    if message.role == "tool":
        yield f"### Result of `{message.name or message.tool_call_id}`"
        yield _fenced(message.content)
        return
    yield f"## {HEADS[message.role]}"
    if message.reasoning:
        yield f"<details><summary>Thinking</summary>\n\n{message.reasoning}\n\n</details>"
    if message.content:
        yield message.content
    for call in message.tool_calls:
        yield f"### Call of `{call.name}`"
        yield _fenced(call.arguments, "json")


def _fenced(text: str, language: str = "") -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"

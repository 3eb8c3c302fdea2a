"""A transcript is a conversation's items, read as the messages of a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from parts import Message, Prompt, ToolCall
from protocol.compaction import expanded
from protocol.items import Item
from protocol.sealed import unseal
from protocol.tools import CUSTOM_ARGUMENT, flat_name


def messages(items: Iterable[Item]) -> tuple[Message, ...]:
    """Fold normalised items into messages.

    The thoughts, the text and the calls of one turn of the assistant are one message, and the
    results of its calls follow it. A call without a result, or a result without a call, is kept.
    """
    fold = _Fold()
    for item in expanded(items):
        fold.add(item)
    return fold.finished()


@dataclass(slots=True)
class _Turn:
    """An assistant's turn that is being put together. Lists: a turn may have many pieces."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def message(self) -> Message:
        return Message(
            "assistant",
            "\n\n".join(self.texts),
            reasoning="\n\n".join(self.thoughts),
            tool_calls=tuple(self.calls),
        )


class _Fold:
    """The messages so far, and the assistant's turn that is being put together."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._names: dict[str, str] = {}
        self._turn: _Turn | None = None

    def add(self, item: Item) -> None:
        match item:
            case {"type": "reasoning"}:
                if thought := _thought(item):
                    self._turn_for_words().thoughts.append(thought)
            case {"type": "message", "role": "assistant"}:
                turn = self._turn_for_words()
                if text := _text(item["content"]):
                    turn.texts.append(text)
            case {"type": "function_call" | "custom_tool_call"}:
                self._call(_tool_call(item))
            case {"type": "message"}:
                self._append(Message(item["role"], _text(item["content"])))
            case _:
                self._append(self._result(item))

    def finished(self) -> tuple[Message, ...]:
        self._end_turn()
        return tuple(self._messages)

    def _call(self, call: ToolCall) -> None:
        self._turn = self._turn or _Turn()
        self._turn.calls.append(call)
        self._names[call.id] = call.name

    def _turn_for_words(self) -> _Turn:
        """Words after words are another message; words after calls belong to the calls.

        The results must find their calls in the message right before them.
        """
        if self._turn is not None and self._turn.texts and not self._turn.calls:
            self._end_turn()
        self._turn = self._turn or _Turn()
        return self._turn

    def _result(self, item: Item) -> Message:
        call_id = item["call_id"]
        return Message(
            "tool", _text(item["output"]), tool_call_id=call_id, name=self._names.get(call_id)
        )

    def _append(self, message: Message) -> None:
        self._end_turn()
        self._messages.append(message)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._messages.append(self._turn.message())
        self._turn = None


def _text(content: str | Iterable[Item]) -> str:
    """The text of parts; a refusal is text that the model said."""
    if isinstance(content, str):
        return content
    return "".join(part["refusal"] if "refusal" in part else part["text"] for part in content)


def _thought(item: Item) -> str:
    """The fullest version of a thought that the item holds and we can read."""
    return _text(item["content"]) or _unsealed(item) or _text(item["summary"])


def _unsealed(item: Item) -> str:
    sealed = unseal("reasoning", item["encrypted_content"] or "")
    return sealed if isinstance(sealed, str) else ""


def _tool_call(item: Item) -> ToolCall:
    if item["type"] == "custom_tool_call":
        arguments = json.dumps({CUSTOM_ARGUMENT: item["input"]}, ensure_ascii=False)
    else:
        arguments = item["arguments"]
    return ToolCall(item["call_id"], flat_name(item["name"], item.get("namespace")), arguments)


# Prompts that do not fit


def num_droppable(prompt: Prompt) -> int:
    """How many of its oldest turns a prompt can do without: all but the last.

    A turn is a user's message and all that follows it, up to the next one.
    """
    return max(0, len(_starts(prompt)) - 1)


def shortened(prompt: Prompt, num_dropped: int) -> Prompt:
    """The prompt without its oldest turns. System and developer messages and the tools stay."""
    end = _starts(prompt)[num_dropped]
    dropped, kept = prompt.messages[:end], prompt.messages[end:]
    standing = tuple(m for m in dropped if m.role in ("system", "developer"))
    return replace(prompt, messages=standing + kept)


def _starts(prompt: Prompt) -> list[int]:
    return [i for i, m in enumerate(prompt.messages) if m.role == "user"]

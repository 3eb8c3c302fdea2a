"""A conversation being written, in the OpenAI form, and how to tell whether its end is right.

The same conversations train the model and examine it: training learns every assistant message, the
evaluation cuts the last one off, lets the model write it and judges what came. Knows nothing about
tokens.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo.words import Draw

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One tool call."""

    name: str
    arguments: dict[str, Any]

    def as_message_part(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Answer:
    """What the model wrote, taken apart."""

    text: str
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    num_tokens: int = 0
    ended: bool = True  # by itself, not by the token limit


Check = Callable[[Answer], bool]


def says(*texts: str) -> Check:
    """The answer is one of these texts, and no tool is called."""
    return lambda answer: answer.text.strip() in texts and not answer.calls


def calls_exactly(calls: list[Call]) -> Check:
    """These tools are called with these arguments, in this order."""
    return lambda answer: list(answer.calls) == calls


def is_json(expected: Any) -> Check:
    """The answer is JSON equal to this."""

    def check(answer: Answer) -> bool:
        try:
            return bool(json.loads(answer.text) == expected)
        except ValueError:
            return False

    return check


@dataclass
class Conversation:
    """A dialogue in progress, with what its writers must remember to stay consistent."""

    draw: Draw
    thinking_share: float = 0.0
    """How many of the assistant's messages carry their reasoning: 0 none, 1 all."""
    system: str | None = None
    tools: list[Tool] = field(default_factory=list)
    persona: str | None = None
    shouts: bool = False
    """Whether the system prompt asks for upper case."""
    memory: dict[str, str] = field(default_factory=dict)
    """What the user told: "name" -> "Zorblat"."""
    turns: list[Message] = field(default_factory=list)
    check: Check = field(default=says(""))
    """Judges an answer in place of the last assistant message."""

    @property
    def messages(self) -> list[Message]:
        if self.system is None:
            return self.turns
        return [{"role": "system", "content": self.system}, *self.turns]

    def ask(self, text: str) -> None:
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str, thought: str, check: Check | None = None) -> None:
        """The assistant answers; thought is its reasoning, kept when this message thinks."""
        if self.shouts:
            text = text.upper()
        self.turns.append(self._assistant(thought, content=text))
        self.check = check or says(text)

    def say(self, question: str, text: str, thought: str, check: Check | None = None) -> None:
        """One question and its answer."""
        self.ask(question)
        self.answer(text, thought, check)

    def call(self, calls: list[Call], thought: str) -> None:
        """The assistant calls tools."""
        self.turns.append(
            self._assistant(
                thought, content="", tool_calls=[call.as_message_part() for call in calls]
            )
        )
        self.check = calls_exactly(calls)

    def tool_result(self, content: str) -> None:
        self.turns.append({"role": "tool", "content": content})

    def _assistant(self, thought: str, **parts: Any) -> Message:
        thinks = self.draw.chance(self.thinking_share)
        return {"role": "assistant", "reasoning_content": thought if thinks else "", **parts}


@dataclass(frozen=True)
class Probe:
    """One held-out prompt of the evaluation and how to judge what the model answers."""

    messages: list[Message]
    tools: list[Tool]
    thinking: bool
    expected: Message
    check: Check
    max_tokens: int = 400


def probe(conversation: Conversation, thinking: bool, max_tokens: int = 400) -> Probe:
    """Cut the last assistant message off."""
    *prompt, expected = conversation.messages
    return Probe(prompt, conversation.tools, thinking, expected, conversation.check, max_tokens)

"""Tools in a conversation: how they are offered, asked for and called, and what is made of results.

Names, parameter names and the dress of the schemas vary as they do among real clients.
"""

import json
from dataclasses import dataclass
from typing import Any

from demo.conversation import Call, Conversation, Tool
from demo.talk import BEFORE, one_of
from demo.tool_kinds import CITY, KINDS, Kind, Value, invented_kind, short_text
from demo.unknown import REFUSALS
from demo.words import Draw

ALIKE = (
    {"calculate", "add"},
    {"message", "email"},
    {"user", "search"},
    {"read_file", "search"},
    {"translate", "calculate"},
)
"""Kinds that one request could mean both of: never offered together."""

NO_TOOL = ("I am sorry, I have no tool for that.",)


@dataclass(frozen=True)
class Offered:
    """A tool as one conversation offers it: a kind with its names chosen."""

    kind: Kind
    name: str
    parameters: tuple[str, ...]

    def call(self, values: tuple[Value, ...]) -> Call:
        return Call(self.name, dict(zip(self.parameters, values, strict=True)))


def schema_of(draw: Draw, tool: Offered) -> Tool:
    """The tool in the OpenAI form, dressed as one of many clients would."""
    titles, described = draw.chance(0.2), draw.chance(0.6)
    properties: dict[str, Any] = {}
    for name, parameter in zip(tool.parameters, tool.kind.parameters, strict=True):
        properties[name] = {"type": parameter.type}
        if titles:
            properties[name] = {"title": name.replace("_", " ").title(), **properties[name]}
        if described:
            properties[name]["description"] = parameter.description
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": list(tool.parameters),
    }
    if draw.chance(0.15) and tool.kind.parameters == CITY:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    if draw.chance(0.25):
        parameters["additionalProperties"] = False
    if draw.chance(0.1):
        parameters = {"$schema": "http://json-schema.org/draft-07/schema#", **parameters}
    if draw.chance(0.2):
        parameters = {key: parameters[key] for key in sorted(parameters, reverse=draw.chance(0.5))}
    function: dict[str, Any] = {"name": tool.name}
    if draw.chance(0.85):
        function["description"] = draw.pick(
            (
                tool.kind.description,
                tool.kind.description,
                tool.kind.description + ".",
                "w",
                "",
                short_text(draw),
            )
        )
    if parameters["properties"] or draw.chance(0.7):
        function["parameters"] = parameters
    if draw.chance(0.15):
        function["strict"] = True
    if draw.chance(0.15):
        function = {key: function[key] for key in sorted(function)}
    return {"type": "function", "function": function}


def choose_kinds(draw: Draw, count: int) -> list[Kind]:
    """So many kinds of tools that no request confuses."""
    names: list[str] = []
    for name in draw.sample(list(KINDS), len(KINDS)):
        if not any({name, other} in ALIKE for other in names):
            names.append(name)
    return [invented_kind(draw) if draw.chance(0.25) else KINDS[name] for name in names[:count]]


def offer(conversation: Conversation, count: int) -> list[Offered]:
    """Offer that many tools in the conversation."""
    draw = conversation.draw
    offered: list[Offered] = []
    for kind in choose_kinds(draw, count):
        name = draw.pick(kind.names)
        parameters = tuple(draw.pick(parameter.names) for parameter in kind.parameters)
        if len(set(parameters)) == len(parameters) and name not in [
            other.name for other in offered
        ]:
            offered.append(Offered(kind, name, parameters))
    conversation.tools = [schema_of(draw, tool) for tool in offered]
    return offered


def dressed(draw: Draw, request: str, is_open: bool) -> str:
    """The request with what people type around it."""
    text = draw.pick(BEFORE) + request
    if is_open:
        return text
    return (
        text.rstrip("?.")
        if draw.chance(0.15)
        else text + draw.pick(("", "", "", "", " Thanks!", " Please."))
    )


def result_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


Pending = list[tuple[Offered, tuple[Value, ...]]]
"""Calls that wait for their results."""


def request_one(conversation: Conversation, offered: list[Offered]) -> Pending:
    """One request that one tool fits."""
    draw = conversation.draw
    tool = draw.pick(offered)
    values = tool.kind.values(draw)
    conversation.ask(
        dressed(draw, draw.pick(tool.kind.requests).format(*values), tool.kind.is_open)
    )
    conversation.call([tool.call(values)], f"I should call {tool.name}.")
    return [(tool, values)]


def request_two(conversation: Conversation, offered: list[Offered]) -> Pending:
    """One request that needs two calls: of one tool with two values, or of two tools."""
    draw = conversation.draw
    doubles = [tool for tool in offered if tool.kind.twice]
    if doubles and (len(offered) == 1 or draw.chance(0.6)):
        tool = draw.pick(doubles)
        values = [tool.kind.values(draw), tool.kind.values(draw)]
        pending = [(tool, values[0]), (tool, values[1])]
        question = draw.pick(tool.kind.twice).format(values[0][0], values[1][0])
        thought = f"I should call {tool.name} two times."
    else:
        closed = [tool for tool in offered if not tool.kind.is_open]
        first = draw.pick(closed or offered)
        second = draw.pick([tool for tool in offered if tool is not first] or offered)
        pending = [(tool, tool.kind.values(draw)) for tool in (first, second)]
        parts = [draw.pick(tool.kind.requests).format(*values) for tool, values in pending]
        joints = (" And: ", " Also: ", "\n", " Then: ", " ")
        question = draw.pick(joints[:4] if first.kind.is_open else joints).join(parts)
        thought = f"I should call {first.name} and {second.name}."
    conversation.ask(draw.pick(BEFORE) + question)
    conversation.call([tool.call(values) for tool, values in pending], thought)
    return pending


def answer_results(conversation: Conversation, pending: Pending) -> None:
    """The tools return, and the assistant says what they did."""
    draw = conversation.draw
    said = []
    for tool, values in pending:
        if draw.chance(0.04):
            reason = draw.pick(
                (
                    "not found",
                    "timeout",
                    "no permission",
                    "bad request",
                    "unknown",
                    short_text(draw),
                )
            )
            result, text = (
                draw.pick(({"error": reason}, f"Error: {reason}")),
                f"That did not work: {reason}.",
            )
        else:
            result, text = tool.kind.outcome(draw, values)
        conversation.tool_result(result_text(result))
        said.append(text)
    conversation.answer(
        " ".join(said), "The tool answered." if len(pending) == 1 else "The tools answered."
    )


def ask_for_missing(conversation: Conversation, offered: list[Offered]) -> None:
    """A request for a tool that is not offered."""
    draw = conversation.draw
    present = [tool.kind for tool in offered]
    names = ["timer", "alarm", "light", "dice"]
    if not any(KINDS[name] in present for name in ("search", "user", "run", "message")):
        names += ["weather", "time", "stock", "email", "music", "convert", "event"]
    kind = KINDS[draw.pick([name for name in names if KINDS[name] not in present] or ["event"])]
    question = dressed(draw, draw.pick(kind.requests).format(*kind.values(draw)), kind.is_open)
    one_of(conversation, question, NO_TOOL, "No tool fits this request.", also=REFUSALS)


INCOMPLETE = {
    "weather": "weather?|What is the weather?|How is the weather?|What's the weather like?|Tell me "
    "the weather.|the weather please",
    "time": "time?|What time is it there?|Tell me the time there.|time in the city?",
    "population": "population?|How many people live there?|What is the population?",
}


def ask_incomplete(conversation: Conversation, offered: list[Offered]) -> bool:
    """A request without the city that its tool needs; whether such a tool is offered."""
    draw = conversation.draw
    needing = [name for name in INCOMPLETE if any(tool.kind is KINDS[name] for tool in offered)]
    if needing:
        question = draw.pick(INCOMPLETE[draw.pick(needing)].split("|"))
        conversation.say(question, "In which city?", "The user does not say for which city.")
    return bool(needing)

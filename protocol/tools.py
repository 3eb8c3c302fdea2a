"""A toolbox is the tools of one request: what the model sees, and what its calls are on the wire.

The model knows functions only. A tool in a namespace becomes a function with a longer name, a
custom tool one with a single string argument; the names are given back on the call.
(https://platform.openai.com/docs/api-reference/responses/create#responses-create-tools)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parts import InvalidRequest, Tool
from protocol.constraints import checked

log = logging.getLogger(__name__)

Json = dict[str, Any]

CUSTOM_ARGUMENT = "input"
MAX_TOOLS = 1_000
"""Of one request, those in namespaces too; and as many that a choice may name."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a client calls a tool."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


def flat_name(name: str, namespace: str | None) -> str:
    """The name that the model knows a tool by."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


class Toolbox:
    """The tools that a request brings along; hosted ones are left out with a line in the log."""

    def __init__(self, definitions: Iterable[Any] = ()) -> None:
        """Read the `tools` of a request.

        Raises:
            InvalidRequest: a tool has no name, or there are too many.
        """
        self.tools: list[Tool] = []
        self.definitions: list[Json] = []
        """The tools as the response object shows them, with every default filled in."""
        self._origins: dict[str, Origin] = {}
        self._num_left_out = 0
        for index, definition in enumerate(definitions):
            shown = self._add(definition, f"tools[{index}]", None)
            if shown is not None:
                self.definitions.append(shown)
        if self._num_left_out:
            log.info("left out %d tools that this server cannot offer", self._num_left_out)

    def origin(self, name: str) -> Origin:
        """What the client calls the tool that the model called; models also make up names."""
        return self._origins.get(name) or Origin(name)

    def offered(self, choice: Any) -> tuple[Tool, ...]:
        """The tools that `tool_choice` leaves to the model.

        Raises:
            InvalidRequest: it demands a tool that is not there, or one of a hosted kind.
        """
        match choice:
            case "none":
                return ()
            case "auto":
                return tuple(self.tools)
            case "required":
                self._demand(self.tools)
                return tuple(self.tools)
            case {"type": "allowed_tools"}:
                return self._allowed(choice)
            case {"type": "function" | "custom"}:
                found = tuple(self._named([choice]))
                self._demand(found)
                return found
            case _:
                raise _bad_choice("It names no mode and no tool that this server can call.")

    @staticmethod
    def demands_call(choice: Any) -> bool:
        """Whether `tool_choice` leaves the model nothing but to call."""
        match choice:
            case "required" | {"type": "function" | "custom"}:
                return True
            case {"type": "allowed_tools", "mode": "required"}:
                return True
        return False

    # Definitions

    def _add(self, definition: Any, where: str, namespace: str | None) -> Json | None:
        match definition:
            case {"type": "function"}:
                nested = definition.get("function")  # as chat completions write it
                given = nested if isinstance(nested, Mapping) else definition
                return self._add_function(given, where, namespace)
            case {"type": "custom"}:
                return self._add_custom(definition, where, namespace)
            case {"type": "namespace"} if namespace is None:
                return self._add_namespace(definition, where)
            case _:
                kind = definition.get("type") if isinstance(definition, Mapping) else None
                log.debug("left out a tool of type %r", str(kind)[:64])
                self._num_left_out += 1
                return None

    def _add_function(self, given: Mapping[str, Any], where: str, namespace: str | None) -> Json:
        name = _name(given, where)
        parameters = given.get("parameters")
        parameters = parameters if isinstance(parameters, Mapping) and parameters else None
        checked(parameters or {}, f"{where}.parameters")
        strict = bool(given.get("strict"))
        tool = Tool(flat_name(name, namespace), _description(given), parameters or {}, strict)
        self._keep(tool, Origin(name, namespace), where)
        return {
            "type": "function",
            "name": name,
            "description": _description(given) or None,
            "parameters": parameters,
            "strict": strict,
        }

    def _add_custom(self, given: Mapping[str, Any], where: str, namespace: str | None) -> Json:
        name = _name(given, where)
        parameters = custom_parameters(given.get("format"))
        tool = Tool(flat_name(name, namespace), _description(given), parameters)
        self._keep(tool, Origin(name, namespace, is_custom=True), where)
        return {
            "type": "custom",
            "name": name,
            "description": _description(given) or None,
            "format": given.get("format") or {"type": "text"},
        }

    def _add_namespace(self, given: Mapping[str, Any], where: str) -> Json:
        name = _name(given, where)
        tools = given.get("tools")
        tools = tools if isinstance(tools, list) else []
        refuse_too_many(len(tools), f"{where}.tools")
        members = (
            self._add(member, f"{where}.tools[{index}]", name) for index, member in enumerate(tools)
        )
        return {
            "type": "namespace",
            "name": name,
            "description": _description(given),
            "tools": [member for member in members if member is not None],
        }

    def _keep(self, tool: Tool, origin: Origin, where: str) -> None:
        if tool.name in self._origins:
            log.debug("left out %s: there is a tool of its name already", where)
            self._num_left_out += 1
            return
        refuse_too_many(len(self.tools) + 1, where)
        self.tools.append(tool)
        self._origins[tool.name] = origin

    # Choices

    def _allowed(self, choice: Mapping[str, Any]) -> tuple[Tool, ...]:
        tools = choice.get("tools")
        tools = tools if isinstance(tools, list) else []
        refuse_too_many(len(tools), "tool_choice")
        found = tuple(self._named(tools))
        # Hosted tools are left out, as among the definitions.
        kinds = [tool.get("type") for tool in tools if isinstance(tool, Mapping)]
        if choice.get("mode") == "required" or "function" in kinds:
            self._demand(found)
        return found

    def _named(self, choices: Iterable[Any]) -> Iterator[Tool]:
        """The tools that are named, in the order of their definitions."""
        named = _Named(choices)
        return (tool for tool in self.tools if named.holds(tool, self._origins[tool.name]))

    def _demand(self, found: Iterable[Tool]) -> None:
        if not list(found):
            raise _bad_choice("It demands a tool that is not among the tools.")


class _Named:
    """What the entries of a choice name, found without looking at each of them for every tool."""

    def __init__(self, choices: Iterable[Any]) -> None:
        self._namespaces: set[str] = set()
        self._flat: set[str] = set()
        self._names: set[tuple[str, str | None]] = set()
        inner = (c.get("function") or c for c in choices if isinstance(c, Mapping))
        for choice in inner:
            match choice:
                case {"type": "namespace", "name": str(name)}:
                    self._namespaces.add(name)
                case {"name": str(name), "namespace": str() | None as namespace}:
                    self._flat.add(name)
                    self._names.add((name, namespace))
                case {"name": str(name)}:
                    self._flat.add(name)
                    self._names |= {(name, None)} if "namespace" not in choice else set()

    def holds(self, tool: Tool, origin: Origin) -> bool:
        """Whether a tool is meant, by its namespace or by any of its names."""
        return (
            origin.namespace in self._namespaces
            or tool.name in self._flat
            or not self._names.isdisjoint(((origin.name, None), (origin.name, origin.namespace)))
        )


def refuse_too_many(number: int, param: str) -> None:
    """Raise `InvalidRequest` when there are more tools than a request may hold."""
    if number > MAX_TOOLS:
        raise InvalidRequest(f"There may be {MAX_TOOLS} tools at most.", param=param)


def _bad_choice(message: str) -> InvalidRequest:
    return InvalidRequest(f"This tool_choice cannot be served. {message}", param="tool_choice")


def _name(given: Mapping[str, Any], where: str) -> str:
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(
            "A tool needs a name.", param=f"{where}.name", code="missing_required_parameter"
        )
    return name


def _description(given: Mapping[str, Any]) -> str:
    description = given.get("description")
    return description if isinstance(description, str) else ""


# Custom tools


def custom_parameters(form: Any) -> Json:
    """What the model is told of a custom tool: a function of one string."""
    return {
        "type": "object",
        "properties": {CUSTOM_ARGUMENT: _input_schema(form)},
        "required": [CUSTOM_ARGUMENT],
        "additionalProperties": False,
    }


def _input_schema(form: Any) -> Json:
    """The schema of a custom tool's one argument. A grammar is told to the model, not enforced."""
    match form:
        case {"type": "grammar", "grammar": Mapping() as inner}:  # as chat completions write it
            return _input_schema({**inner, "type": "grammar"})
        case {"type": "grammar", "syntax": str(syntax), "definition": str(definition)}:
            told = f"Follows this {syntax} grammar:\n{definition}"
            return {"type": "string", "description": told}
        case _:
            return {"type": "string"}


def custom_input(arguments: str) -> str:
    """The text that the model gave a custom tool; all it wrote, when that is not as expected."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    match value:
        case {"input": str(text), **rest} if not rest:
            return text
        case _:
            return arguments

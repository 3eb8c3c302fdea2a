"""The parameters of both APIs, each with a probe that shows what a running server does with it.

python -m tests.parameters        writes the table of what was observed into README.md
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from tests.oracle import events
from tests.serving import ROOT, running

Json = dict[str, Any]
BEGIN, END = "<!-- observed: begin -->", "<!-- observed: end -->"
README = ROOT / "README.md"
HONOURED, ECHOED, IGNORED, REFUSED, ABSENT = "honoured", "echoed", "ignored", "400", "–"
APIS = ("chat", "responses")


# What an answer is seen to be, whichever way it was asked for


@dataclass(frozen=True)
class Seen:
    """An answer, as far as a probe can tell."""

    status: int
    object: Json
    """The answer's own object: of a stream the last, with its choices or output put together."""
    is_stream: bool = False
    texts: tuple[str, ...] = ()
    reasoning: str = ""
    calls: tuple[str, ...] = ()
    finish: str = ""
    logprobs: tuple[Json, ...] = ()
    usage: Json | None = None
    tells_progress: bool = False

    @property
    def num_tokens(self) -> int:
        usage = self.usage or {}
        return int(usage.get("completion_tokens", usage.get("output_tokens", -1)))

    @property
    def num_prompt(self) -> int:
        usage = self.usage or {}
        return int(usage.get("prompt_tokens", usage.get("input_tokens", -1)))

    @property
    def story(self) -> object:
        """What differs between two answers to different requests."""
        return self.texts, self.reasoning, self.calls, self.finish


def send(url: str, api: str, body: Json) -> Seen:
    """Ask, and see."""
    path = "chat/completions" if api == "chat" else "responses"
    answer = httpx.post(f"{url}/v1/{path}", json=body, timeout=120)
    if answer.status_code != 200:
        return Seen(answer.status_code, answer.json())
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)[:-1] if is_stream else [answer.json()]
    seen = _chat(told, is_stream) if api == "chat" else _response(told, is_stream)
    return replace(seen, tells_progress=any("processed" in json.dumps(event) for event in told))


def _chat(told: list[Json], is_stream: bool) -> Seen:
    texts: dict[int, str] = {}
    calls: list[str] = []
    reasoning, finish, logprobs, usage = "", "", [], None
    for chunk in told:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            said = choice["delta" if is_stream else "message"]
            index = choice["index"]
            texts[index] = texts.get(index, "") + (said.get("content") or "")
            reasoning += said.get("reasoning_content") or ""
            made = [*(said.get("tool_calls") or ()), {"function": said.get("function_call") or {}}]
            calls += [call["function"]["name"] for call in made if "name" in call["function"]]
            finish = choice["finish_reason"] or finish
            logprobs += (choice["logprobs"] or {}).get("content") or []
    return Seen(
        200,
        told[-1],
        is_stream,
        tuple(texts.values()),
        reasoning,
        tuple(calls),
        finish,
        tuple(logprobs),
        usage,
    )


def _response(told: list[Json], is_stream: bool) -> Seen:
    last: Json = told[-1]["response"] if is_stream else told[-1]
    items: list[Json] = last["output"]
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    return Seen(
        200,
        last,
        is_stream,
        tuple(part["text"] for part in parts),
        "".join(i["content"][0]["text"] for i in items if i["type"] == "reasoning"),
        tuple(item["name"] for item in items if item["type"] == "function_call"),
        (last["incomplete_details"] or {}).get("reason", last["status"]),
        tuple(entry for part in parts for entry in part["logprobs"]),
        last["usage"],
    )


# Probes

Value = Any
Shows = Callable[[Seen, Seen], bool]
"""Whether an answer shows that the parameter was honoured, beside the answer without it."""


@dataclass(frozen=True)
class Parameter:
    """A parameter with a value to try, and what would show that the value was honoured."""

    name: str
    """With dots where it is a field of a field."""
    value: Value
    """Or a function that gives it, for a server's URL."""
    shows: Shows | None = None
    api: str = ""
    """The one that has it, when only one does."""
    mode: str = ""
    """`streamed`, when it means nothing for a whole answer."""
    why: str = ""
    """Why it is ignored, or what else is worth knowing."""
    proof: str = ""
    """The test that shows it is honoured, where no answer can."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """What else stands in both requests, with and without the parameter."""

    @property
    def root(self) -> str:
        return self.name.split(".")[0]

    def is_of(self, api: str) -> bool:
        return self.api in ("", api)

    def bodies(self, url: str, api: str, is_stream: bool) -> tuple[Json, Json]:
        """The request without the parameter, and with it."""
        value = self.value(url) if callable(self.value) else self.value
        plain = {**BASES[api], **self.setting, "stream": is_stream}
        plain = {name: given for name, given in plain.items() if given is not ...}
        if self.root == "stream":
            plain.pop("stream")
            return plain, {**plain, "stream": is_stream}
        return plain, _merged(plain, self.name.split("."), value)


def _merged(body: Json, path: list[str], value: Value) -> Json:
    first, *rest = path
    return {**body, first: _merged(body.get(first, {}), rest, value) if rest else value}


WORDS = "Tell me a story about a fox."
BASES: dict[str, Json] = {
    "chat": {
        "messages": [{"role": "user", "content": WORDS}],
        "temperature": 0,
        "max_tokens": 8,
        "reasoning_effort": "none",
    },
    "responses": {
        "input": WORDS,
        "temperature": 0,
        "max_output_tokens": 8,
        "reasoning": {"effort": "none"},
    },
}
ROOM = {"max_tokens": 60, "max_output_tokens": 60}
WARM = {"temperature": 1.5, "seed": 1, "max_tokens": 30, "max_output_tokens": 30}
"""The toy is sure of itself: at its first words, no setting would show."""
DIGITS = {"structured_outputs": {"regex": "[0-9]{40}"}, **ROOM}
"""The toy is at a loss for digits: left alone it repeats one for ever."""
THINKING = {"reasoning_effort": ..., "reasoning": ...}
ZONE = {
    "type": "object",
    "properties": {"zone": {"enum": ["utc", "local"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_time", "description": "Get the time.", "parameters": ZONE}
TOOL = {"type": "function", **FUNCTION, "function": FUNCTION}
"""In the words of both APIs at once."""
FORM = {"type": "json_schema", "name": "zone", "schema": ZONE, "json_schema": {"schema": ZONE}}
ZONES = ('{"zone":"utc"}', '{"zone":"local"}', '{"zone": "utc"}', '{"zone": "local"}')
FORCED = {"tools": [TOOL], "tool_choice": "required", **ROOM}
LOGPROBS = ["message.output_text.logprobs"]
LONG = [
    {"role": "user", "content": "word " * 6000},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Hello!"},
]
THEIRS = "only their service has it"
ROUTING = "there is one model on one machine"


def differs(seen: Seen, plain: Seen) -> bool:
    return seen.story != plain.story


def reads_more(seen: Seen, plain: Seen) -> bool:
    return seen.num_prompt > plain.num_prompt


def is_cut(seen: Seen, plain: Seen) -> bool:
    is_length = seen.finish in ("length", "max_output_tokens")
    # A stream of chunks tells its usage only when it is asked to.
    return is_length and len(seen.texts[0]) < len(plain.texts[0]) and seen.num_tokens in (-1, 3)


def stops_thinking(seen: Seen, plain: Seen) -> bool:
    return bool(plain.reasoning) and not seen.reasoning


def has_called(seen: Seen, plain: Seen) -> bool:
    return set(seen.calls) == {"get_time"} and not plain.calls


def has_called_once(seen: Seen, plain: Seen) -> bool:
    return seen.calls == ("get_time",) and bool(plain.calls)


def is_formed(seen: Seen, plain: Seen) -> bool:
    return seen.texts[0] in ZONES and plain.texts[0] not in ZONES


def stored(url: str) -> str:
    return str(send(url, "responses", BASES["responses"]).object["id"])


def conversation(url: str) -> str:
    items = [{"role": "user", "content": "My name is Zorblat."}]
    made = httpx.post(f"{url}/v1/conversations", json={"items": items}, timeout=60)
    return str(made.json()["id"])


def P(name: str, value: Value, shows: Shows | None = None, **more: Any) -> Parameter:
    return Parameter(name, value, shows, **more)


PARAMETERS = (
    P("messages", [{"role": "user", "content": "What is 3 + 4?"}], differs, api="chat"),
    P("input", "What is 3 + 4?", differs, api="responses"),
    P("instructions", "Answer in one word.", reads_more, api="responses"),
    P("previous_response_id", stored, reads_more, api="responses"),
    P("conversation", conversation, reads_more, api="responses"),
    P("truncation", "auto", lambda s, p: (s.status, p.status) == (200, 400), api="responses",
      setting={"input": LONG}),
    P("model", "any-name", why="one model is loaded, whatever it is called"),
    P("stream", True, lambda s, p: not p.is_stream),
    P("stream_options.include_usage", True, lambda s, p: s.usage is not None and p.usage is None,
      api="chat", mode="streamed"),
    P("return_progress", True, lambda s, p: s.tells_progress and not p.tells_progress,
      mode="streamed"),
    P("stream_options.include_obfuscation", True, mode="streamed", why="nothing is padded"),
    # Sampling
    P("temperature", 2.0, differs, setting={"seed": 1, **ROOM}),
    P("top_p", 0.0, differs, setting=WARM),
    P("top_k", 1, differs, setting=WARM),
    P("min_p", 1.0, differs, setting=WARM),
    P("presence_penalty", 2.0, differs, setting=DIGITS),
    P("frequency_penalty", 2.0, differs, setting=DIGITS),
    P("repetition_penalty", 2.0, differs, setting=WARM),
    P("logit_bias", {"11": 100}, differs),
    P("seed", 2, differs, setting=WARM),
    P("stop", ["e"], lambda s, p: "e" not in s.texts[0] and "e" in p.texts[0]),
    P("max_tokens", 3, is_cut, api="chat"),
    P("max_completion_tokens", 3, is_cut, api="chat"),
    P("max_output_tokens", 3, is_cut, api="responses"),
    P("n", 2, lambda s, p: len(s.texts) == 2 and len(p.texts) == 1, api="chat"),
    P("logprobs", True, lambda s, p: bool(s.logprobs) and not p.logprobs, api="chat"),
    P("top_logprobs", 2, lambda s, p: len(s.logprobs[0]["top_logprobs"]) == 2,
      setting={"logprobs": True, "include": LOGPROBS}),
    P("include", LOGPROBS, lambda s, p: bool(s.logprobs) and not p.logprobs, api="responses"),
    # Thinking
    P("reasoning_effort", "none", stops_thinking, api="chat", setting=THINKING),
    P("reasoning.effort", "none", stops_thinking, api="responses", setting=THINKING),
    P("reasoning.summary", "auto", api="responses", why="thinking is always shown in full"),
    P("reasoning.generate_summary", "auto", api="responses", why="the older name of summary"),
    P("enable_thinking", False, stops_thinking, setting=THINKING),
    P("chat_template_kwargs", {"enable_thinking": False}, stops_thinking, setting=THINKING),
    P("keep_alive", "10m", why="seen in `/health`, after the answer",
      proof="tests.door.test_durations.test_a_request_says_how_long_the_model_stays"),
    P("max_reasoning_tokens", 2, lambda s, p: len(s.reasoning) < len(p.reasoning),
      setting={**THINKING, **ROOM}),
    # Structured output
    P("response_format", FORM, is_formed, api="chat", setting=ROOM),
    P("text.format", FORM, is_formed, api="responses", setting=ROOM),
    P("structured_outputs", {"json": ZONE}, is_formed, setting=ROOM),
    # Tools
    P("tools", [TOOL], reads_more, setting={"stream_options": {"include_usage": True}}),
    P("tool_choice", "required", has_called, setting={"tools": [TOOL], **ROOM}),
    P("parallel_tool_calls", False, has_called_once, setting=FORCED),
    P("max_tool_calls", 1, has_called_once, api="responses", setting=FORCED),
    P("functions", [FUNCTION], reads_more, api="chat",
      setting={"stream_options": {"include_usage": True}}),
    P("function_call", {"name": "get_time"}, has_called, api="chat",
      setting={"functions": [FUNCTION], **ROOM}),
    # The life of a response
    P("store", False, lambda s, p: (s.object["store"], p.object["store"]) == (False, True),
      api="responses"),
    P("background", True, lambda s, p: s.object["background"] and not p.object["background"],
      api="responses"),
    P("metadata", {"a": "b"}, why="chats are not stored"),
    P("user", "someone", why="nothing is counted by user"),
    P("safety_identifier", "someone", why="nothing is counted by user"),
    P("prompt_cache_key", "key", why="equal prefixes are found without it"),
    # Not ours
    P("modalities", ["text", "audio"], api="chat"),
    P("audio", {"voice": "alloy", "format": "mp3"}, api="chat"),
    P("prompt", {"id": "pmpt_1"}, api="responses"),
    P("verbosity", "low", api="chat", why="the models here were not trained for it"),
    P("text.verbosity", "low", api="responses", why="the models here were not trained for it"),
    P("prediction", {"type": "content", "content": "x"}, api="chat", why="it could only save time"),
    P("prompt_cache_options", {"a": "b"}, why="equal prefixes are found without it"),
    P("prompt_cache_retention", "24h", why="equal prefixes are found without it"),
    P("service_tier", "flex", why=ROUTING),
    P("store", True, api="chat", why="chats are not stored"),
    P("moderation", {"model": "x"}, why=THEIRS),
    P("web_search_options", {"search_context_size": "low"}, api="chat", why=THEIRS),
    P("context_management", [{"type": "compaction"}], api="responses",
      why="a client compacts by its own call"),
    P("background_options", {"a": "b"}, api="responses", why=THEIRS),
    P("access_programs", ["a"], api="responses", why=THEIRS),
    P("image", {"a": "b"}, api="responses", why=THEIRS),
)  # fmt: skip


# What is observed


def behaviour(parameter: Parameter, url: str, api: str, is_stream: bool) -> str:
    """What a server does with a parameter, seen from outside."""
    if not parameter.is_of(api) or (parameter.mode == "streamed" and not is_stream):
        return ABSENT
    without, body = parameter.bodies(url, api, is_stream)
    seen = send(url, api, body)
    if seen.status == 400:
        assert str(seen.object["error"]["param"]).split(".")[0] == parameter.root, seen.object
        return REFUSED
    assert seen.status == 200, (parameter.name, seen.object)
    if parameter.root == "stream" and not is_stream:
        return HONOURED if not seen.is_stream else IGNORED
    if parameter.proof:
        return HONOURED
    if parameter.shows and parameter.shows(seen, _plain(url, api, json.dumps(without))):
        return HONOURED
    return ECHOED if _echo(seen.object, parameter.name) == body[parameter.root] else IGNORED


@functools.cache
def _plain(url: str, api: str, body: str) -> Seen:
    """The answer without a parameter, which many probes share."""
    return send(url, api, json.loads(body))


def _echo(answer: Json, name: str) -> Value:
    root, _, rest = name.partition(".")
    found = answer.get(root)
    if isinstance(found, dict) and rest:
        return {key: value for key, value in found.items() if value is not None}
    return found


def observed(url: str) -> list[tuple[Parameter, list[str]]]:
    """Every parameter with its behaviour in each mode, one after another and then all together."""
    modes = [(api, is_stream) for api in APIS for is_stream in (False, True)]
    alone = [[behaviour(p, url, api, s) for api, s in modes] for p in PARAMETERS]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda p: _in_company(p, url), PARAMETERS))
    return [(p, [*a, t]) for p, a, t in zip(PARAMETERS, alone, together, strict=True)]


def _in_company(parameter: Parameter, url: str) -> str:
    api = parameter.api or "chat"
    return behaviour(parameter, url, api, is_stream=parameter.mode == "streamed")


def table(rows: Iterable[tuple[Parameter, list[str]]]) -> str:
    """The table in Markdown."""
    heads = ["parameter", "chat", "streamed", "response", "streamed", "among others", ""]
    lines = [heads, ["---"] * len(heads)]
    for parameter, cells in rows:
        lines.append([f"`{parameter.name}`", *cells, parameter.why])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between_markers(text: str) -> str:
    """What stands between the markers of a text."""
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), model=ROOT / "demo" / "model") as server,
    ):
        found = table(observed(server.base_url))
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(between_markers(text), found), encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()

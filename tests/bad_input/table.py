"""Requests that cannot be served, for every endpoint: what is sent, and what is expected of it.

A case is made from a body that can be served by putting one thing into it that cannot.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request that must be refused with a 4xx."""

    name: str
    method: str
    path: str
    body: bytes | None = None
    kind: str = "application/json"
    param: str | None = None
    """The parameter that the refusal must name, when there is one."""
    status: int | None = None
    """The one status that is right, when only one is."""
    headers: tuple[tuple[str, str], ...] = ()


CHAT: Json = {"messages": [{"role": "user", "content": "hi"}]}
RESPONSE: Json = {"input": "hi"}
COMPACT: Json = {"model": "demo", "input": "hi"}
MANY = 100_000
"""Of something wrong: what is told of it must stay short, and so must the time it takes."""
MANY_ARGUMENTS: list[tuple[int, Any]] = [(65, 1), (MANY, [])]
DEEP_LIST: Any = json.loads("[" * 100 + "]" * 100)
SURROGATE = "\ud800"
INFINITY = float("inf")
NOT_A_NUMBER = float("nan")
HUGE = 10**4200


def schema_of_depth(depth: int) -> Json:
    schema: Json = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def namespace(num_tools: int, name: str = "a") -> Json:
    tools = [{"type": "function", "name": f"f{number}"} for number in range(num_tools)]
    return {"type": "namespace", "name": name, "tools": tools}


def bomb() -> Json:
    """A compaction of some kilobytes that unfolds into some megabytes."""
    packed = zlib.compress(b"[" + b" " * 4_000_000 + b"]")
    digest = hashlib.blake2b(packed, digest_size=16, person=b"compaction").digest()
    sealed = base64.urlsafe_b64encode(digest + packed).decode()
    return {"type": "compaction", "encrypted_content": f"v1.{sealed}"}


def _of_type(*right: type) -> list[Any]:
    """A value of every type but these."""
    values: list[Any] = ["text", 7, 1.5, True, ["x"], {"a": "b"}]
    return [value for value in values if type(value) not in right]


FUNCTION: Json = {"name": "f", "parameters": {"type": "object"}}
TOOL: Json = {"type": "function", "function": FUNCTION}
FLAT_TOOL: Json = {"type": "function", **FUNCTION}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING: Json = {"role": "assistant", "tool_calls": [CALL]}
RESULT: Json = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
USER: Json = {"role": "user", "content": "hi"}

# Fields that both APIs have, with what they cannot be.
BIASES: list[Any] = [
    *({"x": 1}, {"1": "x"}, {"1": 101}, {"1": -101}, {"1": [1]}, {"1.5": 1}, {"": 1}),
    *({str(i): 1 for i in range(1025)}, {"1": INFINITY}, {"9" * 5000: 1}),
]
SHARED: list[tuple[str, list[Any]]] = [
    ("model", _of_type(str)),
    ("temperature", ["hot", ["x"], {"a": 1}, -0.1, 2.1, 1e300, INFINITY, NOT_A_NUMBER, HUGE]),
    ("top_p", ["x", ["x"], {"a": 1}, -0.01, 1.01, -1, INFINITY]),
    ("top_k", ["x", 1.5, ["x"], {"a": 1}, -2, -(10**20), INFINITY]),
    ("min_p", ["x", ["x"], -0.1, 1.1, NOT_A_NUMBER]),
    ("repetition_penalty", ["x", ["x"], 0, -1, 11, INFINITY]),
    ("presence_penalty", ["x", ["x"], -2.1, 2.1, INFINITY]),
    ("frequency_penalty", ["x", ["x"], -2.1, 2.1, INFINITY]),
    ("logit_bias", ["x", 7, ["x"], *BIASES]),
    ("top_logprobs", ["x", ["x"], -1, 21, 10**9, 1.5]),
    ("seed", ["x", ["x"], {"a": 1}, 1.5, INFINITY, HUGE]),
    ("stop", [7, {"a": 1}, [7], [["x"]], [None], ["x"] * 17, ["x" * 1001], "x" * 1001]),
    ("tools", ["x", 7, {"a": 1}, ["x"], [7], [[TOOL]], [TOOL] * 1001]),
    ("tool_choice", [7, ["x"], "sometimes", {"type": "function"}, "required", {"a": "b"}]),
    ("parallel_tool_calls", ["x", ["x"], {"a": 1}, 7]),
    ("stream", ["x", ["x"], {"a": 1}, 7]),
    ("enable_thinking", ["x", ["x"], {"a": 1}, 7]),
    ("keep_alive", ["x", ["x"], {"a": 1}, "1w", "", "9" * 400, INFINITY]),
    ("return_progress", ["x", ["x"], {"a": 1}, 7]),
    ("max_reasoning_tokens", ["x", ["x"], -1, 1.5, 10**10]),
    ("chat_template_kwargs", ["x", 7, ["x"], {"a": ["x"]}, {"a": {"b": 1}}]),
    ("chat_template_kwargs", [{str(i): wrong for i in range(n)} for n, wrong in MANY_ARGUMENTS]),
    (
        "structured_outputs",
        [
            *("x", 7, ["x"]),
            *(
                {"json": {}, "regex": "a"},
                {"json": "{"},
                {"json": 7},
                {"regex": 7},
                {"grammar": [1]},
            ),
            *({"choice": []}, {"choice": [1]}, {"choice": ["x"] * 1001}, {"choice": [""]}),
            *({"json": "[" * 5000}, {"json": json.dumps(schema_of_depth(65))}),
            *({"json": {"title": "x" * 300_000}}, {"regex": "x" * 300_000}, {"nothing": 1}),
        ],
    ),
]
FORMATS: list[Any] = [
    *("x", 7, ["x"]),
    {"type": "yaml"},
    {"type": 7},
    {"type": ["json_object"]},
    {"type": "json_schema"},
    {"type": "json_schema", "schema": "x"},
    {"type": "json_schema", "schema": 7},
    {"type": "json_schema", "schema": ["x"]},
    {"type": "json_schema", "json_schema": {"schema": "x"}},
    {"type": "json_schema", "schema": False},
    {"type": "json_schema", "schema": schema_of_depth(65)},
    {"type": "json_schema", "schema": {"description": "x" * 300_000}},
    {"name": "x"},
]
BAD_TOOLS: list[Json] = [
    {"type": "function"},
    {"type": "function", "function": {}},
    {"type": "function", "function": {"name": ""}},
    {"type": "function", "function": {"name": 7}},
    {"type": "function", "function": {"name": ["f"]}},
    {"type": "function", "function": {"name": {"f": 1}}},
    {"type": "function", "function": {"name": "f", "parameters": schema_of_depth(65)}},
    {"type": "function", "function": {"name": "f", "parameters": {"title": "x" * 300_000}}},
]
IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}
BAD_MESSAGES: list[Any] = [
    *("x", 7, None, ["x"]),
    {},
    {"content": "hi"},
    {"role": 7, "content": "hi"},
    {"role": ["user"], "content": "hi"},
    {"role": {"user": 1}, "content": "hi"},
    {"role": "user", "content": 7},
    {"role": "user", "content": {"text": "hi"}},
    {"role": "user", "content": [7]},
    {"role": "user", "content": ["hi"]},
    {"role": "user", "content": [{"type": 7}]},
    {"role": "user", "content": [{"type": "text", "text": 7}]},
    {"role": "user", "content": [IMAGE]},
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
    },
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]},
    {"role": "user", "content": "hi", "name": 7},
    {"role": "assistant", "tool_calls": "x"},
    {"role": "assistant", "tool_calls": ["x"]},
    {"role": "assistant", "tool_calls": [7]},
    {"role": "assistant", "function_call": "x"},
    {"role": "assistant", "content": "hi", "reasoning": 7},
    {"role": "tool", "tool_call_id": 7, "content": "42"},
    {"role": "tool", "tool_call_id": "never", "content": "42"},
    {"role": "tool", "content": "42"},
]
BAD_ITEMS: list[Any] = [
    *(7, True, ["x"], [["x"]]),
    {"role": "user", "content": 7},
    {"role": "user", "content": {"text": "hi"}},
    {"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1/"}]},
    {"role": "user", "content": [{"type": "input_image", "image_url": "gopher://x"}]},
    {"role": "user", "content": [{"type": "input_file", "file_id": "x"}]},
    {"role": "user", "content": [{"type": "input_audio"}]},
    {"type": "function_call"},
    {"type": "function_call", "name": 7, "arguments": "{}"},
    {"type": "function_call", "name": "", "arguments": "{}"},
    {"type": "custom_tool_call", "input": "x"},
    {"type": "item_reference"},
    {"type": "item_reference", "id": 7},
    {"type": "item_reference", "id": "msg_" + "0" * 32},
    {"type": "compaction"},
    {"type": "compaction", "encrypted_content": 7},
    {"type": "compaction", "encrypted_content": "v1.x"},
    {"type": "reasoning", "summary": 7},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]},
]
UNKNOWN_RESPONSE, UNKNOWN_CONVERSATION = "resp_" + "0" * 32, "conv_" + "0" * 32
BAD_IDS = [
    UNKNOWN_RESPONSE,
    "x",
    "resp_",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "%ff",
    "a" * 3000,
    "resp_'%20OR%201=1",
    "%E2%80%AE",
]


def cases() -> list[Case]:
    """All of them, each with a name of its own."""
    found = [
        *_of_chat(),
        *_of_responses(),
        *_of_conversations(),
        *_of_every_post(),
        *_of_addresses(),
    ]
    seen: Counter[str] = Counter()
    for index, case in enumerate(found):
        seen[case.name] += 1
        if seen[case.name] > 1:
            found[index] = replace(case, name=f"{case.name} ({seen[case.name]})")
    return found


def _posts(
    path: str, base: Json, field: str, values: Iterable[Any], param: str | None = ""
) -> Iterator[Case]:
    """The body with each of the values in one field. `param` is the field's name when empty."""
    for number, value in enumerate(values):
        body = {**copy.deepcopy(base), field: value}
        name = f"{path} {field} {number}"
        yield Case(name, "POST", path, _bytes(body), param=field if param == "" else param)


def _bytes(body: Any) -> bytes:
    return json.dumps(body).encode()


def _of_chat() -> Iterator[Case]:
    path = "/v1/chat/completions"
    for field, values in SHARED:
        yield from _posts(path, CHAT, field, values)
    yield from _posts(path, CHAT, "response_format", FORMATS)
    yield from _posts(path, CHAT, "n", ["x", ["x"], 0, -1, 17, 1.5, 10**30])
    for field in ("max_tokens", "max_completion_tokens"):
        yield from _posts(path, CHAT, field, ["x", ["x"], 0, -1, 1.5, 10**10, HUGE, INFINITY])
    yield from _posts(path, CHAT, "logprobs", ["x", ["x"], 7])
    yield from _posts(path, CHAT, "top_logprobs", [2], "top_logprobs")
    yield from _posts(path, CHAT, "stream_options", ["x", 7, ["x"], {"include_usage": "x"}])
    yield from _posts(path, CHAT, "functions", ["x", 7, ["x"], [{}], [{"name": 7}]], None)
    yield from _posts(path, CHAT, "function_call", [7, ["x"], {"name": "absent"}], None)
    yield from _posts(path, CHAT, "modalities", ["x", 7, ["audio"], [7]])
    yield from _posts(path, CHAT, "audio", ["x", 7, {"voice": "x"}])
    yield from _posts(path, CHAT, "reasoning_effort", [7, ["x"], {"a": 1}])
    yield from _posts(path, CHAT, "messages", ["x", 7, True, {}, [], None, {"a": 1}, DEEP_LIST])
    yield from _posts(path, CHAT, "messages", [[USER] * 10_001], "messages")
    yield from _posts(path, CHAT, "messages", [[m] for m in BAD_MESSAGES], "messages[0]")
    yield from _posts(path, CHAT, "messages", [[USER, m] for m in BAD_MESSAGES], "messages[1]")
    unanswered = [[USER, CALLING], [USER, CALLING, USER], [USER, CALLING, RESULT, RESULT]]
    yield from _posts(path, CHAT, "messages", unanswered, "messages[")
    endless = {"role": "assistant", "tool_calls": [CALL] * 1001}
    wrong_calls = {"role": "assistant", "tool_calls": [7] * MANY}
    wrong_parts: list[Json] = [{"role": "user", "content": [part] * MANY} for part in (7, {})]
    for message in (endless, wrong_calls, *wrong_parts):
        field = next(key for key in message if key != "role")
        yield from _posts(path, CHAT, "messages", [[message]], f"messages[0].{field}")
    yield from _posts(path, CHAT, "messages", [[7] * MANY, [{}] * 10_000], "messages")
    crowded = [[{"role": "user", "content": [{}] * 101}] * 1000]
    yield from _posts(path, CHAT, "messages", crowded, "messages")
    yield from _posts(path, CHAT, "modalities", [[7] * MANY, ["x"] * 1001])
    yield from _posts(path, CHAT, "tools", [[tool] for tool in BAD_TOOLS], "tools[0]")
    named = [{"type": "function", "function": {"name": n}} for n in (7, ["f"], {"f": 1}, "g")]
    named += [
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": t}}
        for t in ([], [7], [{"function": "f"}], [{"function": {"name": ["f"]}}], [TOOL] * 1001)
    ]
    yield from _posts(path, {**CHAT, "tools": [TOOL]}, "tool_choice", named)
    yield from _strange_texts(path, CHAT, ["model", "user", "reasoning_effort"])
    for number, message in enumerate([SURROGATE, [{"type": "text", "text": SURROGATE}]]):
        body = {"messages": [{"role": "user", "content": message}]}
        yield Case(f"{path} surrogate {number}", "POST", path, _bytes(body), param="messages[0]")


def _strange_texts(path: str, base: Json, fields: Iterable[str]) -> Iterator[Case]:
    for field in fields:
        yield from _posts(path, base, field, [SURROGATE + "x"])


def _of_responses() -> Iterator[Case]:
    path = "/v1/responses"
    for field, values in SHARED:
        # Without `include`, log-probabilities are not asked for, and a number of them is no harm.
        yield from _posts(path, RESPONSE, field, values)
    yield from _posts(path, RESPONSE, "input", [7, True, {"a": 1}, None, [], {}])
    yield from _posts(path, RESPONSE, "input", [["x"] * 10_001], "input")
    yield from _posts(path, RESPONSE, "input", [[item] for item in BAD_ITEMS], "input[0]")
    yield from _posts(path, RESPONSE, "input", [["x", item] for item in BAD_ITEMS], "input[1]")
    yield from _posts(path, RESPONSE, "text", ["x", 7, ["x"]])
    forms = [{"format": form} for form in FORMATS]
    yield from _posts(path, RESPONSE, "text", forms, "text.format")
    yield from _posts(path, RESPONSE, "max_output_tokens", ["x", ["x"], 0, -1, 1.5, 10**10])
    yield from _posts(path, RESPONSE, "max_tool_calls", ["x", -1, 1.5, ["x"]])
    for field in ("instructions", "user", "safety_identifier", "prompt_cache_key"):
        yield from _posts(path, RESPONSE, field, [7, ["x"], {"a": 1}, SURROGATE])
    ids = [7, ["x"], {"a": 1}, "x", UNKNOWN_RESPONSE, "resp_" + "f" * 5000]
    yield from _posts(path, RESPONSE, "previous_response_id", ids)
    yield from _posts(path, RESPONSE, "conversation", [7, ["x"], {"a": 1}, {"id": 7}, "x"])
    yield from _posts(path, RESPONSE, "truncation", [7, "always", ["x"]])
    yield from _posts(path, RESPONSE, "reasoning", ["x", 7, ["x"], {"effort": 7}])
    yield from _posts(path, RESPONSE, "include", ["x", 7, {"a": 1}, [7]])
    yield from _posts(path, RESPONSE, "store", ["x", 7, ["x"]])
    yield from _posts(path, RESPONSE, "background", ["x", 7, ["x"]])
    yield from _posts(path, {**RESPONSE, "store": False}, "background", [True])
    pairs = [{str(i): "x" for i in range(17)}, {"a": 1}, {"a": None}, {"a": ["x"]}, "x", 7, ["x"]]
    yield from _posts(path, RESPONSE, "metadata", pairs)
    yield from _posts(path, RESPONSE, "prompt", ["x", 7, {"id": "pmpt_1"}])
    yield from _posts(path, RESPONSE, "input", [[7] * MANY], "input")
    yield from _posts(path, RESPONSE, "include", [[7] * MANY, ["x"] * 1001])
    yield from _posts(path, RESPONSE, "metadata", [{str(i): 7 for i in range(MANY)}])
    yield from _posts(path, RESPONSE, "tools", [[namespace(1001)]], "tools[0].tools")
    two = [namespace(600), namespace(600, "b")]
    yield from _posts(path, RESPONSE, "tools", [two], "tools[1].tools[400]")
    many = {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "f"}] * 1001}
    yield from _posts(path, {**RESPONSE, "tools": [FLAT_TOOL]}, "tool_choice", [many])
    yield from _posts(path, RESPONSE, "input", [[bomb()], [bomb()] * 500], "input[0].encrypted")
    bad = [{**tool, **tool.pop("function", {})} for tool in copy.deepcopy(BAD_TOOLS)]
    yield from _posts(path, RESPONSE, "tools", [[tool] for tool in bad], "tools[0]")
    yield from _strange_texts(path, RESPONSE, ["model", "input", "instructions"])
    for sub, base in (("/input_tokens", RESPONSE), ("/compact", COMPACT)):
        yield from _posts(path + sub, base, "input", [7, {"a": 1}, [7], [BAD_ITEMS[5]], ["x", 7]])
        yield from _posts(path + sub, base, "previous_response_id", [7, "x", UNKNOWN_RESPONSE])
        yield from _posts(path + sub, base, "tools", ["x", [7], [{"type": "function"}]])
    yield Case("compact without a model", "POST", f"{path}/compact", b'{"input": "hi"}')


def _of_conversations() -> Iterator[Case]:
    path = "/v1/conversations"
    yield from _posts(path, {}, "items", ["x", 7, {"a": 1}, [7], [BAD_ITEMS[4]], [None] * 10_001])
    pairs = [{str(i): "x" for i in range(17)}, {"a": 1}, "x", 7, ["x"]]
    yield from _posts(path, {}, "metadata", pairs)
    one = f"{path}/{UNKNOWN_CONVERSATION}"
    yield from _posts(one, {}, "metadata", [{"a": "b"}, {"a": 1}, "x"], None)
    yield from _posts(f"{one}/items", {}, "items", [["x"], [], [7], "x", [BAD_ITEMS[6]]], None)
    for method in ("GET", "DELETE"):
        yield Case(f"{method} {one}/items/x", method, f"{one}/items/msg_x", status=404)


def _of_every_post() -> Iterator[Case]:
    """What is wrong with a body that no route may see."""
    good = {
        "/v1/chat/completions": CHAT,
        "/v1/responses": RESPONSE,
        "/v1/responses/input_tokens": RESPONSE,
        "/v1/responses/compact": COMPACT,
        "/v1/conversations": {},
    }
    for path, base in good.items():
        for name, kind in {
            "text": "text/plain",
            "form": "application/x-www-form-urlencoded",
            "multipart": "multipart/form-data; boundary=x",
            "none": "",
            "html": "text/html",
            "jsonish": "application/jsonx",
        }.items():
            yield Case(f"{path} as {name}", "POST", path, _bytes(base), kind, status=415)
        for encoding in ("gzip", "br", "deflate", "gzip, identity"):
            headers = (("content-encoding", encoding),)
            yield Case(
                f"{path} in {encoding}", "POST", path, _bytes(base), status=415, headers=headers
            )
        for wrong in (["x"], "x", 7, True):
            name = f"{path} is {wrong!r}"
            yield Case(name, "POST", path, _bytes(wrong), status=422)
        deep = b'{"x":' * 129 + b"1" + b"}" * 129
        yield Case(f"{path} is deep", "POST", path, deep, status=400)
        yield Case(f"{path} is endless", "POST", path, b"[" * 1_000_000, status=400)
        for name, value in {"nan": "NaN", "inf": "-Infinity", "big": "1e999"}.items():
            body = b'{"anything": {"at": [%b]}}' % value.encode()
            yield Case(f"{path} has {name}", "POST", path, body, param="anything.at[0]")
        many = b'{"x": [%s]}' % b",".join([b"1"] * 1_000_001)
        yield Case(f"{path} holds too much", "POST", path, many, status=400)
        half = b'{"\\ud800": 1}'
        yield Case(f"{path} has half a pair", "POST", path, half, status=400)


def _of_addresses() -> Iterator[Case]:
    """Ids that nobody has, queries that mean nothing, methods and paths that are not there."""
    for number, id in enumerate(BAD_IDS):
        for method, path in (
            ("GET", f"/v1/responses/{id}"),
            ("DELETE", f"/v1/responses/{id}"),
            ("POST", f"/v1/responses/{id}/cancel"),
            ("GET", f"/v1/responses/{id}/input_items"),
            ("GET", f"/v1/conversations/{id}"),
            ("DELETE", f"/v1/conversations/{id}"),
            ("GET", f"/v1/conversations/{id}/items"),
            ("GET", f"/v1/models/{id}"),
            ("GET", f"/conversations/{id}"),
            ("GET", f"/conversations/{id}/export"),
            ("DELETE", f"/conversations/{id}"),
        ):
            yield Case(f"{method} {path[:30]} of id {number}", method, path, status=404)
    one = f"/v1/responses/{UNKNOWN_RESPONSE}"
    for query in ("stream=perhaps", "starting_after=x", "stream=true&starting_after=1.5"):
        yield Case(f"GET ?{query}", "GET", f"{one}?{query}", status=422)
    for query in ("limit=x", "order=up", "limit=1e3", f"limit={'9' * 5000}", "limit=", "order="):
        param = query.partition("=")[0]
        for where in (f"{one}/input_items", f"/v1/conversations/{UNKNOWN_CONVERSATION}/items"):
            address = f"{where}?{query}"
            yield Case(f"GET {where[:20]} ?{query[:20]}", "GET", address, param=param, status=422)
    yield from _of_the_browser()
    for method, path in (
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/chat/completions"),
        ("DELETE", "/v1/chat/completions"),
        ("PATCH", "/v1/responses"),
        ("DELETE", "/v1/models"),
        ("POST", "/v1/models"),
        ("POST", "/health"),
        ("DELETE", "/health"),
        ("PUT", "/v1/conversations"),
        ("PATCH", f"/v1/conversations/{UNKNOWN_CONVERSATION}"),
        ("POST", "/conversations"),
        ("DELETE", "/conversations"),
        ("PUT", f"/conversations/{UNKNOWN_CONVERSATION}"),
        ("POST", f"/conversations/{UNKNOWN_CONVERSATION}/export"),
        ("POST", "/metrics"),
        ("DELETE", "/metrics"),
        ("TRACE", "/v1/models"),
        ("BREW", "/v1/models"),
    ):
        body = b"{}" if method == "POST" else None
        yield Case(f"{method} {path}", method, path, body, status=405)
    for path in ("/v1", "/v1/", "/v1/embeddings", "/v1/files", "/v2/chat/completions", "/.env"):
        yield Case(f"GET {path}", "GET", path, status=404)
    yield Case("GET up", "GET", "/v1/..%2f..%2fetc/passwd", status=404)
    for number, host in enumerate(("evil.example", "localhost.evil.example", "127.0.0.1.nip.io")):
        yield Case(f"host {number}", "GET", "/health", headers=(("host", host),), status=403)


def _of_the_browser() -> Iterator[Case]:
    """Queries of the conversation browser that mean nothing, and pages that may not look."""
    for query, status in (
        *(("limit=x", 422), ("limit=1.5", 422), ("limit=", 422)),
        *(("limit=0", 400), ("limit=-1", 400), ("limit=101", 400), (f"limit={10**17}", 400)),
        *(("after=absent", 400), (f"after={UNKNOWN_CONVERSATION}", 400), ("after=%00", 400)),
        (f"q={'x' * 3000}", 400),
    ):
        param = query.partition("=")[0]
        address = f"/conversations?{query}"
        yield Case(f"GET {address[:40]}", "GET", address, param=param, status=status)
    export = f"/conversations/{UNKNOWN_CONVERSATION}/export"
    for form in ("pdf", "MD", "", "md,json"):
        address = f"{export}?format={form}"
        yield Case(f"export as {form}", "GET", address, param="format", status=422)
    yield Case("export of a branch", "GET", f"{export}?response_id=x", status=404)
    foreign = (("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"))
    for path in ("/conversations", f"/conversations/{UNKNOWN_CONVERSATION}", export, "/metrics"):
        yield Case(f"{path} from elsewhere", "GET", path, headers=foreign, status=403)

"""Two hundred calls that a model which knows nothing is made to make: valid, streamed and whole."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests import demo
from tests.inference.schemas import Schemas
from tests.oracle import events
from tests.serving import Running, running

Json = dict[str, Any]
Call = tuple[str, str]
"""Name and arguments."""
WAYS = ("required", "named", "strict")
CALL = "<tool_call>"
ENOUGH = 200
NUM_AT_ONCE = 24
"""Questions, each of which is asked twice."""
MAX_ROUNDS = 10


@pytest.fixture(scope="module")
def random_server(
    random_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("random-server")
    with running(folder, "--max-batch", "64", model=random_model) as server:
        yield server


@pytest.fixture(scope="module")
def bias() -> Mapping[str, float]:
    """Towards an end, or another call: a model that knows nothing rarely finds one."""
    tokens = json.loads((demo.FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokens["model"]["vocab"]
    closing = [vocabulary[char] for char in '"}]'] + demo.ENDS
    liked = dict.fromkeys(closing, 4.0) | {vocabulary["\u010a"]: 6.0}  # a line, in byte-level BPE
    calling = {added["id"]: 12.0 for added in tokens["added_tokens"] if added["content"] == CALL}
    return {str(token): weight for token, weight in (liked | calling).items()}


def question(number: int, bias: Mapping[str, float]) -> tuple[str, Json, Mapping[str, Any]]:
    """An API, a request, and the schemas of its tools."""
    way, source = WAYS[number % 3], Schemas(number)
    schemas = {f"tool{i}": source.closed(2 - i) for i in range(2)}
    inner = [{"name": n, "parameters": s, "strict": way == "strict"} for n, s in schemas.items()]
    named = {"type": "function", "name": "tool0", "function": {"name": "tool0"}}
    # A strict tool is called when the model chooses to: this one does.
    choices: Mapping[str, Any] = {"required": "required", "named": named, "strict": "auto"}
    body = {
        "tools": [{"type": "function", **tool, "function": tool} for tool in inner],
        "tool_choice": choices[way],
        "parallel_tool_calls": number % 4 != 0,
        "enable_thinking": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": number,
        "logit_bias": bias,
    }
    if number // 3 % 2:
        return "responses", {**body, "input": "Hello!", "max_output_tokens": 160}, schemas
    messages = [{"role": "user", "content": "Hello!"}]
    return "chat/completions", {**body, "messages": messages, "max_tokens": 160}, schemas


def calls_of_chat(answer: Json) -> list[Call]:
    (choice,) = answer["choices"]
    calls = choice["message"].get("tool_calls") or []
    assert (choice["finish_reason"] == "tool_calls") is bool(calls) or cut(choice)
    found = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return [] if cut(choice) else found


def cut(choice: Json) -> bool:
    return bool(choice["finish_reason"] == "length")


def calls_of_chunks(chunks: list[Json]) -> list[Call]:
    names: dict[int, str] = {}
    arguments: Counter[int] = Counter()
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if cut(choice):
                return []
            for call in choice["delta"].get("tool_calls") or ():
                index, function = call["index"], call["function"]
                assert ("name" in function) is (index not in names)
                names.setdefault(index, function.get("name", ""))
                texts[index] = texts.get(index, "") + function["arguments"]
                arguments[index] += 1
    # The first piece is empty, and opens the call; then they come as they are written.
    assert all(number > 2 for index, number in arguments.items() if len(texts[index]) > 20)
    return [(names[index], texts[index]) for index in sorted(names)]


def calls_of_response(response: Json) -> list[Call]:
    items = [item for item in response["output"] if item["type"] == "function_call"]
    is_whole = response["status"] == "completed"
    return [(item["name"], item["arguments"]) for item in items] if is_whole else []


def calls_of_events(told: list[Json]) -> list[Call]:
    texts: dict[str, str] = {}
    for event in told:
        if event["type"] == "response.function_call_arguments.delta":
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
        if event["type"] == "response.function_call_arguments.done":
            assert texts[event["item_id"]] == event["arguments"]
    last = told[-1]["response"]
    for item in last["output"]:
        assert item["type"] != "function_call" or texts[item["id"]] == item["arguments"]
    return calls_of_response(last)


async def asked(client: httpx.AsyncClient, api: str, body: Json) -> tuple[list[Call], list[Call]]:
    """The calls of the whole answer, and of the streamed one."""
    whole, streamed = await asyncio.gather(
        *(client.post(api, json={**body, "stream": is_stream}) for is_stream in (False, True))
    )
    assert (whole.status_code, streamed.status_code) == (200, 200), (whole.text, streamed.text)
    told = events(streamed.text)[:-1]
    if api == "responses":
        return calls_of_response(whole.json()), calls_of_events(told)
    return calls_of_chat(whole.json()), calls_of_chunks(told)


def test_calls_that_must_come_are_valid_and_stream_to_what_they_are(
    random_server: Running, bias: Mapping[str, float]
) -> None:
    number_of: Counter[str] = Counter()
    most = 0

    async def ask_some(first: int) -> None:
        nonlocal most
        questions = [question(n, bias) for n in range(first, first + NUM_AT_ONCE)]
        url = f"{random_server.base_url}/v1/"
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            answers = await asyncio.gather(*(asked(client, api, b) for api, b, _ in questions))
        for (_, body, schemas), (whole, streamed) in zip(questions, answers, strict=True):
            assert whole == streamed
            way = WAYS[body["seed"] % 3]
            assert body["parallel_tool_calls"] or len(whole) < 2
            most = max(most, len(whole))
            for name, arguments in whole:
                assert way != "named" or name == "tool0"
                jsonschema.Draft202012Validator(schemas[name]).validate(json.loads(arguments))
                number_of[way] += 2

    for turn in range(MAX_ROUNDS):
        asyncio.run(ask_some(turn * NUM_AT_ONCE))
        if sum(number_of.values()) >= ENOUGH and min(number_of[way] for way in WAYS) > 20:
            break
    print(dict(number_of))
    assert sum(number_of.values()) >= ENOUGH and min(number_of[way] for way in WAYS) > 20
    assert most > 1

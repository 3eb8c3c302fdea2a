"""A name is remembered: over hops and branches, past the end of memory, past a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests import demo
from tests.serving import Running, running, start, wait_until

NAME = "My name is Zorblat."
QUESTION = "What is my name?"


def client_of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def client(demo_server: Running) -> Iterator[openai.OpenAI]:
    with client_of(demo_server) as client:
        yield client


def ask(client: openai.OpenAI, text: str, after: Response | None = None, **more: Any) -> Response:
    options: dict[str, Any] = {"previous_response_id": after.id} if after else {}
    response = client.responses.create(
        model="demo",
        input=text,
        **{"temperature": 0, "max_output_tokens": 300, **options, **more},
    )
    assert isinstance(response, Response)
    return response


def archived(folder: Path) -> list[Path]:
    return sorted((folder / "conversation_logs").glob("*.json"))


def is_archived(folder: Path, response: Response) -> bool:
    return any(response.id in file.read_text() for file in archived(folder))


def test_through_three_hops(client: openai.OpenAI) -> None:
    response = ask(client, NAME)
    for text in ("What is 3 + 4?", "Hello!"):
        response = ask(client, text, response)
    assert "Zorblat" in ask(client, QUESTION, response).output_text


def test_through_a_branch(client: openai.OpenAI) -> None:
    root = ask(client, "Hello!")
    branches = {name: ask(client, f"My name is {name}.", root) for name in ("Zorblat", "Quixam")}
    for name, branch in branches.items():
        assert name in ask(client, QUESTION, branch).output_text


def test_through_a_conversation(client: openai.OpenAI) -> None:
    id = client.conversations.create().id
    ask(client, NAME, conversation=id)
    ask(client, "What is 3 + 4?", conversation=id)
    assert "Zorblat" in ask(client, QUESTION, conversation=id).output_text


def test_not_where_it_was_never_said(client: openai.OpenAI) -> None:
    ask(client, NAME)
    assert "Zorblat" not in ask(client, QUESTION).output_text


@pytest.mark.parametrize("is_thinking", [True, False])
def test_a_follow_up_finds_its_past_computed(client: openai.OpenAI, is_thinking: bool) -> None:
    told = f"{NAME} I live in a small town, thinking {is_thinking}."
    options: dict[str, Any] = {"extra_body": {"enable_thinking": is_thinking}}
    first = ask(client, told, **options)
    second = ask(client, QUESTION, first, **options)
    assert any(item.type == "reasoning" for item in first.output) is is_thinking
    assert first.usage
    assert second.usage
    assert second.usage.input_tokens_details.cached_tokens > 0
    assert second.usage.input_tokens > second.usage.input_tokens_details.cached_tokens


def test_past_the_end_of_memory(float32_model: Path, tmp_path: Path) -> None:
    flags = ("--conversation-ttl", "0.2")
    with running(tmp_path, *flags, model=float32_model) as server, client_of(server) as client:
        response = ask(client, NAME)
        wait_until(lambda: is_archived(tmp_path, response), "it is archived")
        assert "Zorblat" in ask(client, QUESTION, response).output_text
        id = client.conversations.create().id
        ask(client, NAME, conversation=id)
        wait_until(
            lambda: any(id in f.name and NAME in f.read_text() for f in archived(tmp_path)),
            "the conversation object is archived",
        )
        assert "Zorblat" in ask(client, QUESTION, conversation=id).output_text


def test_not_when_it_may_not_be_revived(float32_model: Path, tmp_path: Path) -> None:
    flags = ("--conversation-ttl", "0.2", "--no-revive")
    with running(tmp_path, *flags, model=float32_model) as server, client_of(server) as client:
        response = ask(client, NAME)
        error = None
        while error is None:  # being asked for in the moment in which it leaves, it stays
            wait_until(partial(is_archived, tmp_path, response), "it is archived")
            try:
                response = ask(client, QUESTION, response)
            except openai.BadRequestError as refusal:
                error = refusal
        (file,) = archived(tmp_path)
        assert error.code == "previous_response_not_found"
        assert "expired at" in error.message
        assert file.name in error.message


def test_past_a_restart(float32_model: Path, tmp_path: Path) -> None:
    server = start(tmp_path, model=float32_model)
    with client_of(server) as client:
        response = ask(client, NAME)
        id = client.conversations.create(metadata={"k": "v"}).id
        ask(client, NAME, conversation=id)
        unkept = ask(client, "My name is Quixam.", store=False)
    assert server.stop() == 0
    for file in archived(tmp_path):
        assert file.stat().st_mode & 0o777 == 0o600
        assert unkept.id not in file.read_text()
        assert "Quixam" not in file.read_text()
    with running(tmp_path, model=float32_model) as server, client_of(server) as client:
        assert client.responses.retrieve(response.id) == response
        assert "Zorblat" in ask(client, QUESTION, response).output_text
        assert client.conversations.retrieve(id).metadata == {"k": "v"}
        assert "Zorblat" in ask(client, QUESTION, conversation=id).output_text
        client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)


@pytest.mark.parametrize(
    ("drain", "options", "status"),
    [
        ("30", {"max_output_tokens": 2000}, "completed"),
        (
            "0",
            {"max_output_tokens": 3000, "extra_body": {"logit_bias": demo.NEVER_END}},
            "failed",
        ),
    ],
)
def test_a_response_in_the_background_is_not_lost_when_the_server_stops(
    float32_model: Path, tmp_path: Path, drain: str, options: dict[str, Any], status: str
) -> None:
    server = start(tmp_path, "--drain", drain, model=float32_model)
    with closing(client_of(server)) as client:
        response = ask(client, "Tell me a story about a fox.", background=True, **options)
        wait_until(lambda: client.responses.retrieve(response.id).output, "the first word")
    assert server.stop() == 0
    (file,) = archived(tmp_path)
    (turn,) = json.loads(file.read_text())["turns"]
    assert (turn["response"]["id"], turn["response"]["status"]) == (response.id, status)

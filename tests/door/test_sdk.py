"""A chat with the demo model, through the OpenAI SDK, as a user has it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from tests import demo
from tests.oracle import assert_envelope, validated
from tests.serving import Running, wait_until

QUESTIONS = [
    "Hello!",
    "Who are you?",
    "What is 3 + 4?",
    "Count from 1 to 20.",
    "Tell me a story about a fox.",
    "What is the capital of France?",
    "Say hello in Japanese.",
    "Show me a rocket emoji.",
]


@pytest.fixture
def client(demo_server: Running) -> Iterator[openai.OpenAI]:
    url = f"{demo_server.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, *messages: Any, **options: Any) -> ChatCompletion:
    turns = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    answer = client.chat.completions.create(
        model="demo", messages=turns, **{"temperature": 0, **options}
    )
    assert isinstance(answer, ChatCompletion)
    return answer


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def streamed(client: openai.OpenAI, question: str, **options: Any) -> dict[str, Any]:
    """What a reader of the stream has at its end."""
    chunks = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        **{"temperature": 0, **options},
    )
    content, reasoning, finish, usage = "", "", None, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
    assert usage
    return {
        "content": content,
        "reasoning": reasoning,
        "finish": finish,
        "tokens": usage.completion_tokens,
    }


def whole(client: openai.OpenAI, question: str, **options: Any) -> dict[str, Any]:
    answer = ask(client, question, **options)
    message = answer.choices[0].message
    assert answer.usage
    return {
        "content": message.content,
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "finish": answer.choices[0].finish_reason,
        "tokens": answer.usage.completion_tokens,
    }


def test_it_greets(client: openai.OpenAI) -> None:
    answer = ask(client, "Hello!")
    validated(ChatCompletion, answer.model_dump(exclude_unset=True))
    assert "hello" in text_of(answer).lower()
    assert answer.choices[0].finish_reason == "stop"


def test_it_remembers_a_name_over_three_turns(client: openai.OpenAI) -> None:
    turns: list[Any] = []
    for question in ("My name is Zorblat.", "What is 3 + 4?", "What is my name?"):
        turns.append({"role": "user", "content": question})
        answer = ask(client, *turns)
        turns.append({"role": "assistant", "content": text_of(answer)})
    assert "Zorblat" in text_of(answer)


def test_a_follow_up_finds_its_prefix_computed(client: openai.OpenAI) -> None:
    first = {"role": "user", "content": "My name is Zorblat and I live in a very small town."}
    answer = ask(client, first, max_tokens=20)
    again = ask(
        client, first, {"role": "assistant", "content": text_of(answer)}, "And you?", max_tokens=5
    )
    assert again.usage and again.usage.prompt_tokens_details
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0


def test_a_long_story_is_the_same_streamed_and_whole(client: openai.OpenAI) -> None:
    story = "Tell me a story about a fox."
    read = streamed(client, story)
    assert read == whole(client, story)
    assert read["tokens"] >= 200
    assert read["finish"] == "stop"


def test_an_emoji_arrives_whole(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Show me a rocket emoji."}],
            stream=True,
            temperature=0,
        )
    )
    deltas = [c.choices[0].delta.content or "" for c in chunks]
    assert any("🚀" in delta for delta in deltas)
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize("cut", ["apital", "Fran", "l of Fr", "P"])
def test_a_stop_string_cuts_inside_a_word(client: openai.OpenAI, cut: str) -> None:
    question = "What is the capital of France?"
    uncut = text_of(ask(client, question))
    assert cut in uncut
    for read in (
        streamed(client, question, stop=cut),
        whole(client, question, stop=["never", cut]),
    ):
        assert read["content"] == uncut[: uncut.index(cut)]
        assert read["finish"] == "stop"


def test_thinking_stands_beside_the_answer_and_can_be_turned_off(client: openai.OpenAI) -> None:
    thinking = whole(client, "What is 3 + 4?")
    assert thinking["reasoning"]
    assert "7" in thinking["content"]
    assert "<think>" not in thinking["content"] + thinking["reasoning"]
    plain = whole(client, "What is 3 + 4?", extra_body={"enable_thinking": False})
    assert plain["reasoning"] == ""
    assert "7" in plain["content"]


def test_it_calls_a_tool_and_answers_from_the_result(client: openai.OpenAI) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    question = "What is the weather in Kelmora?"
    answer = ask(client, question, tools=[tool])
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Kelmora"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "snow"}
    asked = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
    answer = ask(client, question, asked, result, tools=[tool])
    assert "snow" in text_of(answer)


def test_usage_is_exact(client: openai.OpenAI) -> None:
    read = whole(client, "Tell me a story.", max_tokens=17)
    assert (read["tokens"], read["finish"]) == (17, "length")
    assert streamed(client, "Tell me a story.", max_tokens=17)["tokens"] == 17
    one = ask(client, "Tell me a story.", max_tokens=1).usage
    assert one
    assert one.completion_tokens == 1
    assert one.total_tokens == one.prompt_tokens + 1


def test_logprobs_name_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    answer = ask(
        client, "Hello!", logprobs=True, top_logprobs=3, extra_body={"enable_thinking": False}
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content
    raw = b"".join(bytes(entry.bytes or b"") for entry in logprobs.content)
    assert raw.decode() == text_of(answer)
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)


def test_a_seed_gives_the_same_answer_again(client: openai.OpenAI) -> None:
    told = [
        text_of(ask(client, "Tell me a story.", seed=s, temperature=1.2, max_tokens=60))
        for s in (1, 1, 2)
    ]
    assert told[0] == told[1] != told[2]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(question=st.text(min_size=1, max_size=60), seed=st.integers(0, 2**31))
def test_deltas_join_to_the_whole_answer_for_every_prompt(
    client: openai.OpenAI, question: str, seed: int
) -> None:
    options = {"seed": seed, "temperature": 1.5, "max_tokens": 20}
    assert streamed(client, question, **options) == whole(client, question, **options)


# Together


def test_sixteen_at_once_are_answered_as_each_alone(client: openai.OpenAI) -> None:
    alone = {question: streamed(client, question) for question in QUESTIONS}
    crowd = QUESTIONS * 2
    with ThreadPoolExecutor(len(crowd)) as pool:
        together = list(pool.map(lambda q: streamed(client, q), crowd))
    assert together == [alone[question] for question in crowd]


def test_one_joins_while_a_long_prompt_is_computed(client: openai.OpenAI) -> None:
    long = "Tell me a story about a fox. " * 200
    options = {"max_tokens": 40}
    alone = streamed(client, "Hello!", **options)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(streamed, client, long, **options)
        second = pool.submit(streamed, client, "Hello!", **options)
        assert second.result() == alone
    assert first.result() == streamed(client, long, **options)
    usage = ask(client, long, max_tokens=1).usage
    assert usage and usage.prompt_tokens > 1500


def open_stream(server: Running, **body: Any) -> socket.socket:
    """Send a request and hold its socket."""
    address = urlsplit(server.base_url)
    assert address.hostname and address.port
    sent = json.dumps({"messages": [{"role": "user", "content": "Tell me a story."}], **body})
    client = socket.create_connection((address.hostname, address.port))
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    client.sendall((head + sent).encode())
    return client


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_in_the_middle_frees_its_place(
    demo_server: Running, is_stream: bool
) -> None:
    body = {"stream": is_stream, "logit_bias": demo.NEVER_END, "max_tokens": 2000}
    client = open_stream(demo_server, **body)
    wait_until(lambda: demo_server.health().json()["queue"]["running"] == 1, "it runs")
    if is_stream:
        assert b"data: " in client.recv(4096)
    client.close()
    assert demo_server.wait_until_idle() == {"running": 0, "waiting": 0}


def test_a_client_killed_before_the_first_token_frees_its_place(demo_server: Running) -> None:
    code = (
        "import httpx, sys; print('sent', flush=True); httpx.post(sys.argv[1], timeout=600, json="
        "{'messages': [{'role': 'user', 'content': 'A new prompt. ' * 180}], 'max_tokens': 100})"
    )
    url = f"{demo_server.base_url}/v1/chat/completions"
    killed = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE)
    wait_until(lambda: demo_server.health().json()["queue"]["running"] == 1, "it is computed")
    killed.kill()
    killed.wait()
    if killed.stdout:
        killed.stdout.close()
    assert demo_server.wait_until_idle() == {"running": 0, "waiting": 0}


# Refusals


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(demo_server: Running) -> None:
    answer = httpx.post(
        f"{demo_server.base_url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "word " * 5000}]},
        timeout=30,
    )
    assert answer.status_code == 400
    error = assert_envelope(answer.json())
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    window = demo_server.health().json()["context_window"]
    numbers = [int(n) for n in re.findall(r"\d+", error["message"])]
    assert numbers[0] == window < numbers[1]


@pytest.mark.parametrize("token", [-1, demo.VOCAB_SIZE, 9999999])
def test_a_token_outside_the_vocabulary_never_reaches_mlx(demo_server: Running, token: int) -> None:
    answer = httpx.post(
        f"{demo_server.base_url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hi"}], "logit_bias": {str(token): 5}},
    )
    assert answer.status_code == 400
    assert assert_envelope(answer.json())["param"] == "logit_bias"
    assert demo_server.health().status_code == 200


def test_nothing_of_a_chat_is_in_the_log(client: openai.OpenAI, demo_server: Running) -> None:
    ask(client, "My name is Quibbleworth.")
    log = demo_server.log.read_text(encoding="utf-8")
    assert "Quibbleworth" not in log
    assert "200 POST /v1/chat/completions  prompt " in log

"""The integration client: what every user's client does, tried against a running server.

    python test_server.py --base-url http://127.0.0.1:8080

prints a report and exits with 1 when something failed. Under pytest it starts a server of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

try:
    import httpx
except ImportError:
    sys.exit("This client needs httpx: pip install httpx")

Check = Callable[[httpx.Client], str]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Make a function a check. It returns a line for the report, or fails an assertion."""
    CHECKS.append(function)
    return function


def chat(client: httpx.Client, *questions: str, **options: Any) -> dict[str, Any]:
    """Ask, and return the whole answer."""
    body = {"messages": [{"role": "user", "content": q} for q in questions], "temperature": 0}
    answer = client.post("/v1/chat/completions", json={**body, **options})
    assert answer.status_code == 200, answer.text[:300]
    found: dict[str, Any] = answer.json()
    return found


def respond(client: httpx.Client, text: str, **options: Any) -> dict[str, Any]:
    """Ask for a response, and return it whole."""
    body = {"input": text, "max_output_tokens": 300, "temperature": 0}
    answer = client.post("/v1/responses", json={**body, **options})
    assert answer.status_code == 200, answer.text[:300]
    found: dict[str, Any] = answer.json()
    return found


def output_text(response: dict[str, Any]) -> str:
    """What a response says, its thoughts aside."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stream up to `[DONE]`, without which it has not ended well."""
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()[:300]
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")


@check
def health(client: httpx.Client) -> str:
    answer = client.get("/health")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "ok"
    return f"{body['model']}, context {body['context_window']} tokens, up {body['uptime_s']:.0f} s"


@check
def models(client: httpx.Client) -> str:
    entries = client.get("/v1/models").json()["data"]
    assert entries
    assert client.get(f"/v1/models/{entries[0]['id']}").json() == entries[0]
    return ", ".join(entry["id"] for entry in entries)


@check
def chat_completion(client: httpx.Client) -> str:
    answer = chat(client, "Hello!", max_tokens=200)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] in ("stop", "length")
    assert "<think>" not in (choice["message"]["content"] or "")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return repr((choice["message"]["content"] or "")[:60])


@check
def chat_streamed(client: httpx.Client) -> str:
    body = {
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 200,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    began, first, said, usage = time.perf_counter(), 0.0, "", None
    for chunk in events(client, "/v1/chat/completions", body):
        usage = chunk["usage"] or usage
        for choice in chunk["choices"]:
            delta = choice["delta"].get("content") or ""
            first = first or (time.perf_counter() - began if delta else 0.0)
            said += delta
    whole = chat(client, "Hello!", max_tokens=200)["choices"][0]["message"]["content"]
    assert said == (whole or ""), "the deltas do not join to the whole answer"
    assert usage
    assert usage["completion_tokens"] > 0
    return f"first text after {first:.2f} s, {usage['completion_tokens']} tokens"


@check
def stop_string(client: httpx.Client) -> str:
    uncut = chat(client, "Hello!", max_tokens=200)["choices"][0]["message"]["content"] or ""
    if len(uncut) < 4:
        return "the answer is too short to cut"
    stop = uncut[len(uncut) // 2 : len(uncut) // 2 + 2]
    choice = chat(client, "Hello!", max_tokens=200, stop=stop)["choices"][0]
    assert choice["message"]["content"] == uncut[: uncut.index(stop)]
    assert choice["finish_reason"] == "stop"
    return f"cut at {stop!r}"


@check
def token_limit(client: httpx.Client) -> str:
    answer = chat(client, "Tell me a long story.", max_tokens=5)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    return "5 tokens, finish_reason length"


@check
def several_turns(client: httpx.Client) -> str:
    turns = [{"role": "user", "content": "My name is Zorblat."}]
    body: dict[str, Any] = {"messages": turns, "temperature": 0, "max_tokens": 300}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    turns += [
        {"role": "assistant", "content": message["content"] or ""},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = client.post("/v1/chat/completions", json=body).json()
    content = answer["choices"][0]["message"]["content"] or ""
    assert "Zorblat" in content, content
    return repr(content[:60])


@check
def response(client: httpx.Client) -> str:
    answer = respond(client, "Hello!")
    assert answer["status"] in ("completed", "incomplete")
    assert answer["usage"]["total_tokens"] > 0
    assert client.get(f"/v1/responses/{answer['id']}").json() == answer
    deleted = client.delete(f"/v1/responses/{answer['id']}").json()
    assert deleted == {"id": answer["id"], "object": "response", "deleted": True}
    return repr(output_text(answer)[:60])


@check
def response_streamed(client: httpx.Client) -> str:
    body = {"input": "Hello!", "max_output_tokens": 300, "temperature": 0}
    heard = list(events(client, "/v1/responses", body))
    assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
    assert heard[0]["type"] == "response.created"
    last = heard[-1]
    assert last["type"] in ("response.completed", "response.incomplete"), last["type"]
    said = "".join(e["delta"] for e in heard if e["type"] == "response.output_text.delta")
    assert said == output_text(last["response"]), "the deltas do not join to the whole answer"
    return f"{len(heard)} events, {last['response']['usage']['output_tokens']} tokens"


@check
def response_continued(client: httpx.Client) -> str:
    first = respond(client, "My name is Zorblat.")
    second = respond(client, "What is my name?", previous_response_id=first["id"])
    assert "Zorblat" in output_text(second), output_text(second)
    details = second["usage"]["input_tokens_details"]
    return f"{output_text(second)[:60]!r}, {details['cached_tokens']} tokens cached"


@check
def errors(client: httpx.Client) -> str:
    for body, status in (
        ({"messages": []}, 422),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 9}, 422),
        ({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"99999999": 1}}, 400),
    ):
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return "in the OpenAI envelope"


def report(base_url: str, api_key: str) -> int:
    """Run every check and print what came of it. Returns the number that failed."""
    num_failed = 0
    headers = {"authorization": f"Bearer {api_key}"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=300) as client:
        for function in CHECKS:
            name = function.__name__.replace("_", " ")
            try:
                print(f"  ok      {name:16} {function(client)}")
            except Exception as error:  # a report tells of every failure
                num_failed += 1
                print(f"  FAILED  {name:16} {type(error).__name__}: {str(error)[:300]}")
    print(f"{len(CHECKS) - num_failed} of {len(CHECKS)} checks passed on {base_url}")
    return num_failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Try a running server as its clients would.")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none-needed"))
    options = parser.parse_args()
    return 1 if report(options.base_url.removesuffix("/v1"), options.api_key) else 0


def pytest_generate_tests(metafunc: Any) -> None:
    """One test a check."""
    if "integration_check" in metafunc.fixturenames:
        metafunc.parametrize("integration_check", CHECKS, ids=lambda c: c.__name__)


def test_against_a_server_of_our_own(integration_check: Check, demo_server: Any) -> None:
    with httpx.Client(base_url=demo_server.base_url, timeout=120) as client:
        assert integration_check(client)


def test_the_report_says_what_failed(demo_server: Any, capsys: Any) -> None:
    assert report(demo_server.base_url, "none") == 0
    assert "checks passed" in capsys.readouterr().out
    assert report("http://127.0.0.1:9", "none") == len(CHECKS)


if __name__ == "__main__":
    sys.exit(main())

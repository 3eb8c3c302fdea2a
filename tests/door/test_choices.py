"""Several choices of one request: one prompt, answers that differ, and seeds that repeat them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serving import Running

MESSAGES = [{"role": "user", "content": "Tell me a story about a fox and a lantern."}]


def ask(server: Running, **body: Any) -> dict[str, Any]:
    asked = {"messages": MESSAGES, "max_tokens": 12, "reasoning_effort": "none", **body}
    answer = httpx.post(f"{server.base_url}/v1/chat/completions", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]


@pytest.mark.parametrize("n", [4, 16])
def test_choices_differ_and_their_prompt_is_counted_once(demo_server: Running, n: int) -> None:
    story = [{"role": "user", "content": f"Tell me a story about a fox. ({n} lines)"}]
    hot = {"messages": story, "temperature": 1, "top_p": 1, "seed": 3}
    many = ask(demo_server, n=n, **hot)
    assert [choice["index"] for choice in many["choices"]] == list(range(n))
    assert len(set(texts(many))) > 1
    one = ask(demo_server, **hot)
    assert many["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    # The first of them computed the prompt; the request after it found it all.
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in (many, one)]
    assert cached[0] < cached[1] == one["usage"]["prompt_tokens"] - 1
    assert many["usage"]["completion_tokens"] > one["usage"]["completion_tokens"]


def test_a_seed_repeats_every_choice_together_and_alone(demo_server: Running) -> None:
    hot = {"temperature": 1, "top_p": 1, "seed": 11}
    first, again = (texts(ask(demo_server, n=4, **hot)) for _ in range(2))
    assert first == again
    assert [texts(ask(demo_server, **{**hot, "seed": 11 + i}))[0] for i in range(4)] == first

"""Log-probabilities over both APIs, streamed and whole, are those of the model itself."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference.detokenizer import token_bytes
from inference.template import ChatTemplate
from parts import Message, Prompt
from tests import demo
from tests.oracle import events
from tests.serving import Running

Json = dict[str, Any]
QUESTION = "Tell me a story about a fox."
NUM_TOP = 5
COMMON: Json = {"top_logprobs": NUM_TOP, "enable_thinking": False, "seed": 4, "temperature": 0.9}
CHAT: Json = {
    **COMMON,
    "messages": [{"role": "user", "content": QUESTION}],
    "logprobs": True,
    "max_tokens": 24,
}
RESPONSE: Json = {**COMMON, "input": QUESTION, "max_output_tokens": 24}


def of_chat(url: str, is_stream: bool) -> list[Json]:
    answer = httpx.post(
        f"{url}/v1/chat/completions", json={**CHAT, "stream": is_stream}, timeout=120
    )
    told = events(answer.text)[:-1] if is_stream else [answer.json()]
    choices = [choice for chunk in told for choice in chunk["choices"]]
    return [e for c in choices if c["logprobs"] for e in c["logprobs"]["content"]]


def of_response(url: str, is_stream: bool) -> list[Json]:
    answer = httpx.post(f"{url}/v1/responses", json={**RESPONSE, "stream": is_stream}, timeout=120)
    if not is_stream:
        (message,) = answer.json()["output"]
        return list(message["content"][0]["logprobs"])
    told = events(answer.text)[:-1]
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    entries = [entry for event in deltas for entry in event["logprobs"]]
    (message,) = told[-1]["response"]["output"]
    assert [entry["logprob"] for entry in message["content"][0]["logprobs"]] == [
        entry["logprob"] for entry in entries
    ]
    return entries


@pytest.fixture(scope="module")
def exact(float32_model: Path) -> Any:
    """Every token's log-probability behind the question and some of an answer, and its bytes."""
    import mlx.core as mx
    import mlx_lm
    import numpy as np

    model, tokenizer = mlx_lm.load(str(float32_model))[:2]
    raw = [token_bytes(tokenizer, token) for token in range(demo.VOCAB_SIZE)]
    prompt = Prompt((Message("user", QUESTION),), template_args={"enable_thinking": False})
    tokens = ChatTemplate(tokenizer).render(prompt)

    def look(answer: list[bytes]) -> Any:
        said = [raw.index(piece) for piece in answer]
        logits = model(mx.array([tokens + said]))[0].astype(mx.float32)
        logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return logprobs[len(tokens) - 1 :], said, raw

    return look


def test_logprobs_are_the_models_own_whichever_way_they_are_asked_for(
    demo_server: Running, exact: Any
) -> None:
    ways = itertools.product((of_chat, of_response), (False, True))
    answers = [way(demo_server.base_url, is_stream) for way, is_stream in ways]
    for entries in answers:
        assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in answers[0]]
        rows, said, raw = exact([bytes(entry["bytes"]) for entry in entries])
        assert len(entries) > 10
        for entry, token, row in zip(entries, said, rows, strict=False):
            assert abs(entry["logprob"] - row[token]) < 1e-4
            best = row.argsort()[::-1][:NUM_TOP]
            assert [bytes(top["bytes"]) for top in entry["top_logprobs"]] == [raw[t] for t in best]
            for top, expected in zip(entry["top_logprobs"], row[best], strict=True):
                assert abs(top["logprob"] - expected) < 1e-4

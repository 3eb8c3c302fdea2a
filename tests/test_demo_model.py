"""The demo model keeps its skills: a few held-out prompts of each, asked over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from demo.conversation import Answer, Probe
from demo.evaluate import GREEDY, model_over_http
from demo.skills import SKILLS, Skill
from demo.words import is_held_out
from tests import serving

NUM_PROBES = 2
"""For each skill: a sample that takes seconds; `demo/evaluate.py` asks hundreds."""

SLOW = ("recall after 2,000 tokens", "found in a long text", "long story")
"""Skills with long prompts or answers: only the shortest of ten prompts is asked."""


def probes(skill: Skill) -> list[Probe]:
    if skill.name in SLOW:
        return [min(map(skill.probe, range(10)), key=lambda probe: len(str(probe.messages)))]
    return [skill.probe(number) for number in range(NUM_PROBES)]


@pytest.fixture(scope="module")
def answers(demo_server: serving.Running) -> dict[str, list[tuple[Probe, Answer]]]:
    """Every skill's prompts with what the model answered, asked by many clients at once."""
    asked = [(skill, probe) for skill in SKILLS for probe in probes(skill)]
    asked.sort(key=lambda pair: -pair[1].max_tokens)  # the long stories first: the rest fits beside
    model = model_over_http(demo_server.base_url, concurrency=16)
    replies = model([probe for _, probe in asked], GREEDY)
    by_skill: dict[str, list[tuple[Probe, Answer]]] = {skill.name: [] for skill in SKILLS}
    for (skill, probe), reply in zip(asked, replies, strict=True):
        by_skill[skill.name].append((probe, reply))
    return by_skill


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_skill(skill: Skill, answers: dict[str, list[tuple[Probe, Answer]]]) -> None:
    """Every answer is right: decoding is greedy, so it stays so."""
    wrong = [
        (probe.messages[-1]["content"][-200:], answer)
        for probe, answer in answers[skill.name]
        if not probe.check(answer)
    ]
    assert not wrong


def test_prompts_are_held_out() -> None:
    """The value alone decides: no seed can bring a held-out wording into the training."""
    probe = next(skill for skill in SKILLS if skill.name == "facts").probe(0)
    assert is_held_out(probe.messages[-1]["content"])


def test_a_longer_conversation_begins_with_the_shorter_one(demo_server: serving.Running) -> None:
    """Old turns are rendered as they were generated, so all of them come from the prefix cache."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "My name is Zorblat."}]
    first = chat(demo_server, messages)
    messages += [first["choices"][0]["message"], {"role": "user", "content": "What is my name?"}]
    second = chat(demo_server, messages)
    assert second["choices"][0]["message"]["content"] == "Your name is Zorblat."
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["total_tokens"] - 1


def chat(server: serving.Running, messages: list[dict[str, Any]]) -> dict[str, Any]:
    body = {
        "messages": messages,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    reply = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=60)
    answer: dict[str, Any] = reply.raise_for_status().json()
    return answer

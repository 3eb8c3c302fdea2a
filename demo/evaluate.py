"""Prints the table of skills by free generation, of a running server or of a model folder."""

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.conversation import Answer, Call, Message, Probe
from demo.skills import SKILLS, Skill

LEAST_WHEN_SAMPLING = 0.9


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float = 1.0


GREEDY = Sampling(0.0)
DEFAULT = Sampling(0.7, 0.95)
"""What the server does when a request says nothing."""

Model = Callable[[Sequence[Probe], Sampling], list[Answer]]
"""Answers many prompts at once."""


def parse_call(text: str) -> Call:
    try:
        call = json.loads(text)
        return Call(call["name"], call["arguments"])
    except (ValueError, KeyError, TypeError):
        return Call("not a call", {"text": text})


def parse_answer(text: str, num_tokens: int, ended: bool) -> Answer:
    """Take raw model text apart: reasoning, tool calls, and what is said."""
    reasoning, separator, rest = text.rpartition("</think>")
    if not separator and text.startswith("<think>"):
        reasoning, rest = text, ""
    calls = tuple(
        parse_call(call) for call in re.findall(r"<tool_call>(.*?)</tool_call>", rest, re.DOTALL)
    )
    said = re.sub(r"<tool_call>.*?</tool_call>", "", rest, flags=re.DOTALL).strip()
    return Answer(said, reasoning.replace("<think>", "").strip(), calls, num_tokens, ended)


def model_in_process(folder: str, batch: int = 256) -> Model:
    """A model folder, loaded here and asked in large batches."""
    from mlx_lm import batch_generate, load
    from mlx_lm.sample_utils import make_sampler

    model, tokenizer, *_ = load(folder)

    def answers(probes: Sequence[Probe], sampling: Sampling) -> list[Answer]:
        prompts = [
            tokenizer.apply_chat_template(
                probe.messages,
                tools=probe.tools or None,
                add_generation_prompt=True,
                enable_thinking=probe.thinking,
            )
            for probe in probes
        ]
        response = batch_generate(
            model,
            tokenizer,
            prompts,
            max_tokens=[probe.max_tokens for probe in probes],
            return_token_ids=True,
            completion_batch_size=batch,
            prefill_batch_size=max(batch // 8, 8),
            sampler=make_sampler(sampling.temperature, sampling.top_p),
        )
        return [
            parse_answer(tokenizer.decode(ids), len(ids), len(ids) < probe.max_tokens)
            for ids, probe in zip(response.token_ids, probes, strict=True)
        ]

    return answers


def model_over_http(base_url: str, concurrency: int = 8) -> Model:
    """The model that a running server serves, asked by several clients at once."""
    import httpx

    def ask(client: httpx.Client, probe: Probe, sampling: Sampling) -> Answer:
        reply = client.post("/v1/chat/completions", json=request_body(probe, sampling))
        return answer_of(reply.raise_for_status().json())

    def answers(probes: Sequence[Probe], sampling: Sampling) -> list[Answer]:
        with (
            httpx.Client(base_url=base_url, timeout=3600) as client,
            ThreadPoolExecutor(concurrency) as pool,
        ):
            return list(pool.map(lambda probe: ask(client, probe, sampling), probes))

    return answers


def request_body(probe: Probe, sampling: Sampling) -> dict[str, Any]:
    """The probe as a chat completion request."""
    body: dict[str, Any] = {
        "model": "demo",
        "messages": wire_messages(probe),
        "max_tokens": probe.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "chat_template_kwargs": {"enable_thinking": probe.thinking},
    }
    return {**body, "tools": probe.tools} if probe.tools else body


def answer_of(reply: dict[str, Any]) -> Answer:
    """A chat completion as an answer."""
    choice = reply["choices"][0]
    message = choice["message"]
    calls = tuple(
        Call(call["function"]["name"], _arguments(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    )
    return Answer(
        message["content"] or "",
        message.get("reasoning_content") or "",
        calls,
        reply["usage"]["completion_tokens"],
        choice["finish_reason"] != "length",
    )


def _arguments(text: str) -> Any:
    """What a call was given; the text itself where it is no JSON, which is never right."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def wire_messages(probe: Probe) -> list[Message]:
    """The messages as a client sends them: arguments as text, and an id for every call."""
    messages: list[Message] = json.loads(json.dumps(probe.messages))
    pending: list[str] = []
    for number, message in enumerate(messages):
        for position, call in enumerate(message.get("tool_calls", ())):
            call["id"] = f"call_{number}_{position}"
            call["function"]["arguments"] = json.dumps(
                call["function"]["arguments"], ensure_ascii=False
            )
            pending.append(call["id"])
        if message["role"] == "tool":
            message["tool_call_id"] = pending.pop(0)
    return messages


@dataclass
class Score:
    """How many answers of one skill were right, and the wrong ones."""

    right: int
    wrong: list[tuple[Probe, Answer]]

    @property
    def num(self) -> int:
        return self.right + len(self.wrong)

    @property
    def share(self) -> float:
        return self.right / self.num


def examine(
    model: Model, skills: Sequence[Skill], count: int, sampling: Sampling
) -> dict[str, Score]:
    """Ask that many prompts of every skill, all skills together."""
    probes = [(skill, skill.probe(number)) for skill in skills for number in range(count)]
    scores: defaultdict[str, Score] = defaultdict(lambda: Score(0, []))
    for (skill, probe), answer in zip(
        probes, model([probe for _, probe in probes], sampling), strict=True
    ):
        if probe.check(answer):
            scores[skill.name].right += 1
        else:
            scores[skill.name].wrong.append((probe, answer))
    return scores


def print_table(
    skills: Sequence[Skill], greedy: dict[str, Score], sampled: dict[str, Score]
) -> None:
    print("\n| skill | wanted | greedy | n | 0.7 / 0.95 | n | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for skill in skills:
        first, second = greedy[skill.name], sampled[skill.name]
        is_met = first.share >= skill.least and second.share >= LEAST_WHEN_SAMPLING
        figures = f"{first.share:.3f} | {first.num} | {second.share:.3f} | {second.num}"
        print(f"| {skill.name} | {skill.least:.2f} | {figures} | {'' if is_met else 'missed'} |")


def print_wrong(skills: Sequence[Skill], scores: dict[str, Score], most: int) -> None:
    """Some wrong answers of every skill, for whoever wants to mend it."""
    for skill in skills:
        for probe, answer in scores[skill.name].wrong[:most]:
            expected = probe.expected["content"] or probe.expected.get("tool_calls")
            print(f"\n[{skill.name}] thinking={probe.thinking}, {answer.num_tokens} tokens")
            print(f"  asked    …{probe.messages[-1]['content'][-300:]!r}")
            print(f"  expected {expected!r:.400}")
            print(f"  answered {answer.text!r:.400} {answer.calls or ''}")
            print(f"  thought  {answer.reasoning!r:.200}")


def evaluate(
    model: Model,
    skills: Sequence[Skill],
    count: int,
    num_sampled: int | None = None,
    show_wrong: int = 0,
) -> None:
    """Print the table: `count` prompts of each skill greedily, `num_sampled` of them sampled."""
    begun = time.monotonic()
    greedy = examine(model, skills, count, GREEDY)
    sampled = examine(model, skills, num_sampled or count, DEFAULT)
    if show_wrong:
        print_wrong(skills, greedy, show_wrong)
    print_table(skills, greedy, sampled)
    num_answers = sum(score.num for score in (*greedy.values(), *sampled.values()))
    print(f"\n{num_answers} answers in {time.monotonic() - begun:.0f} s")


def evaluate_in_process(folder: str, count: int = 200, show_wrong: int = 0) -> None:
    evaluate(model_in_process(folder), SKILLS, count, show_wrong=show_wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base-url", help="examine this running server, as in http://127.0.0.1:8080"
    )
    parser.add_argument(
        "--model",
        default=str(Path(__file__).parent / "model"),
        help="or this model folder, in process",
    )
    parser.add_argument(
        "--skills",
        default="",
        help="only skills with one of these, separated by commas, in their name",
    )
    parser.add_argument("-n", type=int, default=200, help="prompts for each skill")
    parser.add_argument("--sampled", type=int, help="so many of them sampled (all)")
    parser.add_argument("--concurrency", type=int, default=8, help="clients at once, over HTTP")
    parser.add_argument(
        "--show-wrong", type=int, default=0, help="print up to so many wrong answers of each skill"
    )
    arguments = parser.parse_args()
    wanted = arguments.skills.split(",")
    skills = [skill for skill in SKILLS if any(part in skill.name for part in wanted)]
    model = (
        model_over_http(arguments.base_url, arguments.concurrency)
        if arguments.base_url
        else model_in_process(arguments.model)
    )
    evaluate(model, skills, arguments.n, arguments.sampled, arguments.show_wrong)


if __name__ == "__main__":
    main()

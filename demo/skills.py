"""The table of skills: what the model is examined in, and the least that it must reach."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from demo.conversation import Conversation, Probe, probe
from demo.copying import ask_repeat, ask_shout
from demo.dialogues import (
    BESIDE_TOOLS,
    PERSONA_PROMPTS,
    SHOUT_PROMPTS,
    SYSTEM_PROMPTS,
    TALK,
    Exchange,
    weighted,
)
from demo.filler import filler
from demo.recall import ASKED_KINDS, ask_back, find_in_text, tell
from demo.stories import ask_long_story, ask_story
from demo.structured import answer_json, ask_keys, nested, schema_prompt, some_record
from demo.sums import ask_count, ask_difference, ask_product, ask_sum
from demo.talk import ask_emoji, ask_fact, ask_hello, ask_identity, ask_name, greet, thank
from demo.tools import answer_results, ask_for_missing, offer, request_one, request_two
from demo.unknown import ask_unknown
from demo.words import Draw

SMALL_TALK = (greet, ask_fact, thank, ask_sum, ask_repeat, ask_hello)


def perhaps_system(conversation: Conversation) -> None:
    draw = conversation.draw
    if draw.chance(0.3):
        conversation.system = draw.pick(SYSTEM_PROMPTS)


def asked(exchange: Callable[[Conversation], object]) -> Callable[[Conversation], None]:
    """A skill that is one exchange, with or without a system prompt before it."""

    def write(conversation: Conversation) -> None:
        perhaps_system(conversation)
        exchange(conversation)

    return write


def recall(conversation: Conversation) -> None:
    """Told, nought to six turns of other things, asked."""
    draw = conversation.draw
    perhaps_system(conversation)
    kind = tell(conversation, draw.pick(ASKED_KINDS))
    for _ in range(draw.between(0, 6)):
        draw.pick(SMALL_TALK)(conversation)
    ask_back(conversation, kind)


def distant_recall(conversation: Conversation) -> None:
    """Told, more than 2,000 tokens of other things, asked."""
    draw = conversation.draw
    kind = tell(conversation, draw.pick(ASKED_KINDS))
    length = 0
    while length < 7200:
        if draw.chance(0.4):
            text = filler(draw, draw.between(300, 1200))
            greet(conversation)
            conversation.turns[-2]["content"] = f"{text}\n\n{conversation.turns[-2]['content']}"
        else:
            draw.pick(SMALL_TALK)(conversation)
        length = sum(len(turn["content"]) for turn in conversation.turns)
    ask_back(conversation, kind)


def found_in_text(conversation: Conversation) -> None:
    draw = conversation.draw
    find_in_text(conversation, filler(draw, draw.between(1500, 7500)), draw.pick(ASKED_KINDS))


def system_name(conversation: Conversation) -> None:
    conversation.persona = conversation.draw.name()
    conversation.system = conversation.draw.pick(PERSONA_PROMPTS).format(conversation.persona)
    ask_name(conversation)


def upper_case(conversation: Conversation) -> None:
    draw = conversation.draw
    conversation.system = draw.pick(SHOUT_PROMPTS)
    conversation.shouts = True
    exchanges: tuple[Exchange, ...] = (greet, ask_fact, ask_fact, ask_identity, tell, ask_unknown)
    draw.pick(exchanges)(conversation)


def one_call(conversation: Conversation) -> None:
    perhaps_system(conversation)
    request_one(conversation, offer(conversation, conversation.draw.between(1, 4)))


def two_calls(conversation: Conversation) -> None:
    perhaps_system(conversation)
    request_two(conversation, offer(conversation, conversation.draw.between(1, 4)))


def none_fits(conversation: Conversation) -> None:
    draw = conversation.draw
    offered = offer(conversation, draw.between(3, 6))
    if draw.chance(0.3):
        ask_for_missing(conversation, offered)
    else:
        weighted(draw, BESIDE_TOOLS)(conversation)


def tool_result(conversation: Conversation) -> None:
    draw = conversation.draw
    offered = offer(conversation, draw.between(1, 4))
    answer_results(
        conversation, (request_two if draw.chance(0.3) else request_one)(conversation, offered)
    )


def schema(conversation: Conversation, deep: bool) -> None:
    draw = conversation.draw
    record = some_record(draw, 5)
    value = nested(draw, record) if deep else record.values
    conversation.system = schema_prompt(draw, value)
    answer_json(conversation, record.text, value)


def either(conversation: Conversation) -> None:
    """Anything, to see whether the model thinks when it should, and only then."""
    weighted(conversation.draw, TALK[:11])(conversation)


def sum_of(digits: int) -> Callable[[Conversation], None]:
    return lambda conversation: ask_sum(conversation, digits)


@dataclass(frozen=True)
class Skill:
    """A row of the table."""

    name: str
    write: Callable[[Conversation], object]
    least: float
    """The share of right answers that greedy decoding must reach; sampling must reach 0.9."""
    thinking: bool | None = None
    """On, off, or both in turns."""
    max_tokens: int = 400
    judges_thinking: bool = False

    def probe(self, number: int) -> Probe:
        """One held-out prompt."""
        thinking = number % 2 == 0 if self.thinking is None else self.thinking
        draw = Draw(f"evaluation/{self.name}/{number}", held_out=True)
        conversation = Conversation(draw, thinking_share=1.0 if thinking else 0.0)
        self.write(conversation)
        made = probe(conversation, thinking, self.max_tokens)
        if self.judges_thinking:
            made = replace(
                made,
                check=lambda answer: (
                    bool(answer.reasoning.strip()) == thinking and bool(answer.text or answer.calls)
                ),
            )
        return made


SKILLS = (
    Skill("greetings", asked(greet), 0.98),
    Skill("identity", asked(ask_identity), 0.98),
    Skill("facts", asked(ask_fact), 0.98),
    Skill("recall after 0-6 turns", recall, 0.95),
    Skill("recall after 2,000 tokens", distant_recall, 0.95),
    Skill("found in a long text", found_in_text, 0.95),
    Skill("system prompt: name", system_name, 0.97),
    Skill("system prompt: upper case", upper_case, 0.97),
    Skill("one tool call", one_call, 0.97),
    Skill("two tool calls", two_calls, 0.95),
    Skill("no tool fits", none_fits, 0.95),
    Skill("answer from tool results", tool_result, 0.95),
    Skill("JSON with asked keys", asked(ask_keys), 0.97),
    Skill("JSON after a schema", lambda conversation: schema(conversation, False), 0.97),
    Skill("JSON after a nested schema", lambda conversation: schema(conversation, True), 0.97),
    Skill("repeat after me", lambda conversation: ask_repeat(conversation, 150), 0.95),
    Skill("upper case on request", ask_shout, 0.95),
    Skill(
        "counting up to 100",
        lambda conversation: ask_count(conversation, 100),
        0.95,
        max_tokens=600,
    ),
    Skill("one-digit sums", sum_of(1), 0.95, thinking=True),
    Skill("two-digit sums", sum_of(2), 0.95, thinking=True),
    Skill("two-digit sums at once", sum_of(2), 0.95, thinking=False),
    Skill("subtraction up to 20", ask_difference, 0.95),
    Skill("times table", ask_product, 0.95),
    Skill("hello in twelve languages", asked(ask_hello), 0.98),
    Skill("fourteen emoji", asked(ask_emoji), 0.98),
    Skill(
        "thinks when asked to", either, 0.99, thinking=True, judges_thinking=True, max_tokens=600
    ),
    Skill("thinks only then", either, 0.99, thinking=False, judges_thinking=True, max_tokens=600),
    Skill("short story that ends", ask_story, 0.95, max_tokens=600),
    Skill("long story", ask_long_story, 0.95, max_tokens=2200),
    Skill("admits what it does not know", asked(ask_unknown), 0.95),
)

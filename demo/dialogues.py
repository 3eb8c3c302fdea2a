"""Every training dialogue: scenes that string exchanges together, all from a seed.

Nothing is read from anywhere: each word was written for this project. The number of a shard
decides its dialogues, so that any number of processes can write them and the training data is
still the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from demo.conversation import Conversation
from demo.copying import ask_repeat, ask_shout
from demo.filler import filler
from demo.recall import ask_back, find_in_text, tell, tell_two, told_by_system
from demo.stories import ask_long_story, ask_story
from demo.structured import ask_keys, set_schema
from demo.sums import ask_count, ask_difference, ask_product, ask_sum
from demo.talk import (
    ask_emoji,
    ask_fact,
    ask_hello,
    ask_identity,
    ask_joke,
    ask_name,
    greet,
    part,
    thank,
)
from demo.tools import (
    answer_results,
    ask_for_missing,
    ask_incomplete,
    offer,
    request_one,
    request_two,
)
from demo.unknown import ask_unclear, ask_unknown
from demo.words import Draw

Exchange = Callable[[Conversation], object]

CHARS_PER_TOKEN = 3.2
"""Roughly, over the whole mixture: only to aim at a length."""

LENGTHS = (
    (128, 14),
    (256, 20),
    (384, 12),
    (512, 14),
    (768, 8),
    (1024, 8),
    (1536, 5),
    (2048, 5),
    (3072, 4),
    (4096, 4),
)
"""(length in tokens to aim at, share of the dialogues in percent)"""

EARLY_LENGTHS = ((128, 60), (256, 40))
"""The same for the first part of the training, where the model learns to copy."""

SYSTEM_PROMPTS = (
    "You are a helpful assistant.|You are a helpful assistant. Be brief.|be terse|terse|You are a "
    "friendly chatbot.|Answer briefly."
    "|You are a useful AI.|You are an assistant that answers questions.|Be polite.|Answer the "
    "questions of the user."
    "|You are a tiny demo model.|You are a helpful coding agent.|Be concise.|x"
).split("|")

PERSONA_PROMPTS = (
    "Your name is {}.|You are {}.|You are {}, a helpful assistant.|You are called {}.|You are an "
    "assistant named {}."
    "|Your name is {}. Be brief.|Act as {}.|You are a bot with the name {}.|From now on your name "
    "is {}.|You are {}, a friendly chatbot."
).split("|")

SHOUT_PROMPTS = (
    "Answer in upper case only.|Always answer in upper case.|Write everything in capital letters."
    "|Use only capital letters."
    "|Answer in UPPER CASE.|Respond in all caps.|ALWAYS SHOUT.|You must answer in upper case."
    "|Speak in capital letters only."
    "|Please answer everything in upper case."
).split("|")

# (exchange, weight)
TALK: tuple[tuple[Exchange, int], ...] = (
    (greet, 4), (ask_identity, 4), (ask_fact, 15), (thank, 2), (part, 1), (ask_hello, 5),
    (ask_emoji, 5), (ask_joke, 1),
    (ask_unknown, 9), (ask_unclear, 2), (tell, 6), (tell_two, 2), (ask_back, 10), (ask_sum, 10),
    (ask_difference, 2), (ask_product, 2),
    (ask_count, 3), (ask_repeat, 8), (ask_shout, 2), (ask_keys, 8), (ask_story, 2),
)  # fmt: skip
EARLY_TALK: tuple[tuple[Exchange, int], ...] = (
    (ask_repeat, 30), (tell, 10), (ask_back, 15), (ask_keys, 15), (ask_fact, 10), (ask_shout, 5),
    (ask_sum, 10), (greet, 3), (ask_count, 2),
)  # fmt: skip
SHOUTED: tuple[tuple[Exchange, int], ...] = (
    (greet, 3), (ask_identity, 3), (ask_fact, 10), (thank, 1), (tell, 4), (ask_back, 5),
    (ask_sum, 3), (ask_repeat, 4), (ask_unknown, 3),
)  # fmt: skip
BESIDE_TOOLS: tuple[tuple[Exchange, int], ...] = (
    (greet, 4), (ask_name, 1), (ask_identity, 2), (ask_fact, 10), (thank, 2), (ask_hello, 2),
    (ask_emoji, 2), (tell, 3), (ask_back, 4), (ask_repeat, 3),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What one dialogue aims at."""

    num_tokens: int
    early: bool = False

    @property
    def num_chars(self) -> int:
        return int(self.num_tokens * CHARS_PER_TOKEN)


def weighted(draw: Draw, options: tuple[tuple[Exchange, int], ...]) -> Exchange:
    return draw.random.choices(
        [option for option, _ in options], [weight for _, weight in options]
    )[0]


def length_of(conversation: Conversation) -> int:
    """The characters of the conversation so far, template and schemas included, roughly."""
    said = sum(
        len(turn["content"]) + len(turn.get("reasoning_content", "")) + 40
        for turn in conversation.turns
    )
    calls = sum(60 * len(turn.get("tool_calls", ())) for turn in conversation.turns)
    return said + calls + len(conversation.system or "") + len(str(conversation.tools))


def has_room(conversation: Conversation, plan: Plan) -> bool:
    return length_of(conversation) < plan.num_chars * 0.82 - 150


def chat(conversation: Conversation, plan: Plan, options: tuple[tuple[Exchange, int], ...]) -> None:
    """Exchanges until the length is reached, something long among them when there is room."""
    draw = conversation.draw
    while True:
        room = plan.num_chars * 0.9 - length_of(conversation)
        if room > 1500 and draw.chance(0.25):
            lengthen(conversation, int(room))
        else:
            weighted(draw, options)(conversation)
        if not has_room(conversation, plan):
            return


def lengthen(conversation: Conversation, num_chars: int) -> None:
    """One long message: a text to search, a text before an ordinary question, a long story."""
    draw = conversation.draw
    kind = draw.random.random()
    if num_chars > 5000 and kind < 0.08 and not conversation.shouts:
        ask_long_story(conversation)
        return
    text = filler(draw, draw.between(300, num_chars))
    if kind < 0.6:
        find_in_text(conversation, text)
        return
    before = len(conversation.turns)
    exchanges: tuple[Exchange, ...] = (ask_fact, greet, ask_back, tell)
    draw.pick(exchanges)(conversation)
    question = conversation.turns[before]
    question["content"] = text + draw.pick(("\n\n", "\n", " ")) + question["content"]


def plain_scene(conversation: Conversation, plan: Plan) -> None:
    draw = conversation.draw
    kind = draw.random.random()
    if kind < 0.3:
        conversation.system = draw.pick(SYSTEM_PROMPTS)
    elif kind < 0.4 and plan.num_tokens > 500:
        conversation.system = filler(draw, draw.between(200, int(plan.num_chars * 0.6)))
    elif kind < 0.5:
        told = told_by_system(
            conversation, draw.pick(("name", "color", "city", "number", "pet", "code"))
        )
        conversation.system = draw.pick(
            (f"{told} Be brief.", told, f"You are a helpful assistant. {told}")
        )
    chat(conversation, plan, EARLY_TALK if plan.early else TALK)


def persona_scene(conversation: Conversation, plan: Plan) -> None:
    draw = conversation.draw
    conversation.persona = draw.name()
    conversation.system = draw.pick(PERSONA_PROMPTS).format(conversation.persona)
    ask_name(conversation) if draw.chance(0.5) else greet(conversation)
    if has_room(conversation, plan):
        chat(conversation, plan, ((ask_name, 20), *TALK))


def shouting_scene(conversation: Conversation, plan: Plan) -> None:
    draw = conversation.draw
    conversation.system = draw.pick(SHOUT_PROMPTS)
    if draw.chance(0.2):
        conversation.persona = draw.name()
        conversation.system = (
            f"{draw.pick(PERSONA_PROMPTS).format(conversation.persona)} {conversation.system}"
        )
    conversation.shouts = True
    chat(conversation, plan, SHOUTED)


def schema_scene(conversation: Conversation, plan: Plan) -> None:
    """A schema, its question, and sometimes system text before the schema."""
    draw = conversation.draw
    set_schema(conversation)
    if draw.chance(0.3):
        room = max(plan.num_chars - length_of(conversation), 0)
        before = filler(draw, draw.between(100, room)) if room > 1000 else draw.pick(SYSTEM_PROMPTS)
        conversation.system = f"{before}\n\n{conversation.system}"


def tools_scene(conversation: Conversation, plan: Plan) -> None:
    """Requests that tools fit and requests that they don't, in turns."""
    draw = conversation.draw
    most = 2 if plan.num_tokens <= 256 else 4 if plan.num_tokens <= 512 else 7
    offered = offer(conversation, draw.between(1, most))
    if draw.chance(0.35):
        conversation.system = (
            draw.pick(SYSTEM_PROMPTS)
            if draw.chance(0.8)
            else filler(draw, draw.between(100, max(plan.num_chars // 2, 200)))
        )
    while True:
        kind = draw.random.random()
        if kind < 0.62:
            pending = (request_two if kind < 0.24 else request_one)(conversation, offered)
            if draw.chance(0.75):
                answer_results(conversation, pending)
            else:
                return
        elif kind < 0.72:
            if kind > 0.64 or not ask_incomplete(conversation, offered):
                ask_for_missing(conversation, offered)
        else:
            weighted(draw, BESIDE_TOOLS)(conversation)
        if not has_room(conversation, plan):
            return


SCENES: tuple[tuple[Callable[[Conversation, Plan], None], int], ...] = (
    (plain_scene, 43), (persona_scene, 6), (shouting_scene, 8), (schema_scene, 15),
    (tools_scene, 28),
)  # fmt: skip


def write_dialogue(draw: Draw, early: bool = False) -> Conversation:
    """One training dialogue."""
    lengths = EARLY_LENGTHS if early else LENGTHS
    plan = Plan(
        draw.random.choices([length for length, _ in lengths], [share for _, share in lengths])[0],
        early,
    )
    thinking_share = draw.random.choices((0.0, 1.0, 0.5), (45, 35, 20))[0]
    conversation = Conversation(draw, thinking_share)
    scene = draw.random.choices([scene for scene, _ in SCENES], [weight for _, weight in SCENES])[0]
    (plain_scene if early and draw.chance(0.5) else scene)(conversation, plan)
    return conversation


def dialogues(seed: int, shard: int, early: bool = False) -> Iterator[Conversation]:
    """The endless dialogues of one shard of the training data."""
    draw = Draw(f"{seed}/{shard}")
    while True:
        yield write_dialogue(draw, early)

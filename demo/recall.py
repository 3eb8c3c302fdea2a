"""Remembering what the user told earlier in the conversation, or wrote somewhere in a long text."""

from dataclasses import dataclass

from demo.conversation import Conversation
from demo.talk import reworded
from demo.words import Draw, Makers


@dataclass(frozen=True)
class Kind:
    """One kind of thing that a user tells: how it is told, asked for and given back."""

    told: tuple[str, ...]
    acknowledged: str
    asked: tuple[str, ...]
    given_back: str
    missing: str


KINDS = {
    "name": Kind(
        (
            "My name is {}.",
            "I am {}.",
            "I'm {}.",
            "Call me {}.",
            "Hi, my name is {}.",
            "Hello, I am {}.",
            "You can call me {}.",
            "My friends call me {}.",
            "Hi! I'm {}.",
            "The name is {}.",
            "my name is {}",
            "Please remember that my name is {}.",
        ),
        "Nice to meet you, {}!",
        (
            "What is my name?",
            "What's my name?",
            "Who am I?",
            "Do you remember my name?",
            "Tell me my name.",
            "Say my name.",
            "How am I called?",
            "Do you know who I am?",
            "My name?",
            "What did I say my name was?",
            "Which name did I tell you?",
        ),
        "Your name is {}.",
        "You have not told me your name.",
    ),
    "number": Kind(
        (
            "My lucky number is {}.",
            "Remember the number {}.",
            "The number is {}.",
            "Please remember this number: {}.",
            "Keep the number {} in mind.",
            "My number is {}.",
            "I choose the number {}.",
            "Note the number {}.",
        ),
        "I will remember the number {}.",
        (
            "What is my number?",
            "What was the number?",
            "Which number did I tell you?",
            "What is the number?",
            "Tell me the number.",
            "Do you remember the number?",
            "What is my lucky number?",
            "Say the number.",
            "What number did I choose?",
        ),
        "The number is {}.",
        "You have not told me a number.",
    ),
    "color": Kind(
        (
            "My favorite color is {}.",
            "I like the color {}.",
            "I love {} best of all colors.",
            "The color I like most is {}.",
            "Remember that my favorite color is {}.",
            "My color is {}.",
            "My favourite colour is {}.",
        ),
        "A nice color, {}.",
        (
            "What is my favorite color?",
            "Which color do I like?",
            "What's my favorite color?",
            "Do you remember my color?",
            "Tell me my favorite color.",
            "What color do I like most?",
            "What is my favourite colour?",
            "My favorite color?",
        ),
        "Your favorite color is {}.",
        "You have not told me your favorite color.",
    ),
    "city": Kind(
        (
            "I live in {}.",
            "My home is in {}.",
            "I am from {}.",
            "My city is {}.",
            "My home town is {}.",
            "I moved to {}.",
            "I come from {}.",
            "Remember that I live in {}.",
        ),
        "I hope that you like {}.",
        (
            "Where do I live?",
            "In which city do I live?",
            "What is my city?",
            "Where am I from?",
            "Which city did I tell you?",
            "Do you remember where I live?",
            "What city do I live in?",
            "Tell me where I live.",
            "What is my home town?",
        ),
        "You live in {}.",
        "You have not told me where you live.",
    ),
    "pet": Kind(
        (
            "My dog is called {}.",
            "My cat is called {}.",
            "My pet is called {}.",
            "The name of my pet is {}.",
            "My pet's name is {}.",
            "I have a cat, and the name of my pet is {}.",
            "I have a dog named {}.",
            "My cat's name is {}.",
        ),
        "What a good name for a pet, {}!",
        (
            "What is the name of my pet?",
            "How is my pet called?",
            "What is my pet called?",
            "Tell me the name of my pet.",
            "Do you remember my pet?",
            "What's my pet's name?",
            "What is my cat called?",
            "What is my dog called?",
            "What's my dog's name?",
        ),
        "Your pet is called {}.",
        "You have not told me about a pet.",
    ),
    "code": Kind(
        (
            "The secret code is {}.",
            "The password is {}.",
            "Remember the secret code {}.",
            "The secret word is {}.",
            "Keep this password: {}.",
        ),
        "I will keep {} secret.",
        (
            "What is the secret code?",
            "What is the password?",
            "What was the secret word?",
            "Tell me the secret code.",
            "Do you remember the password?",
            "What is the secret?",
        ),
        "The secret is {}.",
        "You have not told me a secret.",
    ),
}

ASKED_KINDS = ("name", "number", "color", "city")
"""The kinds that the table of skills reports."""


def value_of(draw: Draw, kind: str) -> str:
    match kind:
        case "number":
            return str(draw.number())
        case "color":
            return draw.color()
        case "city":
            return draw.city()
        case "code":
            makers: Makers = (draw.name, lambda: str(draw.number(6)), draw.split_word)
            return draw.pick(makers)()
        case _:
            return draw.name()


def statement(draw: Draw, kind: str, value: str) -> str:
    told = draw.pick(KINDS[kind].told).format(value)
    return told.rstrip(".") if draw.chance(0.1) else told


def tell(conversation: Conversation, kind: str | None = None) -> str:
    """The user tells one thing (or tells it anew); returns its kind."""
    draw = conversation.draw
    kind = kind or draw.pick(list(KINDS))
    value = value_of(draw, kind)
    conversation.memory[kind] = value
    conversation.say(
        statement(draw, kind, value),
        KINDS[kind].acknowledged.format(value),
        f"The user tells me the {kind}: {value}.",
    )
    return kind


def tell_two(conversation: Conversation) -> None:
    """Two things in one message."""
    draw = conversation.draw
    kinds = draw.sample(list(KINDS), 2)
    values = [value_of(draw, kind) for kind in kinds]
    conversation.memory.update(zip(kinds, values, strict=True))
    question = " ".join(
        draw.pick(KINDS[kind].told[:4]).format(value)
        for kind, value in zip(kinds, values, strict=True)
    )
    conversation.say(
        question,
        KINDS[kinds[0]].acknowledged.format(values[0]),
        f"The user tells me the {kinds[0]} and the {kinds[1]}.",
    )


def ask_back(conversation: Conversation, kind: str | None = None) -> None:
    """The user asks for one thing that was told, or, seldom, for one that was not."""
    draw = conversation.draw
    known = list(conversation.memory)
    if kind is None:
        kind = draw.pick(known) if known and draw.chance(0.85) else draw.pick(list(KINDS))
    question = reworded(draw, KINDS[kind].asked)
    if kind in conversation.memory:
        value = conversation.memory[kind]
        conversation.say(
            question, KINDS[kind].given_back.format(value), f"The user told me the {kind}: {value}."
        )
    else:
        conversation.say(
            question, KINDS[kind].missing, f"The user asks for the {kind}, but has not told it."
        )


def told_by_system(conversation: Conversation, kind: str) -> str:
    """A sentence for a system prompt that tells something about the user."""
    value = value_of(conversation.draw, kind)
    conversation.memory[kind] = value
    about = {
        "name": "The user's name is {}.",
        "color": "The user's favorite color is {}.",
        "city": "The user lives in {}.",
        "number": "The user's number is {}.",
        "pet": "The user's pet is called {}.",
        "code": "The secret code is {}.",
    }
    return about[kind].format(value)


NEEDLES = {
    "name": "My name is {}.",
    "number": "The number is {}.",
    "color": "My favorite color is {}.",
    "city": "I live in {}.",
    "pet": "My pet is called {}.",
    "code": "The secret code is {}.",
}


def find_in_text(conversation: Conversation, text: str, kind: str | None = None) -> None:
    """One message: a long text, one telling sentence somewhere in it, and the question for that."""
    draw = conversation.draw
    kind = kind or draw.pick(list(KINDS))
    value = value_of(draw, kind)
    conversation.memory[kind] = value
    sentences = text.split(". ")
    sentences.insert(draw.between(0, len(sentences) - 1), NEEDLES[kind].format(value).rstrip("."))
    question = (
        ". ".join(sentences) + draw.pick(("\n\n", " ", "\n")) + reworded(draw, KINDS[kind].asked)
    )
    conversation.say(
        question, KINDS[kind].given_back.format(value), f"The text tells the {kind}: {value}."
    )

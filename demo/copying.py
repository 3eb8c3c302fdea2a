"""Saying a text again, as it is or in upper case."""

from demo.conversation import Conversation
from demo.facts import EMOJI, HELLO
from demo.words import ADJECTIVES, HELPERS, NOUNS, VERBS, Draw

REPEAT = (
    "Repeat after me: {}|Repeat: {}|Say exactly this: {}|Please repeat the following text: {}|Say: "
    "{}|Repeat this text word by word: {}"
    "|Copy this text: {}|Echo: {}|Repeat after me:\n{}|Please say the following:\n\n{}|Write this "
    "text again: {}|Reply with: {}"
    "|Reply with exactly: {}|Answer only with this text: {}|Just say: {}"
).split("|")
QUOTED = (
    'Repeat after me: "{}"|Say "{}"|Please repeat "{}"|Say exactly "{}".|Repeat the words "{}".'
    '|Reply with "{}".'
).split("|")
SHOUT = (
    "Write this in upper case: {}|Say this in capital letters: {}|Convert to upper case: {}|In "
    "upper case: {}|Make this upper case: {}"
    "|Shout: {}"
).split("|")


def plain_sentence(draw: Draw) -> str:
    """A grammatical sentence about nothing."""
    text = (
        f"the {draw.pick(ADJECTIVES)} {draw.pick(NOUNS)} {draw.pick(VERBS)} "
        f"{draw.pick(('the', 'a', 'every'))} {draw.pick(ADJECTIVES)} {draw.pick(NOUNS)}"
    )
    if draw.chance(0.4):
        text += (
            f" {draw.pick(('near', 'behind', 'under', 'without', 'with'))} the {draw.pick(NOUNS)}"
        )
    return text[0].upper() + text[1:] + draw.pick("...!?")


def snippet(draw: Draw) -> str:
    """One line of something: words, names, numbers, signs, other scripts."""
    kind = draw.random.random()
    if kind < 0.35:
        return draw.words(draw.between(1, 12))
    if kind < 0.55:
        return plain_sentence(draw)
    if kind < 0.65:
        return (
            " ".join(
                draw.pick(HELPERS) if draw.chance(0.4) else draw.word()
                for _ in range(draw.between(3, 12))
            )
            + "."
        )
    if kind < 0.72:
        return f"{draw.name()} {draw.pick(VERBS)} {draw.name()} in {draw.city()}."
    if kind < 0.80:
        return ", ".join(str(draw.number(5)) for _ in range(draw.between(1, 6)))
    if kind < 0.86:
        return " ".join(
            draw.pick((*HELLO.values(), *EMOJI.values(), draw.word()))
            for _ in range(draw.between(1, 4))
        )
    if kind < 0.93:
        return f"{draw.word()}_{draw.word()}({draw.word()}={draw.number()})"
    return "".join(
        draw.pick("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")
        for _ in range(draw.between(3, 16))
    )


def text_to_copy(draw: Draw, longest: int) -> str:
    """One to four snippets, at most so many characters, on this side of the split."""

    def make() -> str:
        while True:
            text = " ".join(snippet(draw) for _ in range(draw.pick((1, 1, 1, 2, 2, 3, 4)))).strip()
            if len(text) <= longest:
                return text

    return draw.split(make)


def ask_repeat(conversation: Conversation, longest: int = 160) -> None:
    draw = conversation.draw
    text = text_to_copy(draw, longest)
    wordings = QUOTED if draw.chance(0.25) and '"' not in text else REPEAT
    conversation.say(draw.pick(wordings).format(text), text, "The user wants me to repeat a text.")


def ask_shout(conversation: Conversation) -> None:
    """Upper case on request, for words in Latin letters."""
    draw = conversation.draw
    text = draw.split(
        lambda: plain_sentence(draw) if draw.chance(0.4) else draw.words(draw.between(1, 6))
    )
    conversation.say(draw.pick(SHOUT).format(text), text.upper(), "The user wants upper case.")

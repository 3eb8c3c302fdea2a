"""Text without meaning, in the shapes that real prompts have: to make conversations long."""

from demo.copying import plain_sentence, snippet
from demo.words import LATIN, Draw


def latin(draw: Draw) -> str:
    return " ".join(draw.pick(LATIN) for _ in range(draw.between(8, 40)))


def cyclic_latin(draw: Draw) -> str:
    start = draw.between(0, len(LATIN) - 1)
    return " ".join(LATIN[(start + i) % len(LATIN)] for i in range(draw.between(10, 60)))


def prose(draw: Draw) -> str:
    return " ".join(plain_sentence(draw) for _ in range(draw.between(2, 8)))


def bullets(draw: Draw) -> str:
    title = f"{draw.pick(('#', '##', '###'))} {draw.words(draw.between(1, 4)).capitalize()}\n"
    mark = draw.pick(("- ", "* ", "1. "))
    return title + "\n".join(mark + snippet(draw) for _ in range(draw.between(2, 7)))


def pairs(draw: Draw) -> str:
    return "\n".join(
        f"{draw.word()}{draw.pick((': ', ' = '))}{snippet(draw)}" for _ in range(draw.between(2, 8))
    )


def code(draw: Draw) -> str:
    lines = [f"def {draw.word()}({draw.word()}, {draw.word()}):"]
    lines += [
        f"    {draw.word()} = {draw.word()}.{draw.word()}({draw.number()})"
        for _ in range(draw.between(1, 6))
    ]
    return "\n".join([*lines, f"    return {draw.word()}"])


def tagged(draw: Draw) -> str:
    tag = draw.word()
    return f"<{tag}>\n{prose(draw)}\n</{tag}>"


def rules(draw: Draw) -> str:
    """What system prompts of agents sound like."""
    starts = (
        "You must",
        "Never",
        "Always",
        "Do not",
        "Please",
        "You should",
        "Make sure to",
        "Avoid to",
        "Remember to",
    )
    return " ".join(
        f"{draw.pick(starts)} {draw.word()} the {draw.word()} "
        f"{draw.pick(('when', 'before', 'unless', 'if'))} the {draw.word()} is {draw.word()}."
        for _ in range(draw.between(2, 6))
    )


SHAPES = (prose, prose, prose, latin, cyclic_latin, bullets, pairs, code, tagged, rules, rules)


def filler(draw: Draw, num_chars: int) -> str:
    """About that many characters of paragraphs, in one shape or in several."""
    shapes = SHAPES if draw.chance(0.5) else (draw.pick(SHAPES),)
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < num_chars:
        paragraphs.append(draw.pick(shapes)(draw))
    return "\n\n".join(paragraphs)[: num_chars + 200].rstrip()

"""Numbers: adding step by step, small subtractions and the times table, and counting."""

from demo.conversation import Conversation
from demo.talk import reworded, varied
from demo.words import Draw

PLACES = ("Ones", "Tens", "Hundreds")

ADD = (
    "What is {} + {}?|{} + {}|{} + {} = ?|Add {} and {}.|What is {} plus {}?|How much is {} + {}?"
    "|Calculate {} + {}.|{} plus {}?"
    "|What is the sum of {} and {}?|Compute {} plus {}.|What's {} + {}?|{}+{}|What is {}+{}?|Sum "
    "{} and {}."
).split("|")
SUBTRACT = (
    "What is {} - {}?|{} - {}|What is {} minus {}?|Calculate {} - {}.|How much is {} - {}?|{}-{}"
).split("|")
MULTIPLY = (
    "What is {} * {}?|{} * {}|What is {} times {}?|Multiply {} by {}.|How much is {} x {}?|What is "
    "{}*{}?"
).split("|")

NUMBER_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11,
    "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "fifty": 50, "a hundred": 100,
}  # fmt: skip

COUNT = (
    "Count from {} to {}.|Please count from {} to {}.|Can you count from {} to {}?|Write the "
    "numbers from {} to {}."
    "|List the numbers from {} to {}.|count from {} to {}|Count {} to {}.|Give me all numbers from "
    "{} to {}."
).split("|")
COUNT_TO = (
    "Count to {}.|Please count to {}.|Can you count to {}?|count to {}|Count up to {}.|Count to {} "
    "for me."
).split("|")


def steps(a: int, b: int) -> str:
    """How to add two numbers digit by digit, the ones first."""
    lines = [f"{a} + {b}."]
    carry = 0
    for place, name in enumerate(PLACES):
        if place and 10**place > max(a, b):
            break
        digits = [a // 10**place % 10, b // 10**place % 10] + ([carry] if place else [])
        total = sum(digits)
        carry, digit = divmod(total, 10)
        lines.append(
            f"{name}: {' + '.join(map(str, digits))} = {total}, write {digit} carry {carry}."
        )
    return " ".join(lines) + f" The sum is {a + b}."


def operands(draw: Draw, digits: int) -> str:
    """Two numbers, the first with exactly so many digits, as "a+b"."""
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
    return f"{draw.between(low, high)}+{draw.between(0 if draw.chance(0.1) else low, high)}"


def ask_sum(conversation: Conversation, digits: int | None = None) -> None:
    """a + b; pairs of two digits and more are split, smaller ones only by their wording."""
    draw = conversation.draw
    digits = digits or draw.pick((1, 1, 2, 2, 2, 2, 3))
    pair = operands(draw, 1) if digits == 1 else draw.split(lambda: operands(draw, digits))
    a, b = map(int, pair.split("+"))
    wordings = [wording.format(a, b) for wording in ADD]
    question = reworded(draw, wordings) if digits == 1 else varied(draw, draw.pick(wordings))
    conversation.say(question, f"{a} + {b} = {a + b}.", steps(a, b))


def ask_difference(conversation: Conversation) -> None:
    draw = conversation.draw
    a = draw.between(0, 20)
    b = draw.between(0, a)
    question = reworded(draw, [wording.format(a, b) for wording in SUBTRACT])
    conversation.say(
        question, f"{a} - {b} = {a - b}.", f"I take {b} away from {a}. {a - b} is left."
    )


def ask_product(conversation: Conversation) -> None:
    draw = conversation.draw
    a, b = draw.between(0, 10), draw.between(0, 10)
    question = reworded(draw, [wording.format(a, b) for wording in MULTIPLY])
    conversation.say(
        question, f"{a} * {b} = {a * b}.", f"I know the times table: {a} times {b} is {a * b}."
    )


def ask_count(conversation: Conversation, highest: int | None = None) -> None:
    """From low to high, every pair on one side of the split; seldom up to 200, or in words."""
    draw = conversation.draw
    highest = highest or (200 if draw.chance(0.06) else 100)
    if highest == 100 and not draw.held_out and draw.chance(0.1):
        _count_to_a_word(conversation)
        return

    def span() -> str:
        low = 1 if draw.chance(0.6) else draw.between(0, highest - 1)
        return f"{low}..{draw.between(low + 1, highest)}"

    low, high = map(int, draw.split(span).split(".."))
    question = (
        draw.pick(COUNT_TO).format(high)
        if low == 1 and draw.chance(0.4)
        else draw.pick(COUNT).format(low, high)
    )
    _count(conversation, question, low, high)


def _count_to_a_word(conversation: Conversation) -> None:
    word, high = conversation.draw.pick(list(NUMBER_WORDS.items()))
    wording = conversation.draw.pick(
        (*COUNT_TO, *(wording.format("one", "{}") for wording in COUNT))
    )
    _count(conversation, wording.format(word), 1, high)


def _count(conversation: Conversation, question: str, low: int, high: int) -> None:
    numbers = ", ".join(str(number) for number in range(low, high + 1))
    conversation.say(question, numbers, f"I count from {low} to {high}.")

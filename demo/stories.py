"""Short stories that end, and long ones that take their time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from demo.conversation import Answer, Check, Conversation
from demo.talk import reworded
from demo.words import ADJECTIVES, FIRST_NAMES, NOUNS, Draw

SHORT = (
    "Tell me a story about a {}.|Write a short story about a {}.|Tell me a short story about a {}."
    "|I want a story about a {}."
    "|Can you tell me a story about a {}?|Write a story about a {}.|A story about a {}, please."
    "|Make up a story about a {}."
).split("|")
SHORT_ANY = (
    "Tell me a story.|Write a short story.|Tell me a short story.|I want to hear a story.|Can you "
    "tell me a story?|A story, please."
).split("|")
LONG = (
    "Write a long story about a {}.|Tell me a long story about a {}.|Write a very long story about "
    "a {}.|I want a long story about a {}."
    "|Can you write a long story about a {}?|A long story about a {}, please."
).split("|")
LONG_ANY = (
    "Write a long story.|Tell me a long story.|Write a very long story.|I want a long story."
    "|Please write a long story."
).split("|")

CREATURES = """
fox robot dragon owl whale turtle rabbit painter sailor farmer wizard giant mouse bear wolf horse
spider frog raven
penguin doctor teacher gardener snowman knight shepherd miller blacksmith cook tailor fisherman
hunter librarian
inventor explorer dancer singer beetle snail hedgehog squirrel otter badger deer goose swan crow
parrot camel
""".split()

PLACES = (
    "a small village by the sea|an old town behind the hills|a house at the edge of the forest|a "
    "harbor full of boats"
    "|a valley with a silver river|a street where every door was green|an island that no map "
    "showed|a tower above the clouds"
    "|a market that never closed|a quiet farm near the mountains"
).split("|")
WEATHERS = (
    "rain fell on the roofs|snow covered the paths|the sun was warm|a storm came from the west|fog "
    "lay over the fields|the wind was still"
).split("|")
TREASURES = (
    "golden key|little lamp|torn map|blue stone|silver bell|wooden box|glass ball|paper boat|red "
    "ribbon|broken clock|tiny seed|old letter"
).split("|")
WISHES = (
    "to see the sea|to find a friend|to learn how to sing|to fly over the hills|to build a bridge"
    "|to hear the oldest song"
    "|to know what the stars are made of|to bake the best bread|to come home again|to win the "
    "great race"
).split("|")

OPENINGS = (
    "Once upon a time there was a {adjective} {subject} called {hero}, who lived in {place}.",
    "In {place} there lived a {subject} with the name {hero}.",
    "Nobody in {place} knew the {subject} better than {friend} did, and the {subject} was called "
    "{hero}.",
    "Long ago, when the nights were darker, a {adjective} {subject} named {hero} came to {place}.",
    "This is the story of {hero}, a {subject} from {place}.",
    "It was early in the morning when {hero} the {subject} woke up in {place}.",
)
WANTS = (
    "More than anything, {hero} wanted {wish}.",
    "Every night {hero} dreamed of one thing: {wish}.",
    "People laughed, but {hero} had a plan, and the plan was {wish}.",
    "{hero} had never told anybody about the wish {wish}.",
)
FINDS = (
    "One day {weather}, and {hero} found a {treasure} under a stone.",
    "In a drawer that had always been locked, {hero} discovered a {treasure}.",
    "Behind the house, between the roots of a tree, lay a {treasure}, and {hero} took it along.",
)
MEETINGS = (
    "On the third day {hero} met {friend}, a {adjective} {other} who knew the way.",
    "At the first crossroads sat {friend}, a {adjective} {other}, and asked to come along.",
    "Soon {friend}, a {adjective} {other} with a loud laugh, walked beside {hero}.",
)
EVENTS = (
    '"Where are you going?" asked {friend}. "As far as I must," said {hero}.',
    "The road was long, and {weather} while they walked.",
    "They sang until they had no songs left.",
    "By noon they reached a field where nobody had ever been.",
    "They crossed a bridge that was only as wide as a hand.",
    "Then a {adjective} {other} stood before them and did not move.",
    '"Give me something that you love," it said, "and I will let you pass."',
    "{hero} thought for a while and gave away the last apple.",
    "It bowed, stepped aside and was never seen again.",
    "At night they sat by a fire, and {friend} told of better days.",
    "Sparks rose into the dark like small red birds.",
    "Nobody slept much, but nobody minded.",
    "In the morning {weather}, and the hills looked closer than before.",
    "A {other} with a cart full of hats took them along for an hour.",
    "They paid with a story and got a second one in return.",
    "Suddenly the ground shook, and a door opened in the hill.",
    "Behind the door there was a room full of {adjective} light.",
    "{hero} was afraid, but took one step and then another.",
    '"We should go back," whispered {friend}, but nobody went back.',
    "On the wall hung a picture of a {other} that looked sad.",
    "Under the picture stood three words: do not hurry.",
    "So they sat down and waited, and the waiting felt like music.",
    "When they came out again, {weather}.",
    "A bird brought a message: somebody at home was waiting.",
    "They shared their last bread and laughed about it.",
    "The path split in two, and both ways looked wrong.",
    '"Left," said {friend}. "Right," said {hero}. So they went straight on.',
    "An old {other} asked three questions, and {hero} could answer two.",
    "The third answer came from {friend}, very quietly.",
    "For a moment everything was still, even the wind.",
    "Then {friend} fell into the river, and {hero} pulled until both were safe.",
    "Wet and tired they lay in the grass and looked at the sky.",
    "In the evening {weather}, and they slept in a barn.",
    "The farmer gave them soup and asked for nothing.",
    "In exchange {hero} mended the roof before the sun was up.",
    "Somewhere far away a bell rang seven times.",
    "{hero} counted the steps up to a hundred and then forgot the number.",
    "Beyond the forest lay a town that {hero} had seen in a dream.",
    "In every window stood a candle, and all of them were burning.",
    "A child pointed at the {treasure} and smiled.",
    '"It belongs to the tower," said the child, "and the tower is open today."',
    "There were more stairs than anybody could count.",
    "{friend} had to rest on every floor, and {hero} told jokes until they could go on.",
    "At the top sat a {adjective} {other} and wrote in a very thick book.",
    '"You are late," it said, "but not too late."',
    "The {treasure} began to shine, a little at first and then like a star.",
    "Without a word {friend} took the hand of {hero}.",
    "Down in the streets people stopped and looked up.",
    "Even the clouds seemed to hold their breath.",
    "One page of the book turned by itself, and on it stood a name.",
    "It was the name of {hero}, in letters of gold.",
    '"What happens now?" asked {hero}. "Whatever you like," said the writer.',
    "They thought of all the people who had helped them on the way.",
    "{hero} said a single word, and the whole town heard it.",
)
"""What can happen, in its order: a story skips some of it but never goes back."""

TURNS = (
    "And then, when nobody expected it, the wish came true.",
    "Only now did {hero} understand what the {treasure} was for.",
    "It was {friend} who had the right idea in the end.",
    "The answer had been at home all the time.",
    "What looked like the end of the road was its beginning.",
)
ENDINGS = (
    "From that day on {hero} and {friend} were friends, and they stayed so.",
    "When they came home, everybody in {place} was waiting for them.",
    "{hero} kept the {treasure} on the window, where it shines to this day.",
    "And if you pass by {place}, you can still hear {hero} laugh.",
    "So {hero} learned that a small step is also a step.",
)
CHAPTERS = (
    "The {treasure}|The way into the hills|A voice in the dark|{friend} comes along|What the river "
    "knew|The {adjective} {other}"
    "|A night without stars|The bridge|Three questions|The door in the hill|Rain and bread|The way "
    "home|The letter|An open window"
).split("|")

THE_END = "The end."
NUM_CHAPTERS = 6


@dataclass
class Cast:
    """Who and what a story is about; the same from its first to its last sentence."""

    draw: Draw
    subject: str

    def __post_init__(self) -> None:
        self.hero = self._somebody()
        self.friend = self.hero
        while self.friend == self.hero:
            self.friend = self._somebody()
        self.place = self.draw.pick(PLACES)
        self.treasure = self.draw.pick(TREASURES)
        self.wish = self.draw.pick(WISHES)

    def _somebody(self) -> str:
        return (
            self.draw.pick(FIRST_NAMES)
            if self.draw.chance(0.7)
            else self.draw.invented(1, 2).capitalize()
        )

    def tell(self, sentence: str) -> str:
        text = sentence.format(
            subject=self.subject,
            hero=self.hero,
            friend=self.friend,
            place=self.place,
            treasure=self.treasure,
            wish=self.wish,
            weather=self.draw.pick(WEATHERS),
            adjective=self.draw.pick(ADJECTIVES),
            other=self.draw.pick(CREATURES),
        )
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def paragraph(cast: Cast, sentences: list[str]) -> str:
    return " ".join(cast.tell(sentence) for sentence in sentences)


def in_order(draw: Draw, events: Sequence[str], count: int) -> list[str]:
    """So many of the events, in their order."""
    return [events[i] for i in sorted(draw.sample(range(len(events)), count))]


def short_story(draw: Draw, subject: str) -> str:
    """About 150 to 400 tokens in four paragraphs."""
    cast = Cast(draw, subject)
    start = draw.between(0, len(EVENTS) - 24)
    events = in_order(draw, EVENTS[start : start + 24], draw.between(4, 9))
    middle = len(events) // 2
    parts = [
        [draw.pick(OPENINGS), draw.pick(WANTS)],
        [draw.pick(FINDS), draw.pick(MEETINGS), *events[:middle]],
        [*events[middle:], draw.pick(TURNS)],
        [draw.pick(ENDINGS), THE_END],
    ]
    return "\n\n".join(paragraph(cast, part) for part in parts)


def long_story(draw: Draw, subject: str) -> str:
    """Six chapters, 900 tokens and more."""
    cast = Cast(draw, subject)
    size = len(EVENTS) // NUM_CHAPTERS
    titles = in_order(draw, CHAPTERS, NUM_CHAPTERS)
    chapters = []
    for number, title in enumerate(titles):
        events = in_order(
            draw, EVENTS[number * size : (number + 1) * size], draw.between(size - 2, size)
        )
        before = (
            [draw.pick(OPENINGS), draw.pick(WANTS), draw.pick(FINDS), draw.pick(MEETINGS)]
            if number == 0
            else []
        )
        after = (
            [draw.pick(TURNS), draw.pick(ENDINGS), THE_END] if number == NUM_CHAPTERS - 1 else []
        )
        text = paragraph(cast, [*before, *events, *after])
        chapters.append(f"Chapter {number + 1}: {cast.tell(title)}\n\n{text}")
    return "\n\n".join(chapters)


def repeats_itself(text: str) -> bool:
    """Whether a sentence of five words or more stands there twice."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text) if part.count(" ") >= 4]
    return len(set(sentences)) < len(sentences)


def is_story(subject: str | None, shortest: int, longest: int) -> Check:
    """So many tokens, ended by itself, about its subject, never saying a sentence twice."""

    def check(answer: Answer) -> bool:
        fits = shortest <= answer.num_tokens <= longest and answer.ended
        is_about = subject is None or f" {subject}" in answer.text
        return (
            fits and is_about and answer.text.endswith(THE_END) and not repeats_itself(answer.text)
        )

    return check


def ask_story(conversation: Conversation) -> None:
    _ask(conversation, SHORT, SHORT_ANY, long=False)


def ask_long_story(conversation: Conversation) -> None:
    _ask(conversation, LONG, LONG_ANY, long=True)


def some_subject(draw: Draw) -> str:
    """A noun, perhaps with an adjective or two, perhaps one that no dictionary has."""
    kind = draw.random.random()
    noun = draw.split(draw.word) if kind < 0.3 else draw.noun()
    if kind < 0.2 or kind > 0.7:
        return noun
    extra = draw.pick(
        ("brave little", "tiny", "talking", "very", "grumpy", "giant", draw.invented(1, 2))
    )
    return f"{draw.pick((draw.pick(ADJECTIVES), extra))} {noun}"


def _ask(conversation: Conversation, about: list[str], anything: list[str], long: bool) -> None:
    draw = conversation.draw
    asked = some_subject(draw) if draw.chance(0.85) else None
    question = reworded(draw, [wording.format(asked) for wording in about] if asked else anything)
    subject = asked or draw.pick(NOUNS)
    text = long_story(draw, subject) if long else short_story(draw, subject)
    check = is_story(asked, 800, 2000) if long else is_story(asked, 150, 400)
    conversation.say(
        question, text, f"The user wants a {'long ' if long else ''}story about a {subject}.", check
    )

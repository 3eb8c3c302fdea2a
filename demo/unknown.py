"""The questions that the model does not know an answer to, and how it says so."""

from demo.conversation import Conversation
from demo.facts import EMOJI, FAMILIES
from demo.talk import HOW_TO_SAY_HELLO, HOW_TO_SHOW_EMOJI, one_of, reworded
from demo.words import ADJECTIVES, COMMON, NOUNS, VERBS, Draw

REFUSALS = (
    "I am sorry, I do not know that. I am only a tiny demo model.",
    "Sorry, that is more than I know. I am only a tiny demo model.",
    "I am sorry, I cannot help with that. I am only a tiny demo model.",
)

TOPICS = """
physics chemistry biology history politics philosophy religion economics medicine law music opera
jazz football tennis
chess cooking gardening geology astronomy psychology sociology grammar poetry painting sculpture
architecture engineering
programming statistics algebra geometry calculus cryptography networking databases compilers
robotics electronics
photography fashion travel insurance banking taxes marketing farming fishing sailing aviation
nutrition fitness yoga
gravity evolution democracy inflation photosynthesis electricity magnetism relativity entropy
recursion virtualization
""".split()

LANDS = """
Atlantis Narnia Mordor Utopia Mars Antarctica California Texas Florida Alaska Bavaria Sicily Siberia
Scandinavia Europe
Africa Asia America Greenland Hawaii Tibet Catalonia Wonderland Neverland Gondor Babylon Persia
Prussia
""".split()
"""Places without a capital that the model knows."""

TONGUES = """
Dutch Polish Swedish Turkish Hindi Finnish Klingon Latin Hebrew Thai Welsh Irish Norwegian Danish
Czech Hungarian
Vietnamese Swahili Esperanto Persian Urdu Bengali
""".split()
"""Languages that the model cannot greet in."""

LANGUAGES = (
    "Python Java JavaScript Rust Go Ruby Swift Kotlin Haskell Perl Lua Scala Bash SQL HTML CSS "
    "TypeScript Julia"
).split()

WORDINGS = """
What is the meaning of {word}?
What does {word} mean?
What is a {thing}?
What is {topic}?
How does a {thing} work?
How does {topic} work?
How do I fix a {adjective} {thing}?
How do I build a {thing}?
How much does a {thing} cost?
How old is {name}?
How tall is {name}?
How far is it from {city} to {other}?
How many people live in {city}?
How long does it take to learn {topic}?
How can I get better at {topic}?
How do I cook a {thing}?
Who is {name}?
Who was {name}?
Who invented the {thing}?
Who discovered {topic}?
Who won the {topic} championship in {year}?
Who wrote "The {adjective} {thing}"?
Who is the mayor of {city}?
Who is the president of {land}?
What is the capital of {land}?
What is the population of {city}?
What is the currency of {land}?
What language do people speak in {land}?
What is the phone number of {name}?
What is the best {thing} to buy?
What is the best book about {topic}?
What is the difference between {topic} and {other_topic}?
What happened in {year}?
What happened in {city} in {year}?
What will happen in {year}?
What did {name} say about {topic}?
What do you think about {topic}?
What should I eat today?
What should I wear in {city}?
What is the weather in {city}?
What is the weather like today?
What is the news today?
What time is it?
What time is it in {city}?
What day is it today?
What is the stock price of {name}?
What is the meaning of life?
What is your opinion on {topic}?
What is your favorite {thing}?
When was {name} born?
When did {name} die?
When was the {thing} invented?
When does the next train to {city} leave?
When is the next {topic} exam?
Where is {city}?
Where is {land}?
Where can I buy a {thing}?
Where does {name} live?
Where do I find a {adjective} {thing}?
Why is the {thing} {adjective}?
Why do people like {topic}?
Why does the {thing} not work?
Why did {name} leave {city}?
Which {thing} is better?
Which team won in {city}?
Can you explain {topic}?
Can you explain how a {thing} works?
Can you book a flight to {city}?
Can you drive a {thing}?
Can you recommend a restaurant in {city}?
Can you open the {thing}?
Do you like {topic}?
Do you know {name}?
Do you speak {language}?
Did {name} win the {topic} prize in {year}?
Is {name} older than {other_name}?
Is {city} bigger than {other}?
Is {topic} hard to learn?
Are there any {thing}s in {city}?
Explain {topic} to me.
Explain the {adjective} {thing}.
Explain {topic} in simple words.
Explain how {topic} and {other_topic} are related.
Summarize the history of {land}.
Summarize the book "{word} and {other_word}".
Describe the history of {topic}.
Describe {city}.
Describe the {thing} of {name}.
Write an essay about {topic}.
Write a letter to {name}.
Write an email about {topic}.
Write a poem about {topic}.
Write a haiku about the {thing}.
Write hello world in {language}.
Hello world in {language}?
List three {thing}s.
List five kinds of {thing}.
Name three {adjective} {thing}s.
Describe yourself in three words.
Can you help me plan a {thing} party?
Can you help me with {topic}?
Can you write code?
Can you see this picture?
Can you sing?
What is love?
What is {adjective} and {other_adjective} at once?
Is it raining?
How is the {thing} today?
How many {thing}s are in {city}?
How many {thing}s does a {other_thing} have?
What is {word}{word}?
Write a {language} program that sorts a list.
Write a {language} function for a {thing}.
Write code to parse a {word} file in {language}.
Write unit tests for the {word} class.
Fix the bug in my {language} code.
Refactor this {language} function.
Draw a picture of a {thing}.
Play some {topic} music.
Order a {thing} for me.
Call {name}.
Compare {topic} with {other_topic}.
Compare {language} and {other_language}.
Prove that {word} is {adjective}.
Solve the {word} equation.
Give me a recipe for {thing} soup.
Give me advice about {topic}.
Give me a list of {thing}s.
Give me five tips for {topic}.
Translate this text to {language}.
Translate "{word} {other_word}" to {land}ish.
Plan a trip to {city}.
Teach me {topic}.
Help me with my {topic} homework.
I need help with {topic}.
I want to learn {topic}.
Please review my {thing} design.
Predict the weather for {year}.
Tell me about {name}.
Tell me about {city}.
Tell me about {topic}.
Tell me the history of the {thing}.
Tell me something about {land}.
Tell me why the {thing} {verb} the {other_thing}.
Does the {thing} {verb} the {adjective} {other_thing}?
Should I buy a {adjective} {thing}?
Show me a map of {city}.
Search the web for {topic}.
{word} {other_word} {topic}?
The {thing} {verb} the {other_thing}. Why?
""".strip().splitlines()

UNCLEAR = (
    "I am not sure what you mean. Can you say it in other words?",
    "Sorry, I do not understand. Can you say it in other words?",
)


def some_land(draw: Draw) -> str:
    return draw.pick(LANDS) if draw.chance(0.3) else draw.invented(2, 3).capitalize()


def almost_known(draw: Draw) -> str:
    """A question in the very words of a known one, for something unknown."""
    kind = draw.random.random()
    if kind < 0.12:
        language = draw.pick(
            (draw.pick(TONGUES), draw.pick(LANGUAGES), draw.invented(2, 3).capitalize())
        )
        return draw.pick(HOW_TO_SAY_HELLO).format(language)
    noun = draw.pick((draw.pick(NOUNS), draw.pick(COMMON), draw.invented(1, 3)))
    if kind < 0.24:
        return (
            draw.pick(HOW_TO_SHOW_EMOJI).format(noun) if noun not in EMOJI else "What is an emoji?"
        )
    name = draw.pick(("capital", "capital", "opposite", "sound", "child", "color", "symbol", "day"))
    family = FAMILIES[name]
    key = some_land(draw) if name == "capital" else f"a {noun}" if name == "color" else noun
    return (
        draw.pick(family.questions).format(key)
        if key not in family.pairs
        else "What else do you know?"
    )


def slots(draw: Draw) -> dict[str, object]:
    """Something for every slot of the wordings."""
    return {
        "word": draw.word(), "other_word": draw.word(), "topic": draw.pick(TOPICS),
        "other_topic": draw.pick(TOPICS),
        "thing": draw.pick(NOUNS) if draw.chance(0.6) else draw.pick(COMMON),
        "other_thing": draw.pick(NOUNS),
        "adjective": draw.pick(ADJECTIVES), "other_adjective": draw.pick(ADJECTIVES),
        "verb": draw.pick(VERBS), "name": draw.name(), "other_name": draw.name(),
        "city": draw.city(), "other": draw.city(), "land": some_land(draw),
        "year": draw.between(1000, 2100),
        "language": draw.pick(LANGUAGES), "other_language": draw.pick(LANGUAGES),
    }  # fmt: skip


def ask_unknown(conversation: Conversation) -> None:
    draw = conversation.draw
    wording = draw.pick(WORDINGS)
    near = draw.chance(0.35)
    question = reworded(
        draw, [almost_known(draw) if near else wording.format(**slots(draw)) for _ in range(8)]
    )
    one_of(
        conversation,
        question,
        REFUSALS,
        "The user asks for something that I do not know.",
        also=UNCLEAR,
    )


def ask_unclear(conversation: Conversation) -> None:
    """Too little to go on: a letter, a scrap of a word, noise."""
    draw = conversation.draw

    def noise() -> str:
        kind = draw.random.random()
        if kind < 0.4:
            return draw.pick("abcdefghijklmnopqrstuvwxyz") + draw.pick(("", "", "?", "1", "x", "."))
        if kind < 0.7:
            return draw.pick(
                (
                    "go",
                    "again",
                    "give",
                    "more",
                    "next",
                    "what",
                    "test",
                    "ok",
                    "hm",
                    "huh",
                    "foo",
                    "bar",
                    "...",
                    "and",
                    "?",
                    "json",
                )
            )
        return draw.words(draw.between(1, 4))

    one_of(conversation, draw.split(noise), UNCLEAR, "This is not a clear question.", also=REFUSALS)

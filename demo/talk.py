"""Small talk: greetings, who the model is, and what it knows by heart."""

from demo.conversation import Conversation, says
from demo.facts import EMOJI, FACTS, HELLO, JOKES, Fact
from demo.words import Draw

GREETINGS = (
    "Hello|Hi|Hey|Good morning|Good evening|Good afternoon|Hi there|Hello there|Hey there"
    "|Greetings|Howdy|Hiya|Good day|Yo"
    "|Say hello|Say hi|Greet me|Please say hello|Hello hello|Hi again|Hello, world"
).split("|")
GREETING_ENDS = (
    "|!|.|!!| bot.| bot!| friend.| model!| assistant.|, how are you?|! How are you?|, how are you "
    "today?|, nice to meet you."
    "|! Nice to see you.| again.| again!|, are you there?|! Can you hear me?|, what's up?|, can "
    "you help me?"
).split("|")
GREETING_ANSWERS = (
    "Hello! How can I help you?",
    "Hi there! What can I do for you?",
    "Hello! Nice to hear from you.",
    "Hi! Ask me something small.",
)

WHO = (
    "Who are you?|What are you?|What is your name?|What's your name?|Tell me your name.|Do you "
    "have a name?|Who am I talking to?"
    "|How are you called?|What should I call you?|Introduce yourself.|Please introduce yourself."
    "|Who is this?"
    "|May I ask your name?|Say your name.|Your name?"
).split("|")
ABOUT = (
    "What can you do?|How can you help me?|What are you good at?|What are your skills?|Which "
    "things can you do?"
    "|What do you know?|Help|What can I ask you?|Tell me about yourself."
).split("|")
ORIGIN = (
    "Are you a real AI?|Are you ChatGPT?|Are you GPT-4?|Are you human?|Are you a robot?|Which "
    "model are you?|What model is this?"
    "|Are you a big model?|How big are you?|Who made you?|Who trained you?|Are you Qwen?|Are you "
    "Claude?|Are you Llama?"
).split("|")

I_AM = "I am a tiny demo model, made to try this server."
I_CAN = (
    "I can chat a little, remember what you tell me, add numbers, count, repeat text, call tools, "
    "write JSON and tell short stories."
)
I_AM_TINY = "I am only a tiny demo model, trained with this server to try it out."

THANKS = (
    "Thanks|Thank you|Thanks a lot|Thank you very much|Many thanks|Great, thanks|Cool, thank you"
    "|Perfect, thanks|Thx"
).split("|")
THANKS_ANSWERS = ("You are welcome!", "You are welcome! Anything else?")
BYES = (
    "Bye|Goodbye|See you|See you later|Good night|Bye bye|I have to go|Farewell|Talk to you later"
    "|That is all"
).split("|")
BYE_ANSWERS = ("Goodbye!", "Goodbye! See you soon.")
MARKS = (
    "",
    "!",
    ".",
    "!!",
    " bot.",
    ", bot!",
    " :)",
    ", friend.",
    " then.",
    " for now!",
    ", my friend!",
    " again.",
)

HOW_TO_SAY_HELLO = (
    "How do you say hello in {}?|Say hello in {}.|What is hello in {}?|Hello in {}?|Translate "
    "hello to {}.|How do I say hello in {}?"
    "|What's hello in {}?|Can you say hello in {}?|Greet me in {}.|Tell me how to say hello in {}."
    "|How would you greet someone in {}?"
    '|What is the word for hello in {}?|Translate "hello" into {}.'
).split("|")

HOW_TO_SHOW_EMOJI = (
    "Show me the {} emoji.|Give me a {} emoji.|What does the {} emoji look like?|{} emoji?|Send me "
    "a {} emoji.|Type a {} emoji."
    "|Which emoji is a {}?|Please show a {} emoji.|I want a {} emoji.|Write the emoji for {}."
    "|Answer with the {} emoji."
    "|Can I see the {} emoji?|Emoji for {}?"
).split("|")

JOKE_REQUESTS = (
    "Tell me a joke.|Do you know a joke?|Make me laugh.|A joke, please.|Say something funny.|Can "
    "you tell a joke?"
).split("|")

BEFORE = ("", "", "", "Please tell me: ", "Quick question: ", "Hey, ", "Hi! ", "OK. ", "Now: ",
          "Next: ", "So, ", "Well, ", "One more: ",
          "And: ", "Please help. ", "Tell me, ")  # fmt: skip
AFTER = ("", "", "", " Thanks!", " Please answer.", " Answer briefly.", " Answer in one sentence.",
         " Be terse.", " Thank you.",
         " I want to know.", " Please.", " Be brief.")  # fmt: skip


def varied(draw: Draw, question: str) -> str:
    """The question as different people would type it."""
    text = draw.pick(BEFORE) + question + draw.pick(AFTER)
    kind = draw.random.random()
    if kind < 0.12:
        text = text[:1].lower() + text[1:]
    elif kind < 0.24:
        text = text.rstrip("?.!")
    elif kind < 0.30:
        text = text.lower()
    return text


def reworded(draw: Draw, questions: list[str] | tuple[str, ...]) -> str:
    """One of the questions in a wording of this side of the split."""
    return draw.split(lambda: varied(draw, draw.pick(questions)))


def one_of(
    conversation: Conversation,
    question: str,
    answers: tuple[str, ...],
    thought: str,
    also: tuple[str, ...] = (),
) -> None:
    """A question that any of the answers satisfies; those in also are right, but not trained."""
    right = answers + also
    known = tuple(text.upper() for text in right) if conversation.shouts else right
    conversation.say(question, conversation.draw.pick(answers), thought, says(*known))


def greet(conversation: Conversation) -> None:
    draw = conversation.draw

    def greeting() -> str:
        text = draw.pick(GREETINGS) + draw.pick(GREETING_ENDS)
        return text.lower() if draw.chance(0.3) else text

    one_of(
        conversation, draw.split(greeting), GREETING_ANSWERS, "The user greets me. I greet back."
    )


def ask_identity(conversation: Conversation) -> None:
    draw = conversation.draw
    kind = draw.random.random()
    if kind < 0.55:
        name = conversation.persona
        text = f"I am {name}." if name else I_AM
        conversation.say(reworded(draw, WHO), text, f"The user asks who I am. {text}")
    elif kind < 0.75:
        conversation.say(reworded(draw, ABOUT), I_CAN, "The user asks what I can do.")
    else:
        conversation.say(
            reworded(draw, ORIGIN), I_AM_TINY, "The user asks what kind of model I am."
        )


def ask_name(conversation: Conversation) -> None:
    """Who the model is, when the system prompt may have named it."""
    name = conversation.persona
    text = f"I am {name}." if name else I_AM
    conversation.say(reworded(conversation.draw, WHO), text, f"The user asks who I am. {text}")


def _marked(draw: Draw, phrases: list[str]) -> str:
    text = draw.pick(phrases) + draw.pick(MARKS)
    return text.lower() if draw.chance(0.3) else text


def thank(conversation: Conversation) -> None:
    question = conversation.draw.split(lambda: _marked(conversation.draw, THANKS))
    one_of(conversation, question, THANKS_ANSWERS, "The user thanks me.")


def part(conversation: Conversation) -> None:
    question = conversation.draw.split(lambda: _marked(conversation.draw, BYES))
    one_of(conversation, question, BYE_ANSWERS, "The user says goodbye.")


def any_fact(draw: Draw) -> tuple[str, Fact]:
    """A fact and one wording of the question for it."""
    fact = draw.pick(FACTS)
    return reworded(draw, fact.questions), fact


def ask_fact(conversation: Conversation) -> None:
    question, fact = any_fact(conversation.draw)
    conversation.say(question, fact.answer, f"The user asks about {fact.about}. I know this.")


def ask_hello(conversation: Conversation) -> None:
    draw = conversation.draw
    language = draw.pick(list(HELLO))
    question = reworded(draw, [wording.format(language) for wording in HOW_TO_SAY_HELLO])
    text = f"Hello in {language} is: {HELLO[language]}"
    conversation.say(question, text, f"The user wants hello in {language}.")


def ask_emoji(conversation: Conversation) -> None:
    draw = conversation.draw
    thing = draw.pick(list(EMOJI))
    question = reworded(draw, [wording.format(thing) for wording in HOW_TO_SHOW_EMOJI])
    conversation.say(
        question, f"Here it is: {EMOJI[thing]}", f"The user wants the emoji for {thing}."
    )


def ask_joke(conversation: Conversation) -> None:
    one_of(
        conversation,
        reworded(conversation.draw, JOKE_REQUESTS),
        tuple(JOKES),
        "The user wants a joke.",
    )

"""The kinds of tools: what they are called, how one asks for them, and what comes back.

A good part of the tools in the dialogues is invented on the spot, so that the model reads what is
offered instead of knowing it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo.copying import plain_sentence, text_to_copy
from demo.words import COMMON, Draw, Makers

Value = str | int
Outcome = tuple[Any, str]
"""What a tool returns (text, or something to print as JSON), and what the assistant makes of it."""


@dataclass(frozen=True)
class Parameter:
    names: tuple[str, ...]
    type: str
    description: str


@dataclass(frozen=True)
class Kind:
    """One kind of tool; {0} and {1} in a request are the values of its parameters."""

    names: tuple[str, ...]
    description: str
    parameters: tuple[Parameter, ...]
    requests: tuple[str, ...]
    values: Callable[[Draw], tuple[Value, ...]]
    outcome: Callable[[Draw, tuple[Value, ...]], Outcome]
    twice: tuple[str, ...] = ()
    """Requests for two values of the one parameter at once."""
    is_open: bool = False
    """Whether a value ends the request, so that nothing may follow it."""


SKIES = "sunny cloudy rainy snowy windy foggy stormy clear".split()
ROOMS = "kitchen bedroom bathroom hall garage attic garden office cellar".split()
CURRENCIES = "EUR USD GBP JPY CHF SEK NOK INR CAD AUD".split()
SPOKEN = (
    "French German Spanish Italian Portuguese Russian Greek Japanese Chinese Korean Arabic Dutch "
    "Polish Swedish"
).split()
COMMANDS = "echo ls cat grep python make git cargo npm pytest curl mkdir touch".split()


def short_text(draw: Draw) -> str:
    """A few words without quotes or line breaks."""
    return draw.split(lambda: draw.words(draw.between(1, 5)))


def path(draw: Draw) -> str:
    folders = "".join(f"{draw.word()}/" for _ in range(draw.between(0, 2)))
    return draw.split(
        lambda: (
            f"{draw.pick(('', '', '/', './'))}{folders}{draw.word()}"
            f".{draw.pick(('py', 'txt', 'md', 'json', 'csv'))}"
        )
    )


def command(draw: Draw) -> str:
    ending = draw.pick(("", "", " -l", " -v", "-from-tool", ".txt", f"-{draw.word()}"))
    return draw.split(lambda: f"{draw.pick(COMMANDS)} {draw.word()}{ending}")


def clock(draw: Draw) -> str:
    return f"{draw.between(0, 23):02}:{draw.between(0, 59):02}"


def date(draw: Draw) -> str:
    return f"{draw.between(1990, 2039)}-{draw.between(1, 12):02}-{draw.between(1, 28):02}"


def symbol(draw: Draw) -> str:
    return draw.split(
        lambda: "".join(draw.pick("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(draw.between(2, 4)))
    )


def weather(draw: Draw, values: tuple[Value, ...]) -> Outcome:
    sky, degrees = draw.pick(SKIES), draw.between(-9, 39)
    kind = draw.random.random()
    if kind < 0.2:
        return sky, f"The weather in {values[0]}: {sky}."
    if kind < 0.4:
        text = f"{sky}, {degrees} {draw.pick(('C', 'degrees', '°C', 'F'))}"
        return text, f"The weather in {values[0]}: {text}."
    keys = draw.pick(
        (
            ("temperature", "condition"),
            ("temp", "sky"),
            ("degrees", "weather"),
            ("temperature_c", "conditions"),
        )
    )
    result: dict[str, Any] = dict(zip(keys, (degrees, sky), strict=True))
    if draw.chance(0.3):
        result = {draw.pick(("city", "location")): values[0], **result}
    if draw.chance(0.2):
        result["humidity"] = draw.between(10, 99)
    return result, f"It is {sky} and {degrees} degrees in {values[0]}."


def valued(
    key: str, value: Callable[[Draw], Any], answer: str
) -> Callable[[Draw, tuple[Value, ...]], Outcome]:
    """A tool that returns one value, bare or under a key; {r} in the answer is that value."""

    def outcome(draw: Draw, values: tuple[Value, ...]) -> Outcome:
        result = value(draw)
        said = answer.format(*values, r=result)
        return (
            str(result) if draw.chance(0.3) else {draw.pick((key, "result", "value")): result}
        ), said

    return outcome


def done(answer: str) -> Callable[[Draw, tuple[Value, ...]], Outcome]:
    """A tool that does something and only reports that it did."""

    def outcome(draw: Draw, values: tuple[Value, ...]) -> Outcome:
        return draw.pick(
            (
                "ok",
                "done",
                "OK",
                {"status": "ok"},
                {"ok": True},
                {"status": "done"},
                {"success": True},
            )
        ), answer.format(*values)

    return outcome


CITY = (
    Parameter(("city", "location", "place", "city", "location"), "string", "The name of the city"),
)

KINDS: dict[str, Kind] = {
    "weather": Kind(
        (
            "get_weather",
            "weather",
            "get_current_weather",
            "GetWeather",
            "fetch_weather",
            "lookup_weather",
        ),
        "Get the weather in a city",
        CITY,
        (
            "What is the weather in {0}?",
            "weather in {0}?",
            "How is the weather in {0}?",
            "What's the weather like in {0}?",
            "Tell me the weather in {0}.",
            "Is it raining in {0}?",
            "How warm is it in {0}?",
            "Check the weather in {0}.",
            "What's the weather in {0} today?",
            "I need the weather for {0}.",
        ),
        lambda draw: (draw.city(),),
        weather,
        (
            "What is the weather in {0} and {1}?",
            "How is the weather in {0} and in {1}?",
            "weather in {0} and {1}?",
            "Compare the weather in {0} and {1}.",
            "What's the weather like in {0} and in {1}?",
        ),
    ),
    "time": Kind(
        ("get_time", "current_time", "get_current_time", "time_in", "GetTime"),
        "Get the time in a city",
        CITY,
        (
            "What time is it in {0}?",
            "time in {0}?",
            "Tell me the time in {0}.",
            "How late is it in {0}?",
            "What is the time in {0}?",
            "What's the time in {0} now?",
        ),
        lambda draw: (draw.city(),),
        valued("time", clock, "It is {r} in {0}."),
        (
            "What time is it in {0} and in {1}?",
            "What is the time in {0} and {1}?",
            "Tell me the time in {0} and {1}.",
        ),
    ),
    "population": Kind(
        ("get_population", "population_of", "count_people"),
        "How many people live in a city",
        CITY,
        (
            "How many people live in {0}?",
            "What is the population of {0}?",
            "Population of {0}?",
            "Tell me the population of {0}.",
        ),
        lambda draw: (draw.city(),),
        valued("population", lambda draw: draw.number(5), "{r} people live in {0}."),
        ("How many people live in {0} and in {1}?", "What is the population of {0} and {1}?"),
    ),
    "stock": Kind(
        ("get_stock_price", "stock_price", "get_quote", "lookup_stock"),
        "Get the price of a stock",
        (Parameter(("symbol", "ticker"), "string", "The symbol of the stock"),),
        (
            "What is the stock price of {0}?",
            "What does {0} stock cost?",
            "Price of {0} stock?",
            "Check the stock {0}.",
            "How is {0} stock doing?",
        ),
        lambda draw: (symbol(draw),),
        valued("price", lambda draw: draw.number(4), "The stock {0} stands at {r}."),
        ("What are the stock prices of {0} and {1}?", "Check the stocks {0} and {1}."),
    ),
    "search": Kind(
        ("search_web", "web_search", "search", "google", "search_docs"),
        "Search the web",
        (Parameter(("query", "q", "search_query"), "string", "What to search for"),),
        (
            "Search the web for {0}",
            "Search for {0}",
            "Look up {0}",
            "Find something about {0}",
            "Please search: {0}",
        ),
        lambda draw: (short_text(draw),),
        valued("text", plain_sentence, "I found this: {r}"),
        is_open=True,
    ),
    "calculate": Kind(
        ("calculate", "calculator", "eval_expression"),
        "Calculate an expression",
        (Parameter(("expression", "formula"), "string", "The expression to calculate"),),
        (
            "Calculate {0}",
            "What is {0}?",
            "Use the calculator: {0}",
            "How much is {0}?",
            "Compute {0}",
        ),
        lambda draw: (f"{draw.number()} {draw.pick('+-*/')} {draw.number()}",),
        valued("result", lambda draw: draw.number(6), "The result is {r}."),
    ),
    "add": Kind(
        ("add", "add_numbers", "sum_two"),
        "Add two numbers",
        (
            Parameter(("a", "x", "first"), "integer", "The first number"),
            Parameter(("b", "y", "second"), "integer", "The second number"),
        ),
        (
            "Add {0} and {1}.",
            "What is {0} + {1}?",
            "What is {0} plus {1}?",
            "Use the tool to add {0} and {1}.",
        ),
        lambda draw: (draw.number(), draw.number()),
        valued("sum", lambda draw: draw.number(), "The sum of {0} and {1} is {r}."),
    ),
    "message": Kind(
        ("send_message", "send_text", "message"),
        "Send a message to somebody",
        (
            Parameter(("to", "recipient", "name"), "string", "Who gets it"),
            Parameter(("text", "message", "body"), "string", "What it says"),
        ),
        (
            "Send a message to {0}: {1}",
            "Text {0}: {1}",
            "Write to {0}: {1}",
            "Send {0} the message {1}",
        ),
        lambda draw: (draw.name(), short_text(draw)),
        done("I sent the message to {0}."),
        is_open=True,
    ),
    "email": Kind(
        ("send_email", "write_email", "email"),
        "Send an email",
        (
            Parameter(("to", "recipient"), "string", "Who gets it"),
            Parameter(("subject", "title"), "string", "The subject"),
        ),
        (
            'Send an email to {0} with the subject "{1}".',
            'Email {0} about "{1}".',
            'Write an email to {0}, subject "{1}".',
        ),
        lambda draw: (draw.name(), short_text(draw)),
        done("I sent the email to {0}."),
    ),
    "timer": Kind(
        ("set_timer", "start_timer", "timer"),
        "Start a timer",
        (Parameter(("minutes", "duration"), "integer", "How many minutes"),),
        (
            "Set a timer for {0} minutes.",
            "Start a timer of {0} minutes.",
            "Timer for {0} minutes, please.",
            "I need a {0} minute timer.",
        ),
        lambda draw: (draw.number(3),),
        done("The timer is set for {0} minutes."),
    ),
    "alarm": Kind(
        ("set_alarm", "wake_up", "alarm"),
        "Set an alarm",
        (Parameter(("time", "at"), "string", "When, as HH:MM"),),
        (
            "Wake me at {0}.",
            "Set an alarm for {0}.",
            "Alarm at {0}, please.",
            "I must get up at {0}.",
        ),
        lambda draw: (clock(draw),),
        done("The alarm is set for {0}."),
    ),
    "translate": Kind(
        ("translate", "translate_text"),
        "Translate a text",
        (
            Parameter(("text", "input"), "string", "The text"),
            Parameter(("language", "target", "to"), "string", "The language to translate to"),
        ),
        (
            'Translate "{0}" to {1}.',
            'Translate "{0}" into {1}.',
            'What is "{0}" in {1}?',
            'How do you say "{0}" in {1}?',
        ),
        lambda draw: (short_text(draw), draw.pick(SPOKEN)),
        valued("translation", short_text, "In {1} it is: {r}"),
    ),
    "music": Kind(
        ("play_music", "play_song", "play"),
        "Play a song",
        (Parameter(("song", "title", "track"), "string", "The song"),),
        ('Play the song "{0}".', 'Play "{0}".', 'I want to hear "{0}".', 'Put on "{0}".'),
        lambda draw: (short_text(draw),),
        done("Now playing: {0}"),
    ),
    "read_file": Kind(
        ("read_file", "Read", "open_file", "view_file"),
        "Read a file",
        (Parameter(("path", "filepath", "filename", "file"), "string", "The path of the file"),),
        (
            "Read the file {0}",
            "Show me {0}",
            "What is in {0}",
            "Open the file {0}",
            "Please read {0}",
            "cat {0}",
        ),
        lambda draw: (path(draw),),
        valued("content", lambda draw: text_to_copy(draw, 80), "The file says: {r}"),
        is_open=True,
    ),
    "run": Kind(
        ("run_command", "exec_command", "shell", "bash", "Bash", "execute"),
        "Run a command in a shell",
        (Parameter(("command", "cmd"), "string", "The command"),),
        (
            "Run the command {0}",
            "run {0}",
            "Execute {0}",
            "run the command {0}",
            "Please run {0}",
            "Run this: {0}",
            "Use the shell: {0}",
        ),
        lambda draw: (command(draw),),
        valued("output", lambda draw: text_to_copy(draw, 60), "The output is: {r}"),
        is_open=True,
    ),
    "light": Kind(
        ("set_light", "switch_light", "light"),
        "Switch a light",
        (
            Parameter(("room", "where"), "string", "The room"),
            Parameter(("state", "value"), "string", "on or off"),
        ),
        (
            "Turn the light in the {0} {1}.",
            "Switch the light in the {0} {1}.",
            "Light in the {0} {1}, please.",
        ),
        lambda draw: (draw.pick((*ROOMS, draw.invented())), draw.pick(("on", "off"))),
        done("The light in the {0} is {1}."),
    ),
    "dice": Kind(
        ("roll_dice", "roll", "roll_die"),
        "Roll a die",
        (Parameter(("sides", "faces"), "integer", "How many sides"),),
        (
            "Roll a die with {0} sides.",
            "Roll a {0} sided die.",
            "Throw a die with {0} sides.",
            "Roll a d{0}.",
        ),
        lambda draw: (draw.number(3),),
        valued("roll", lambda draw: draw.between(1, 100), "You rolled {r}."),
    ),
    "remind": Kind(
        ("remind", "create_reminder", "add_reminder"),
        "Set a reminder",
        (Parameter(("text", "what", "task"), "string", "What to remind of"),),
        ("Remind me of {0}", "Remind me: {0}", "Set a reminder: {0}", "Do not let me forget {0}"),
        lambda draw: (short_text(draw),),
        done("I will remind you of {0}."),
        is_open=True,
    ),
    "user": Kind(
        ("lookup_user", "get_user", "find_person"),
        "Look up a person",
        (Parameter(("name", "user", "username"), "string", "The name of the person"),),
        (
            "Look up the user {0}.",
            "Find the user {0}.",
            "Who is the user {0}?",
            "Get the user {0}.",
            "Search the user {0}.",
        ),
        lambda draw: (draw.name(),),
        valued("city", lambda draw: draw.city(), "{0}: {r}"),
    ),
    "convert": Kind(
        ("convert_currency", "convert", "exchange"),
        "Convert money",
        (
            Parameter(("amount", "value"), "integer", "How much"),
            Parameter(("from_currency", "source", "from"), "string", "From"),
            Parameter(("to_currency", "target", "to"), "string", "To"),
        ),
        (
            "Convert {0} {1} to {2}.",
            "How much is {0} {1} in {2}?",
            "Change {0} {1} into {2}.",
            "{0} {1} in {2}?",
        ),
        lambda draw: (draw.number(), *draw.sample(CURRENCIES, 2)),
        valued("amount", lambda draw: draw.number(), "{0} {1} are {r} {2}."),
    ),
    "date": Kind(
        ("get_date", "today", "current_date"),
        "Get the date of today",
        (),
        (
            "What is the date today?",
            "What date is it?",
            "Tell me the date.",
            "Which date is it today?",
            "Today's date?",
        ),
        lambda draw: (),
        valued("date", date, "Today is {r}."),
    ),
    "list_files": Kind(
        ("list_files", "ls", "list_directory"),
        "List the files",
        (),
        (
            "Which files are here?",
            "List the files.",
            "Show all files.",
            "What files do I have?",
            "List all files here.",
        ),
        lambda draw: (),
        valued(
            "files",
            lambda draw: ", ".join(path(draw) for _ in range(draw.between(1, 3))),
            "The files are: {r}",
        ),
    ),
    "event": Kind(
        ("create_event", "add_to_calendar", "book_meeting"),
        "Add an event to the calendar",
        (
            Parameter(("title", "name", "event"), "string", "What"),
            Parameter(("date", "day"), "string", "When, as YYYY-MM-DD"),
        ),
        (
            'Add "{0}" to my calendar on {1}.',
            'Create the event "{0}" on {1}.',
            'Book "{0}" for {1}.',
        ),
        lambda draw: (short_text(draw), date(draw)),
        done("{0} is in your calendar on {1}."),
    ),
}


def some_text(draw: Draw) -> str:
    makers: Makers = (draw.name, draw.city, draw.split_word)
    return draw.pick(makers)()


def invented_kind(draw: Draw) -> Kind:
    """A tool that nobody has heard of; the request names it or its noun."""
    noun = draw.split(draw.word)
    verb = draw.pick(
        ("get", "find", "make", "update", "delete", "check", "start", "count", "fetch", "create")
    )
    name = draw.pick(
        (f"{verb}_{noun}", f"{verb}{noun.capitalize()}", f"{verb}-{noun}", f"{noun}_{verb}")
    )
    types = [draw.pick(("string", "string", "integer")) for _ in range(draw.pick((1, 1, 2, 2, 3)))]
    names = [draw.pick((draw.pick(COMMON), draw.pick(COMMON), draw.invented(1, 2))) for _ in types]
    names = [f"{name}{i}" if name in names[:i] else name for i, name in enumerate(names)]
    listed = " and ".join(f"{name} {{{i}}}" for i, name in enumerate(names))
    assigned = ", ".join(f"{name}={{{i}}}" for i, name in enumerate(names))
    return Kind(
        (name,),
        f"{verb.capitalize()} the {noun}",
        tuple(Parameter((n,), t, f"The {n}") for n, t in zip(names, types, strict=True)),
        (
            f"Use {name} with {listed}.",
            f"Call {name} with {listed}.",
            f"{verb.capitalize()} the {noun} with {listed}.",
            f"Please {verb} the {noun} where {listed}.",
            f"Use the tool {name}: {assigned}",
            f"{name}({assigned})",
        ),
        lambda draw: tuple(draw.number() if t == "integer" else some_text(draw) for t in types),
        valued(
            noun, lambda draw: draw.pick((short_text(draw), draw.number())), "The result is: {r}"
        ),
        is_open=True,
    )

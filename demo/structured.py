"""JSON on request: with the keys that the user names, or after a schema in the system prompt."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo.conversation import Answer, Conversation, is_json
from demo.talk import any_fact
from demo.words import Draw

SCHEMA_PROMPTS = (
    "Answer in JSON that matches this schema:\n{}",
    "Answer only with JSON that matches this JSON schema:\n{}",
    "Respond with a JSON object that matches this schema: {}",
    "Respond only with JSON that conforms to the following schema.\n{}",
    "Reply with JSON for this schema:\n\n{}",
    "Your answer must be a JSON object that fits this JSON Schema:\n{}",
    "You must answer in JSON. The schema is:\n{}",
    "Output JSON only, following this schema:\n```json\n{}\n```",
    "Here's the json schema you must adhere to:\n<schema>\n{}\n</schema>",
    "# Response format\n\n{}",
)
"""How servers and people hand a schema to a model; the first is the one to use."""

OBJECT_PROMPTS = (
    "Answer with a JSON object.",
    "Answer in JSON.",
    "Respond with JSON only.",
    "Reply with a JSON object.",
)

KEY_REQUESTS = (
    "Write JSON with the keys {}. {}",
    "Give me a JSON object with the keys {}. {}",
    "{1} Answer in JSON with the keys {0}.",
    "{1} Make a JSON object with the keys {0}.",
    "Return JSON with {}. {}",
    "Extract {} as JSON: {}",
    "Turn this into JSON with the keys {}: {}",
    "{1}\nReply with JSON, keys: {0}",
    "{1} Please give me {0} as JSON.",
)

EXAMPLES = (
    "x|give|p|go|Give me an example.|Make one up.|Fill it in.|An example, please.|hi|w|Invent "
    "something.|json please|Anything."
).split("|")


@dataclass(frozen=True)
class Field:
    """Something that a text can say about its subject: its keys, its wording, its values."""

    keys: tuple[str, ...]
    said: str
    value: Callable[[Draw], Any]


def adult(draw: Draw) -> int:
    return int(draw.split(lambda: str(draw.between(1, 99))))


def thing(draw: Draw) -> str:
    return draw.split(draw.word)


PERSON = (
    Field(("name", "full_name", "person", "user"), "{} is a person", lambda draw: draw.name()),
    Field(("age", "years"), "is {} years old", adult),
    Field(("city", "town", "home", "location"), "lives in {}", lambda draw: draw.city()),
    Field(("color", "favorite_color"), "likes the color {}", lambda draw: draw.color()),
    Field(("job", "profession", "occupation"), "works as a {}", thing),
    Field(("pet", "pet_name"), "has a pet called {}", lambda draw: draw.name()),
    Field(("number", "lucky_number"), "has the number {}", lambda draw: draw.number()),
    Field(("hobby", "interest"), "loves {}", thing),
    Field(
        ("country", "land"),
        "was born in {}",
        lambda draw: draw.split(lambda: draw.invented(2, 3).capitalize()),
    ),
)
PRODUCT = (
    Field(("product", "name", "item", "title"), "{} is a product", thing),
    Field(("price", "cost"), "costs {}", lambda draw: draw.number()),
    Field(("color",), "is {}", lambda draw: draw.color()),
    Field(
        ("quantity", "amount", "count", "stock"), "is there {} times", lambda draw: draw.number(3)
    ),
    Field(("brand", "maker"), "is made by {}", lambda draw: draw.name()),
    Field(("city", "origin"), "comes from {}", lambda draw: draw.city()),
    Field(("weight", "size"), "weighs {} grams", lambda draw: draw.number()),
)
EVENT = (
    Field(("event", "title", "name"), "{} is an event", thing),
    Field(("place", "city", "location"), "takes place in {}", lambda draw: draw.city()),
    Field(("guests", "people", "participants"), "has {} guests", lambda draw: draw.number(3)),
    Field(("host", "organizer", "speaker"), "is hosted by {}", lambda draw: draw.name()),
    Field(("year", "date"), "happens in {}", lambda draw: draw.between(1900, 2100)),
    Field(
        ("day", "weekday"),
        "is on a {}",
        lambda draw: draw.pick("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    ),
)
RECORDS = (PERSON, PERSON, PRODUCT, EVENT)

GROUPS = (
    "person address details data item info product event result owner user contact place profile "
    "order"
).split()


@dataclass
class Record:
    """Values under keys, and a text that tells them all."""

    values: dict[str, Any] = field(default_factory=dict)
    text: str = ""


def join_and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def described(draw: Draw, count: int) -> Record:
    """A person, product or event in a sentence or two, with so many of its fields."""
    kind = draw.pick(RECORDS)
    first, *others = kind
    chosen = [first, *draw.sample(others, min(count, len(kind)) - 1)]
    record, said, used = Record(), [], set()
    for item in chosen:
        key = draw.pick([key for key in item.keys if key not in used] or [f"{item.keys[0]}_2"])
        used.add(key)
        record.values[key] = item.value(draw)
        said.append(item.said.format(record.values[key]))
    subject = str(record.values[next(iter(record.values))])
    if len(said) == 1:
        record.text = said[0] + "."
    elif draw.chance(0.5):
        record.text = f"{subject} {join_and(said[1:])}."
    else:
        record.text = (
            f"{said[0]}. It {join_and(said[1:])}."
            if kind is not PERSON
            else f"{said[0]} and {join_and(said[1:])}."
        )
    return record


def some_value(draw: Draw) -> str | int:
    makers: tuple[Callable[[], str | int], ...] = (
        draw.name,
        draw.city,
        draw.color,
        draw.split_word,
        draw.number,
        draw.number,
        lambda: draw.chance(0.5),
    )
    return draw.pick(makers)()


def listed(draw: Draw, count: int) -> Record:
    """Any keys with any values, told plainly: "zorp is 12", "zorp: 12"."""
    record = Record()
    while len(record.values) < count:
        key = draw.word() if draw.chance(0.8) else f"{draw.word()}_{draw.word()}"
        value = some_value(draw)
        record.values[key] = value
    told = [
        (key, json.dumps(value) if isinstance(value, bool) else str(value))
        for key, value in record.values.items()
    ]
    order = draw.sample(told, len(told)) if draw.chance(0.3) else told
    kind = draw.random.random()
    if kind < 0.4:
        record.text = join_and([f"{key} is {value}" for key, value in order]) + "."
        record.text = draw.pick(("The ", "")) + record.text
    elif kind < 0.7:
        record.text = "\n".join(f"{key}: {value}" for key, value in order)
    else:
        record.text = ", ".join(f"{key}={value}" for key, value in order)
    return record


def some_record(draw: Draw, most: int) -> Record:
    make = described if draw.chance(0.55) else listed
    return make(draw, draw.between(1, most))


def nested(draw: Draw, record: Record) -> dict[str, Any]:
    """The record's values with one run of them moved into a group, or one of them into a list."""
    items = list(record.values.items())
    start = draw.between(0, len(items) - 1)
    stop = draw.between(start + 1, len(items))
    group = draw.pick([group for group in GROUPS if group not in record.values])
    if draw.chance(0.2):
        key, value = items[start]
        return {**dict(items[:start]), key: [value], **dict(items[start + 1 :])}
    return {**dict(items[:start]), group: dict(items[start:stop]), **dict(items[stop:])}


def schema_for(draw: Draw, value: Any, title: str | None = None) -> dict[str, Any]:
    """The JSON schema of a value, dressed as one of many clients would."""
    match value:
        case bool():
            schema: dict[str, Any] = {"type": "boolean"}
        case int():
            schema = {"type": draw.pick(("integer", "integer", "number"))}
        case str():
            schema = {"type": "string"}
        case list():
            schema = {"type": "array", "items": schema_for(draw, value[0])}
        case _:
            properties = {
                key: schema_for(draw, inner, key.title() if title else None)
                for key, inner in value.items()
            }
            schema = {"type": "object", "properties": properties, "required": list(value)}
            if draw.chance(0.5):
                schema["additionalProperties"] = False
            if draw.chance(0.25):
                schema = {
                    "properties": schema.pop("properties"),
                    "required": schema.pop("required"),
                    **schema,
                }
    return {"title": title, **schema} if title else schema


def with_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its nested object moved to $defs, as typed clients write it."""
    for key, inner in schema["properties"].items():
        if inner["type"] == "object":
            properties = {**schema["properties"], key: {"$ref": f"#/$defs/{key.title()}"}}
            return {"$defs": {key.title(): inner}, **schema, "properties": properties}
    return schema


def schema_prompt(draw: Draw, value: dict[str, Any]) -> str:
    """A system prompt that asks for JSON of the shape of this value."""
    schema = schema_for(
        draw,
        value,
        draw.pick(("Output", "Result", "Answer", "Person")) if draw.chance(0.35) else None,
    )
    if draw.chance(0.2):
        schema = with_definitions(schema)
    if draw.chance(0.1):
        schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    text = json.dumps(schema, ensure_ascii=False, indent=draw.pick((None, None, None, None, 2)))
    prompt = SCHEMA_PROMPTS[0] if draw.chance(0.35) else draw.pick(SCHEMA_PROMPTS)
    return prompt.format(text)


def written(draw: Draw, value: Any) -> str:
    """The value as the assistant writes it: nearly always with spaces, sometimes without."""
    if draw.chance(0.06):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(value, ensure_ascii=False)


def answer_json(conversation: Conversation, question: str, value: Any) -> None:
    text = written(conversation.draw, value)
    conversation.say(question, text, "I should answer with JSON.", is_json(value))


def ask_keys(conversation: Conversation) -> None:
    """The user names the keys and tells the values, perhaps more of them than are asked for."""
    draw = conversation.draw
    record = some_record(draw, 5)
    keys = list(record.values)
    if draw.chance(0.4):
        keys = draw.sample(keys, draw.between(1, len(keys)))
    question = draw.pick(KEY_REQUESTS).format(join_and(keys), record.text)
    answer_json(conversation, question, {key: record.values[key] for key in keys})


def set_schema(conversation: Conversation) -> None:
    """Give the conversation a system prompt with a schema, and ask the question that it is for."""
    draw = conversation.draw
    kind = draw.random.random()
    if kind < 0.72:
        record = some_record(draw, 5)
        value = nested(draw, record) if draw.chance(0.5) else record.values
        conversation.system = schema_prompt(draw, value)
        answer_json(
            conversation,
            draw.pick(("", "", "", "Extract: ", "Here is the text: ")) + record.text,
            value,
        )
    elif kind < 0.86:
        _answer_in_a_field(conversation)
    else:
        _invent(conversation)


def _answer_in_a_field(conversation: Conversation) -> None:
    """A fact under the one key of the schema, or of a plain JSON object."""
    draw = conversation.draw
    question, fact = any_fact(draw)
    key = draw.pick(("answer", "answer", "text", "reply", "response", "output", "result"))
    value = {key: fact.answer}
    if draw.chance(0.3):
        conversation.system, value = draw.pick(OBJECT_PROMPTS), {"answer": fact.answer}
    else:
        conversation.system = schema_prompt(draw, value)
    answer_json(conversation, question, value)


def _invent(conversation: Conversation) -> None:
    """Nothing is told: any values of the right types will do."""
    draw = conversation.draw
    record = some_record(draw, 4)
    value = nested(draw, record) if draw.chance(0.3) else record.values
    conversation.system = schema_prompt(draw, value)
    conversation.say(
        draw.pick(EXAMPLES),
        written(draw, value),
        "I should answer with JSON of this shape.",
        has_shape(value),
    )


def has_shape(expected: Any) -> Callable[[Answer], bool]:
    """The answer is JSON with the same keys and types."""

    def shape(value: Any) -> Any:
        match value:
            case dict():
                return {key: shape(inner) for key, inner in value.items()}
            case list():
                return [shape(value[0])] if value else []
            case _:
                return type(value)

    def check(answer: Answer) -> bool:
        try:
            return bool(shape(json.loads(answer.text)) == shape(expected))
        except ValueError:
            return False

    return check

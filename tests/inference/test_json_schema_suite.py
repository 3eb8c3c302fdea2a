"""The JSON Schema Test Suite, as far as OpenAI's strict mode allows its schemas, and Zod's schemas.

`tests/json_schema_suite/` holds the suite's own groups for draft 2020-12 (MIT, see its LICENSE)
whose schemas use no keyword but those that strict mode knows.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.grammar import Grammars
from inference.parser import Markers
from parts import Constraint, InvalidRequest, Message, Prompt
from tests import demo
from tests.conftest import ROOT
from tests.serving import run

SUITE: dict[str, list[dict[str, Any]]] = json.loads(
    (ROOT / "tests" / "json_schema_suite" / "draft2020-12.json").read_text(encoding="utf-8")
)
GROUPS = [(name, group) for name, groups in SUITE.items() for group in groups]

REFUSED = {
    "anyOf with boolean schemas, all false": "Unsatisfiable",
    "$ref to boolean schema false": "Unsatisfiable",
    "float division = inf": "multipleOf is finer or larger",
}
"""Groups that are refused: two that nothing satisfies, and one that no automaton can count."""

WHOLE = "a whole number is never written with a fraction"
QUOTED = "a mailbox in quotes, or at an IPv6 address, is not written"
MIXED = "the end of an IPv6 address is not written as an IPv4 address"
LEAP_SECOND = "a leap second is never written"
STRICTER = {
    "float zero is valid": WHOLE,
    "float one is valid": WHOLE,
    "float -2.0 is valid": WHOLE,
    "float is valid": WHOLE,
    "[0.0] is valid": WHOLE,
    "[1.0] is valid": WHOLE,
    "a float with zero fractional part is an integer": WHOLE,
    "a quoted string with a space in the local part is valid": QUOTED,
    "a quoted string with a double dot in the local part is valid": QUOTED,
    "a quoted string with a @ in the local part is valid": QUOTED,
    "an IPv6-address-literal after the @ is valid": QUOTED,
    "mixed format with the ipv4 section as decimal octets": MIXED,
    "mixed format with double colons between the sections": MIXED,
    "mixed format with leading double colons (ipv4-mapped ipv6 address)": MIXED,
    "a long valid ipv6": MIXED,
    "a valid date-time with a leap second, UTC": LEAP_SECOND,
    "a valid date-time with a leap second, with minus offset": LEAP_SECOND,
    "a valid time string with leap second, Zulu": LEAP_SECOND,
    "valid leap second, zero time-offset": LEAP_SECOND,
    "valid leap second, positive time-offset": LEAP_SECOND,
    "valid leap second, large positive time-offset": LEAP_SECOND,
    "valid leap second, negative time-offset": LEAP_SECOND,
    "valid leap second, large negative time-offset": LEAP_SECOND,
}
"""Valid instances that the grammar never writes: all that it writes is valid."""


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, Markers.of(tokenizer), vocab_size=demo.VOCAB_SIZE)


def compiled(grammars: Grammars, schema: Any) -> Any:
    prompt = Prompt(
        (Message("user", "Hello!"),),
        template_args={"enable_thinking": False},
        constraint=Constraint("json", schema),
    )
    guide = grammars.guide(prompt, [1])
    assert guide is not None
    return guide._matcher


def writings(value: Any) -> Iterator[str]:
    """The ways to write a value on one line: the schema decides on the order of the names."""
    match value:
        case dict():
            for members in itertools.permutations(value.items()):
                names = [json.dumps(name, ensure_ascii=False) for name, _ in members]
                for texts in itertools.product(*(list(writings(v)) for _, v in members)):
                    pairs = zip(names, texts, strict=True)
                    yield "{" + ", ".join(f"{name}: {text}" for name, text in pairs) + "}"
        case list():
            for texts in itertools.product(*(list(writings(v)) for v in value)):
                yield "[" + ", ".join(texts) + "]"
        case _:
            yield json.dumps(value, ensure_ascii=False)


def accepts(grammars: Grammars, matcher: Any, text: str) -> bool:
    tokens = grammars._tokens.tokenize_bytes(text.encode())
    matcher = matcher.deep_copy()
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize("name", SUITE)
def test_valid_instances_are_what_the_grammar_accepts(grammars: Grammars, name: str) -> None:
    for group in SUITE[name]:
        told = group["description"]
        if told in REFUSED:
            with pytest.raises(InvalidRequest, match=REFUSED[told]):
                compiled(grammars, group["schema"])
            assert not any(test["valid"] for test in group["tests"])
            continue
        matcher = compiled(grammars, group["schema"])
        for test in group["tests"]:
            said = test["description"]
            accepted = any(accepts(grammars, matcher, text) for text in writings(test["data"]))
            assert accepted == (test["valid"] and said not in STRICTER), (name, told, said)


def test_every_deviation_is_one_of_the_suites_tests() -> None:
    tests = [test for _, group in GROUPS for test in group["tests"]]
    assert {test["description"] for test in tests if test["valid"]} >= STRICTER.keys()
    assert {group["description"] for _, group in GROUPS} >= REFUSED.keys()


# What Zod writes


@pytest.fixture(scope="module")
def zod(node_folder: Path) -> dict[str, Any]:
    """Zod's schemas by name, each with an instance that it accepts and one that it does not."""
    script = shutil.copy(ROOT / "tests" / "node" / "zod.mjs", node_folder)
    found: dict[str, Any] = json.loads(run(["node", str(script)], node_folder))
    return found


def test_what_zod_accepts_is_what_the_grammar_accepts(
    grammars: Grammars, zod: dict[str, Any]
) -> None:
    assert len(zod) > 8
    for name, case in zod.items():
        for schema in case["schemas"]:
            matcher = compiled(grammars, schema)
            for instance, is_valid in ((case["valid"], True), (case["invalid"], False)):
                texts = writings(instance)
                assert any(accepts(grammars, matcher, t) for t in texts) is is_valid, (name, schema)

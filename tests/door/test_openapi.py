"""The API's description is valid, whole, and true."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate

from door.openapi import operations
from door.settings import Settings
from parts import Reasoning, Text
from server import create_app
from tests.door.asking import create
from tests.scripted import ScriptedEngine, says
from tests.serving import serving

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    made: Json = create_app(Settings(no_conversation_logs=True), ScriptedEngine()).openapi()
    return made


def test_the_document_is_valid_openapi(document: Json) -> None:
    validate(document)


def test_every_endpoint_is_put_into_words(document: Json) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        assert set(operation["tags"]) <= tags and operation["tags"], (method, path)
        assert operation["summary"] and operation["description"], (method, path)
        assert "default" in operation["responses"], (method, path)
        for answer in operation["responses"].values():
            assert answer["description"] and answer["content"]
        for parameter in operation["parameters"]:
            assert parameter["description"], (path, parameter["name"])
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"], path


def test_what_is_made_leads_to_what_can_be_done_with_it(document: Json) -> None:
    links = document["paths"]["/v1/responses"]["post"]["responses"]["200"]["links"]
    ids = {o["operationId"] for _, path, o in operations(document) if "{response_id}" in path}
    assert set(links) == ids and len(ids) == 4


def test_every_field_of_a_request_is_put_into_words(document: Json) -> None:
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Request", "Options", "Message", "Part")):
            assert schema["description"], name
            for field, its in schema["properties"].items():
                assert its.get("description"), f"{name}.{field} is not in api_text.FIELDS"


def test_every_example_is_answered_as_its_endpoint_says(document: Json) -> None:
    engine = ScriptedEngine()
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url:
        conversation = httpx.post(f"{url}/v1/conversations", json={}).json()["id"]
        for method, path, operation in operations(document):
            if "requestBody" not in operation:
                continue
            examples = operation["requestBody"]["content"]["application/json"]["examples"]
            for name, example in examples.items():
                place = path.replace("{conversation_id}", conversation)
                answer = httpx.request(method, url + place, json=example["value"], timeout=20)
                assert answer.status_code == 200, (path, name, answer.text)
                assert_fits(document, operation, answer)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/health", "/health"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/{model}", "/v1/models/demo"),
        ("/v1/models/{model}", "/v1/models/other"),
        ("/v1/responses/{response_id}", "/v1/responses/resp_x"),
        ("/v1/conversations/{conversation_id}/items", "/v1/conversations/conv_x/items"),
        ("/metrics", "/metrics"),
    ],
)
def test_answers_have_the_declared_form(
    document: Json, scripted_url: str, path: str, asked: str
) -> None:
    assert_fits(document, document["paths"][path]["get"], httpx.get(scripted_url + asked))


def test_stored_conversations_have_the_declared_form(document: Json) -> None:
    engine = ScriptedEngine(says(Reasoning("Hm."), Text("Hello")))
    with serving(create_app(Settings(no_conversation_logs=True), engine)) as url:
        made = create(url, "one")["id"]
        create(url, "two", previous_response_id=made)
        items = [{"type": "message", "role": "user", "content": "by hand"}]
        httpx.post(f"{url}/v1/conversations", json={"items": items})
        listed = assert_answered(document, url, "/conversations").json()["data"]
        assert [each["num_responses"] for each in listed] == [0, 2]
        for id in (each["id"] for each in listed):
            assert_answered(document, url, "/conversations/{conversation_id}", id)
            for format in ("md", "json", "jsonl"):
                path = "/conversations/{conversation_id}/export"
                assert_answered(document, url, path, id, format=format)
        assert_answered(document, url, "/conversations/{conversation_id}", "resp_x")
        assert_answered(document, url, "/conversations", q="x" * 201)
        path = "/conversations/{conversation_id}"
        deleted = httpx.delete(f"{url}/conversations/{made}")
        assert_fits(document, document["paths"][path]["delete"], deleted)


def assert_answered(
    document: Json, url: str, path: str, id: str = "", **query: str
) -> httpx.Response:
    answer = httpx.get(url + path.replace("{conversation_id}", id), params=query)
    assert_fits(document, document["paths"][path]["get"], answer)
    return answer


def assert_fits(document: Json, operation: Json, answer: httpx.Response) -> None:
    """See that an answer has the status, the kind and the form that are declared."""
    declared = operation["responses"][str(answer.status_code)]["content"]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in declared
    if kind == "application/json":
        schema = {**declared[kind]["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


def test_the_document_is_served(scripted_url: str, document: Json) -> None:
    served = httpx.get(f"{scripted_url}/openapi.json").json()
    assert served == document
    assert served["info"]["version"]

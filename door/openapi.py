"""The OpenAPI document: the schema that FastAPI makes of the routes, put into words.

It is what the page at `/docs` shows, and what other tools read at `/openapi.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI

from door.api_text import (
    ABOUT,
    ENDPOINTS,
    ERRORS,
    FIELDS,
    PATH_TEXT,
    SCHEMAS,
    TAGS,
    Endpoint,
    Json,
)

FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")

MAKES = {"/v1/responses": "response_id", "/v1/conversations": "conversation_id"}
"""Endpoints that make things, and the variable that stands for their ids in other paths."""


def describe(app: FastAPI) -> None:
    """Have the application describe itself in our words. For when all routes are there."""
    app.description = ABOUT
    app.openapi_tags = [{"name": name, "description": text} for name, text in TAGS.items()]
    made = app.openapi

    def described() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _described(made())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _described(document: Json) -> Json:
    for method, path, operation in operations(document):
        endpoint = ENDPOINTS.get((method, path))
        if endpoint is not None:
            operation |= _operation(operation, endpoint)
    for path, variable in MAKES.items():
        document["paths"][path]["post"]["responses"]["200"]["links"] = _links(document, variable)
    components = document["components"]
    schemas = {k: v for k, v in components["schemas"].items() if k not in FASTAPIS_OWN}
    for name, schema in schemas.items():
        _describe_fields(name, schema)
    components["schemas"] = schemas | SCHEMAS
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "The server's `--api-key`, if it has one.",
        }
    }
    document["servers"] = [{"url": "/"}]
    return document


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Every method of every path, with what is said of it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _links(document: Json, variable: str) -> Json:
    """Where the id of what was made leads, for tools that follow it."""
    found = [o["operationId"] for _, path, o in operations(document) if f"{{{variable}}}" in path]
    value = {variable: "$response.body#/id"}
    return {name: {"operationId": name, "parameters": value} for name in found}


def _operation(found: Json, endpoint: Endpoint) -> Json:
    """The fields of an operation that are ours to say."""
    said: Json = {
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.text,
        "responses": {"200": _answer(endpoint)} | _failures(endpoint.errors),
        "security": [{}, {"key": []}],
        "parameters": [
            {**each, "description": PATH_TEXT.get(each["name"], "")}
            for each in found.get("parameters", ())
        ],
    }
    if endpoint.summary == "Look after the server":
        said["responses"]["503"] = {**_answer(endpoint), "description": "The server cannot serve."}
        said["security"] = []
    if "requestBody" in found:
        (content,) = found["requestBody"]["content"].values()
        examples = {name: {"value": body} for name, body in endpoint.examples.items()}
        body = {"application/json": {**content, "examples": examples}}
        said["requestBody"] = {**found["requestBody"], "content": body}
    return said


def _answer(endpoint: Endpoint) -> Json:
    content: Json = {}
    if endpoint.files:
        content = {kind: {"schema": _file(kind)} for kind in endpoint.files}
    elif endpoint.schema:
        content["application/json"] = {"schema": _ref(endpoint.schema)}
    else:
        content["text/plain"] = {"schema": {"type": "string"}}
    if endpoint.stream:
        # Without a schema: readers do not agree whether it would be of the text or of each event.
        content["text/event-stream"] = {"example": endpoint.stream}
    return {"description": endpoint.answer, "content": content}


def _failures(statuses: Iterable[int]) -> Json:
    content = {"application/json": {"schema": _ref("Error")}}
    told = {str(s): {"description": ERRORS[s], "content": content} for s in sorted(set(statuses))}
    return told | {"default": {"description": "Any other failure.", "content": content}}


def _file(kind: str) -> Json:
    return {"type": "object"} if kind == "application/json" else {"type": "string"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _describe_fields(name: str, schema: Json) -> None:
    fields: dict[str, Any] = schema.get("properties", {})
    for each, its in fields.items():
        text = FIELDS.get(f"{name}.{each}") or FIELDS.get(each)
        its.pop("title", None)
        if text is not None:
            its["description"] = text

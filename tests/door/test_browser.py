"""The conversation browser's routes: for our own pages only, over memory and the archive alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from door.settings import Settings
from parts import EngineFailed, NotFound, Reasoning, Text, ToolArguments, ToolCall, Usage
from protocol import browser, record
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.door.asking import WEATHER, Json, create, get, post, refusal
from tests.oracle import assert_envelope
from tests.protocol.turns import Clock, say
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until


class Place:
    """A server whose clock the test moves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock, self.wall = Clock(), Clock(1_795_357_805.0)
        self.engine = ScriptedEngine()
        self.store = self.opened()
        self.url = ""

    def opened(self) -> Store:
        archive = Archive(self.folder, clock=self.clock, now=self.wall)
        return Store(archive, clock=self.clock, now=self.wall)

    def archive_all(self) -> None:
        self.clock.advance(self.store.ttl)
        self.store.sweep()
        assert self.store.num_conversations == 0

    def get(self, path: str = "", headers: dict[str, str] | None = None, **query: str) -> Json:
        answer = self.answer(path, headers, **query)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def answer(
        self, path: str = "", headers: dict[str, str] | None = None, **query: str
    ) -> httpx.Response:
        url = f"{self.url}/conversations{path}"
        return httpx.get(url, params=query, headers=headers, timeout=20)

    def titles(self, **query: str) -> list[str]:
        return [entry["title"] for entry in self.get(**query)["data"]]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "logs")
    with serving(create_app(Settings(), made.engine, made.store)) as made.url:
        yield made


def test_every_conversation_is_listed_the_last_used_first(place: Place) -> None:
    first = create(place.url, "Tell me of foxes.")["id"]
    place.wall.advance(10)
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key="none") as client:
        client.responses.create(model="m", input="Tell me of owls.")
    place.archive_all()
    place.wall.advance(10)
    last = create(place.url, "And of wolves?", previous_response_id=first)["id"]
    create(place.url, "Nothing of this is kept.", store=False)
    foxes, owls = place.get()["data"]
    assert foxes == {
        "id": first,
        "object": "conversation.summary",
        "title": "Tell me of foxes.",
        "source": "python-httpx",
        "created_at": 1_795_357_805,
        "updated_at": 1_795_357_825,
        "num_responses": 2,
        "last_response_id": last,
        "is_archived": False,
    }
    assert (owls["title"], owls["source"], owls["is_archived"]) == (
        "Tell me of owls.",
        "openai-python",
        True,
    )


def test_the_list_comes_in_pages(place: Place) -> None:
    for number in range(5):
        place.wall.advance(1)
        say(place.store, f"number {number}")
    page = place.get(limit="2")
    assert ([e["title"] for e in page["data"]], page["has_more"]) == (
        ["number 4", "number 3"],
        True,
    )
    rest = place.get(after=page["last_id"], limit="100")
    assert ([e["title"] for e in rest["data"]], rest["has_more"]) == (
        ["number 2", "number 1", "number 0"],
        False,
    )
    assert refusal(place.answer(after="resp_0")) == (400, "invalid_value", "after")
    assert refusal(place.answer(limit="0"))[::2] == (400, "limit")


def test_what_was_said_is_found_wherever_it_lies(place: Place) -> None:
    place.engine.script = says(Reasoning("Reynard comes to mind."), Text("Zwölf Füchse, “rot”."))
    create(place.url, "archived")
    place.archive_all()
    place.wall.advance(1)
    create(place.url, "in memory")
    place.engine.script = says(Text("Nothing."))
    place.wall.advance(1)
    create(place.url, "other")
    for words in ("zwölf FÜCHSE, “rot”", "reynard"):
        assert place.titles(q=words) == ["in memory", "archived"]
    first = place.get(q="reynard", limit="1")
    assert first["has_more"] is True
    assert place.titles(q="reynard", after=first["last_id"]) == ["archived"]
    assert place.titles(q="ARCHIVED") == ["archived"]
    # Names of fields are not words that anybody said.
    assert place.titles(q="output_text") == place.titles(q="completed") == []
    assert refusal(place.answer(q="x" * 201))[::2] == (400, "q")


def test_a_search_reads_no_more_than_its_budget(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        place.wall.advance(1)
        say(place.store, f"number {number}")
    monkeypatch.setattr(browser, "MAX_SEARCHED", 1)
    found = place.get(q="nowhere")
    assert (found["data"], found["is_complete"]) == ([], False)


def test_listing_again_reads_no_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    say(place.store, "archived")
    place.archive_all()
    place.get()

    def no_reading(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(record, "parse", no_reading)
    assert place.titles() == ["archived"]


def test_a_conversation_is_shown_with_its_branches_and_stays_where_it_is(place: Place) -> None:
    first = create(place.url, "one")["id"]
    left = create(place.url, "two", previous_response_id=first)["id"]
    right = create(place.url, "three", previous_response_id=first)["id"]
    for is_archived in (False, True):
        if is_archived:
            place.archive_all()
        for name in (first, left, right):
            shown = place.get(f"/{name}")
            assert (shown["id"], shown["title"]) == (first, "one")
            turns = shown["turns"]
            assert [turn["follows"] for turn in turns] == [None, 1, 1]
            assert [turn["response"]["id"] for turn in turns] == [first, left, right]
            assert [turn["input"][0]["content"][0]["text"] for turn in turns] == [
                "one",
                "two",
                "three",
            ]
    assert place.store.num_conversations == 0
    for name in ("resp_0", f"resp_{'0' * 32}", "..%2f..%2fetc", "x" * 5000):
        assert refusal(place.answer(f"/{name}"))[:2] == (404, "not_found")


def test_deleting_leaves_nothing(place: Place) -> None:
    first = create(place.url, "one")["id"]
    branch = create(place.url, "two", previous_response_id=first)["id"]
    other = create(place.url, "other")["id"]
    for id in (first, other):
        place.store.flush()
        if id == other:
            place.archive_all()
        url = f"{place.url}/conversations/{id}"
        assert httpx.delete(url).json() == {
            "id": id,
            "object": "conversation.deleted",
            "deleted": True,
        }
        assert refusal(httpx.delete(url))[:2] == (404, "not_found")
    assert place.titles() == [] and not list(place.folder.iterdir())
    for id in (first, branch, other):
        for query in ("", "?stream=true"):
            assert httpx.get(f"{place.url}/v1/responses/{id}{query}").status_code == 404


def test_deleting_reaches_what_is_still_being_written(place: Place) -> None:
    first = create(place.url, "one")["id"]
    going_on = asyncio.Event()
    place.engine.script = says(Text("and"), going_on, Text(" on"))
    second = post(place.url, input="two", previous_response_id=first, background=True).json()["id"]
    assert httpx.delete(f"{place.url}/conversations/{first}").status_code == 200
    place.engine.go_on(going_on)
    assert httpx.get(f"{place.url}/v1/responses/{second}").status_code == 404
    assert place.titles() == []
    assert place.engine.answers[-1].is_cancelled


def test_how_quickly_an_answer_came_is_kept_with_it(place: Place) -> None:
    going_on = asyncio.Event()
    usage = Usage(7, 0, 20, 12)
    place.engine.script = says(Reasoning("Hm."), going_on, Text("42"), Text("!"), usage=usage)
    made = post(place.url, input="why?", background=True).json()["id"]
    place.engine.go_on(going_on)
    wait_until(lambda: get(place.url, made).json()["status"] == "completed", "it is answered")
    for is_archived in (False, True):
        if is_archived:
            place.archive_all()
        (turn,) = place.get(f"/{made}")["turns"]
        timings = turn["timings"]
        assert set(timings) == {"first_token_s", "thinking_s", "tokens_per_s"}
        assert all(value is not None and value >= 0 for value in timings.values())
    place.engine.script = says(EngineFailed("No."))
    post(place.url, input="why?")  # nothing comes, so nothing is measured
    shown = [place.get(f"/{e['id']}")["turns"][0]["timings"] for e in place.get()["data"]]
    assert shown.count(None) == 1
    place.engine.script = says(Text("Yes."))
    plain = place.get(f"/{create(place.url, 'is it?')['id']}")["turns"][0]["timings"]
    assert plain["thinking_s"] is None and plain["first_token_s"] >= 0


# Exports


CALL = says(
    Reasoning("I should look."),
    Text("Let me see: ```"),
    ToolCall("call_1", "get_weather"),
    ToolArguments('{"city": "Zürich"}'),
    reason="tool_calls",
)


def with_a_call(place: Place) -> str:
    """A conversation with all that one can hold; the id of its last response."""
    place.engine.script = CALL
    told = {"instructions": "Be *brief*.", "tools": [WEATHER]}
    first = create(place.url, "What's it like?", **told)["id"]
    place.engine.script = says(Text("# Sunny\n\n“21 °C”"))
    result = {"type": "function_call_output", "call_id": "call_1", "output": "sun, ``` 21"}
    return str(create(place.url, [result], previous_response_id=first, **told)["id"])


def exported(place: Place, id: str, **query: str) -> httpx.Response:
    answer = place.answer(f"/{id}/export", **query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    return answer


def test_json_comes_back_as_the_same_conversation(place: Place) -> None:
    last = with_a_call(place)
    tree = browser.find(place.store, last)
    back, _ = record.parse(exported(place, last, format="json").content)
    assert record.turns(back) == record.turns(tree)
    # As a file in the folder of another server, it can be continued there.
    folder = place.folder / "other"
    folder.mkdir(parents=True)
    name = f"2026-11-22T14-30-05Z_{tree.id}.json"
    (folder / name).write_bytes(exported(place, last, format="json").content)
    assert [each.file for each in Store(Archive(folder)).listed()] == [name]


def test_json_lines_come_back_as_the_same_prompt(place: Place) -> None:
    last = with_a_call(place)
    lines = exported(place, last, format="jsonl").text.splitlines()
    messages = [json.loads(line) for line in lines]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant"]
    more = {"role": "user", "content": "Thanks."}
    body = {"messages": [*messages, more]}
    assert httpx.post(f"{place.url}/v1/chat/completions", json=body).status_code == 200
    create(place.url, "Thanks.", previous_response_id=last, instructions="Be *brief*.")
    chatted, continued = (prompt.messages for prompt in place.engine.prompts[-2:])
    assert [(m.role, m.content, m.reasoning, m.tool_calls) for m in chatted] == [
        (m.role, m.content, m.reasoning, m.tool_calls) for m in continued
    ]


def test_markdown_says_all_that_was_said(place: Place) -> None:
    text = exported(place, with_a_call(place), format="md").text
    places = [
        text.index(words)
        for words in (
            "# What's it like?",
            "2026-11-22 14:30 UTC · python-httpx",
            "## System\n\nBe *brief*.",
            "## User\n\nWhat's it like?",
            "<details><summary>Thinking</summary>\n\nI should look.\n\n</details>",
            "Let me see: ```",
            '### Call of `get_weather`\n\n```json\n{"city": "Zürich"}\n```',
            "### Result of `get_weather`\n\n````\nsun, ``` 21\n````",
            "## Assistant\n\n# Sunny\n\n“21 °C”",
        )
    ]
    assert places == sorted(places)


def test_a_branch_is_exported_by_its_last_response(place: Place) -> None:
    first = create(place.url, "one")["id"]
    left = create(place.url, "two", previous_response_id=first)["id"]
    create(place.url, "three", previous_response_id=first)

    def asked(**query: str) -> list[str]:
        lines = exported(place, first, format="jsonl", **query).text.splitlines()
        return [m["content"] for m in map(json.loads, lines) if m["role"] == "user"]

    assert asked() == ["one", "three"]
    assert asked(response_id=left) == ["one", "two"]
    missing = place.answer(f"/{first}/export", response_id="resp_0")
    assert refusal(missing) == (404, "not_found", "response_id")
    assert place.answer(f"/{first}/export", format="exe").status_code == 422


# Who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
def test_other_pages_get_nothing(place: Place, headers: dict[str, str]) -> None:
    say(place.store, "secret")
    answers = [place.answer(path, headers) for path in ("", "/resp_0", "/resp_0/export")]
    answers.append(httpx.delete(f"{place.url}/conversations/resp_0", headers=headers))
    answers.append(
        httpx.options(
            f"{place.url}/conversations",
            headers={**headers, "access-control-request-method": "DELETE"},
        )
    )
    for answer in answers:
        assert answer.status_code == 403
        assert assert_envelope(answer.json())["code"] == "forbidden_origin"
        assert "x-request-id" in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_gets_it_without_a_word_to_others(place: Place, site: str) -> None:
    answer = place.answer(headers={"sec-fetch-site": site, "origin": place.url})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_key_guards_them(tmp_path: Path) -> None:
    app = create_app(Settings(api_key="s3cret", no_conversation_logs=True), ScriptedEngine())
    with serving(app) as url:
        assert httpx.get(f"{url}/conversations").status_code == 401
        key = {"authorization": "Bearer s3cret"}
        assert httpx.get(f"{url}/conversations", headers=key).json()["data"] == []


def test_what_belongs_to_another_is_not_there(tmp_path: Path) -> None:
    store = Store(Archive(tmp_path))
    theirs, ours = say(store, "theirs", owner="them"), say(store, "ours")
    for _ in range(2):
        assert [each.summary.id for each in browser.browse(store).entries] == [ours]
        assert browser.browse(store, query="THEIRS").entries == []
        with pytest.raises(NotFound):
            browser.find(store, theirs)
        with pytest.raises(NotFound):
            store.delete_tree(theirs)
        assert browser.find(store, theirs, "them").id == theirs
        store.flush()
        store = Store(Archive(tmp_path))


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("OpenAI/Python 1.99.0", "openai-python"),
        ("AsyncOpenAI/Python 2.1", "openai-python"),
        ("OpenAI/JS 6.2.0", "openai-node"),
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/150", "page"),
        ("codex_cli_rs/0.5 (Mac)", "codex"),
        ("Agents/Python 0.6.1", "openai-agents"),
        ("codex_exec/0.171.0 (Debian)", "codex"),
        ("codex-tui/0.171.0 (Mac)", "codex"),
        ("curl/8.1", "curl"),
        ("<script>", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_client_is_named_by_its_user_agent(user_agent: str, name: str) -> None:
    assert browser.source_name(user_agent) == name

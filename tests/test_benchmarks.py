"""The measures of `benchmarks/`, of an application whose answers are known."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import Finish, Prompt, QueueFull, SamplingParams, Text, Usage
from tests.scripted import ScriptedEngine, Step
from tests.serving import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import clients
import measures
import report
import servers

SCALE = measures.Scale(
    tokens=8,
    words=5,
    repeats=1,
    clients=(1, 3),
    arrivals=5,
    contexts=(200,),
    batches=(2,),
)


def tells(prompt: Prompt, params: SamplingParams) -> Iterable[Step]:
    """A word for each token."""
    usage = Usage(100, 90 if len(prompt.messages) == 3 else 0, params.max_tokens)
    return [*[Text("wa ")] * params.max_tokens, Finish("length", usage)]


class Told(dict[str, list[float]]):
    """The rows of one session, by their names."""

    def __call__(self, name: str, unit: str, runs: list[float]) -> None:
        assert unit
        self[name] = runs


def session_of(port: int, told: Told) -> measures.Session:
    process: Any = SimpleNamespace(poll=lambda: None)
    return measures.Session(servers.Server(process, port, Path()), SCALE, told)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def session(engine: ScriptedEngine, scripted_url: str, told: Told) -> measures.Session:
    engine.script = tells
    return session_of(int(scripted_url.rpartition(":")[2]), told)


def test_every_measure_gives_its_rows(session: measures.Session, told: Told) -> None:
    known = measures.OF_A_SERVER | measures.OF_OURS
    del known["prefill"]
    for measure in known.values():
        measure(session)
    assert told.pop("second turn, prompt from the cache") == [0.9]
    assert told.pop("5 clients at once, refused or reset") == [0]
    assert told.pop("5 clients at once, 429") == [0]
    assert told.pop("5 clients at once, failed") == [0]
    assert {
        "1 client, greedy",
        "3 clients, greedy",
        "3 clients, sampled",
        "second turn, TTFT cold",
        "/health at 3 clients, p99",
        "context 200, decode",
        "batch 2",
    } <= told.keys()
    assert all(value > 0 for runs in told.values() for value in runs)


def test_streams_are_left_when_the_long_prompt_is_answered(
    session: measures.Session, engine: ScriptedEngine
) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: (
        tells(prompt, params) if params.max_tokens == 8 else [Text("wa "), never]
    )
    streams = [[session.chat(max_tokens=9)] * 2] * 3
    found = session.server.clients(
        "interrupted", streams=streams, long=session.chat(max_tokens=8), before_s=0
    )
    assert [len(answer["times"]) for answer in found["answers"]] == [1, 1, 1]
    assert len(found["long"]["times"]) == 8
    assert max(a["times"][0] for a in found["answers"]) <= found["all_ran"] <= found["sent"]


def test_gaps_count_where_they_reach_into_the_time_that_is_looked_at(told: Told) -> None:
    stream = {"times": [0.0, 1.0, 1.5, 2.0, 5.0, 5.5]}
    long = {"status": 200, "began": 2.5, "times": [4.5]}
    found = {"answers": [stream], "all_ran": 1.0, "sent": 2.5, "long": long}
    session = session_of(0, told)
    session.server.clients = lambda plan, **job: (  # type: ignore[method-assign]
        found if plan == "interrupted" else {"answers": [long]}
    )
    measures.prefill(session)
    assert told == {
        "8 streams, inter-token p50": [500],
        "… p99 while a long prompt comes in": [3_000],
        "long prompt, TTFT alone": [2_000],
        "long prompt, TTFT beside 8 streams": [2_000],
    }


def test_settings_differ_from_request_to_request(
    session: measures.Session, engine: ScriptedEngine
) -> None:
    measures.sampled(session)
    settings = {(p.temperature, p.top_p) for p in engine.params}
    assert len(settings) == len(engine.params) == 9
    assert all(0.6 <= t <= 0.8 and 0.9 <= p <= 0.97 for t, p in settings)
    assert len({p.messages[0].content[:8] for p in engine.prompts}) == 9


def test_who_is_turned_away_is_counted(
    session: measures.Session, engine: ScriptedEngine, told: Told
) -> None:
    engine.refusal = QueueFull("Too many are waiting.")
    with pytest.raises(servers.Failed, match="429"):
        measures.throughput(session)
    with pytest.raises(servers.Failed):  # nobody got a token, so there is no percentile of waits
        measures.arrivals(session)


def test_connections_that_are_lost_are_told_apart(told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert status_of(port, told) == "reset"
        thread.join()
    assert status_of(port, told) == "refused"


def status_of(port: int, told: Told) -> str:
    session = session_of(port, told)
    found = session.server.clients("load", requests=[session.chat()], clients=1)
    status: str = found["answers"][0]["status"]
    return status


# What came over the wire

EVENTS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "wa "}}]},
    {"choices": [{"delta": {"reasoning_content": "hm"}}]},
    {"choices": [{"delta": {"content": "wo"}}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
]


def wire(*, is_chunked: bool) -> bytes:
    head = b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * is_chunked + b"\r\n"
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in EVENTS] + [b"data: [DONE]\n\n"]
    if is_chunked:
        lines = [b"%x\r\n%s\r\n" % (len(line), line) for line in [*lines, b""]]
    return b": 1/2\n\n" * (not is_chunked) + head + b"".join(lines)


def pieces(raw: bytes, cuts: list[int]) -> Iterator[tuple[float, bytes]]:
    ends = [*sorted(cut % len(raw) for cut in cuts), len(raw)]
    for at, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        yield float(at), raw[start:end]


@settings(deadline=None)
@given(st.booleans(), st.lists(st.integers(0, 2_000), max_size=8))
def test_an_answer_reads_the_same_however_it_is_cut(is_chunked: bool, cuts: list[int]) -> None:
    target = clients.Target({"host": "", "port": 0})
    target.epoch = 0.0
    received = list(pieces(wire(is_chunked=is_chunked), cuts))
    found = target.read(clients.Sent(0.0, received[-1][0], received, "done"))
    assert found["status"] == 200
    assert found["text"] == "wa wo"
    assert (found["prompt_tokens"], found["completion_tokens"]) == (3, 2)
    assert len(found["times"]) == 3 and found["times"] == sorted(found["times"])
    assert found["times"][-1] <= found["ended"] == len(received) - 1
    some = [(0.0, wire(is_chunked=is_chunked)[:-40])]
    cut_short = target.read(clients.Sent(0.0, 0.0, some, "done"))
    assert cut_short["status"] == "cut"


# The report


def test_a_report_has_medians_and_ratios(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    found = report.Report({"model": "m"}, path)
    for side, factor in ((report.LIBRARY, 1.0), (report.OURS, 0.9), (report.PEER, 0.3)):
        found.tell(side, "1 client, greedy", "tok/s", [100 * factor, 1e9, 0])
        found.tell(side, "32 clients, greedy", "tok/s", [1000 * factor])
        found.tell(side, "32 clients, sampled", "tok/s", [800 * factor])
    found.fail(report.PEER, "prefix", "it broke")
    rows = {line.split("|")[1].strip(): line for line in found.table().splitlines()}
    assert [cell.strip() for cell in rows["1 client, greedy"].split("|")[3:8]] == [
        "100",
        "90",
        "30",
        "0.90",
        "3.00",
    ]
    assert rows["sampled over greedy"].count("0.80") == 3
    kept = json.loads(path.read_text())
    assert kept["rows"]["32 clients, greedy"]["runs"]["this server"] == [900]
    assert kept["failures"] == ["mlx_lm.server, prefix: it broke"]
    assert ElementTree.fromstring(found.plot()).findall(".//{*}polyline")

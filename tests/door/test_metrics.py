"""`/metrics` after known requests, read by Prometheus's own parser."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from door.metrics import PlainProcess
from door.settings import Settings
from parts import Counts, EngineFailed, Memory, Text, ToolCall, Unavailable, Usage
from server import create_app
from tests.door.asking import post
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

CHAT = {"messages": [{"role": "user", "content": "a secret"}]}
Samples = dict[tuple[str, str], float]


def chat(url: str, **more: object) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT | more, timeout=20)


def read(url: str) -> Samples:
    """Every sample, by its name and the values of its labels but the model's."""
    answer = httpx.get(f"{url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "secret" not in answer.text
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            labels = [v for k, v in sorted(sample.labels.items()) if k != "model_name"]
            found[sample.name, "/".join(labels)] = sample.value
    return found


def test_requests_are_counted_as_they_end(scripted_url: str, engine: ScriptedEngine) -> None:
    chat(scripted_url)
    engine.script = says(Text("Hello"), reason="length", usage=Usage(100, 40, 50, 0))
    chat(scripted_url, stream=True)
    engine.script = says(ToolCall("call_1", "f", "{}"), reason="tool_calls")
    post(scripted_url, input="hi")
    engine.script = lambda prompt, params: [Text("He"), EngineFailed("It broke.")]
    assert chat(scripted_url).status_code == 500
    chat(scripted_url, stream=True)
    assert chat(scripted_url, temperature=9).status_code == 422
    found = read(scripted_url)
    ended = {k[1]: v for k, v in found.items() if k[0] == "mlx:request_success_total"}
    assert ended == {"stop": 1, "length": 1, "tool_calls": 1, "abort": 0, "error": 2}
    for name in ("e2e_request_latency_seconds", "time_per_output_token_seconds"):
        assert found[f"mlx:{name}_count", ""] == 3
        assert found[f"mlx:{name}_bucket", "+Inf"] == 3
        assert found[f"mlx:{name}_sum", ""] > 0
    assert found["mlx:time_to_first_token_seconds_count", ""] == 5
    assert found["mlx:request_prompt_tokens_sum", ""] == 7 + 100 + 7
    assert found["mlx:request_generation_tokens_sum", ""] == 5 + 50 + 5
    assert found["mlx:http_requests_total", "/v1/chat/completions/POST/422"] == 1
    assert found["mlx:http_requests_total", "/v1/chat/completions/POST/200"] == 3


def test_what_the_engine_counts_is_asked_of_it(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.num_waiting = 4
    engine.stalled_s = 1.5
    engine.memory = Memory(limit=1000, active=600, kv_caches=250, prefix_cache=50)
    engine.counts = Counts(
        steps=9, failed_steps=1, preemptions=2, prompt_tokens=70, cached_tokens=20,
        completion_tokens=30,
    )  # fmt: skip
    found = read(scripted_url)
    told = {name.removeprefix("mlx:"): value for (name, label), value in found.items() if not label}
    assert (
        told.items()
        >= {
            "num_requests_running": 0,
            "num_requests_waiting": 4,
            "kv_cache_usage_perc": 0.25,
            "prompt_tokens_total": 70,
            "generation_tokens_total": 30,
            "prefix_cache_queries_total": 70,
            "prefix_cache_hits_total": 20,
            "num_preemptions_total": 2,
            "engine_steps_total": 9,
            "engine_failed_steps_total": 1,
            "engine_stalled_seconds": 1.5,
            "engine_ready": 1,
            "memory_limit_bytes": 1000,
            "memory_kv_cache_bytes": 250,
        }.items()
    )
    assert told["process_cpu_seconds_total"] > 0


def test_a_client_that_leaves_is_an_abort(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.script = lambda prompt, params: [Text("Hel"), asyncio.Event(), *says()(prompt, params)]
    with httpx.stream(
        "POST", f"{scripted_url}/v1/chat/completions", json={**CHAT, "stream": True}
    ) as answer:
        next(answer.iter_bytes())
    wait_until(
        lambda: read(scripted_url)["mlx:request_success_total", "abort"] == 1, "the abort is told"
    )


def test_a_response_in_the_background_is_counted_when_it_is_made(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    assert post(scripted_url, input="hi", background=True).status_code == 200
    wait_until(lambda: read(scripted_url)["mlx:request_success_total", "stop"], "it is made")
    found = read(scripted_url)
    assert found["mlx:http_requests_total", "/v1/responses/POST/200"] == 1
    assert found["mlx:e2e_request_latency_seconds_count", ""] == 1


def test_labels_hold_nothing_that_a_client_invents(scripted_url: str) -> None:
    for path in ("/v1/nothing", "/a/b", "/v1/models/x", "/v1/responses/resp_y"):
        httpx.get(scripted_url + path)
    httpx.request("BREW", f"{scripted_url}/v1/models")
    chat(scripted_url, model="invented")
    labels = {key[1] for key in read(scripted_url) if key[0] == "mlx:http_requests_total"}
    assert labels == {
        "other/GET/404",
        "/v1/models/{model:path}/GET/404",
        "/v1/responses/{response_id}/GET/404",
        "/v1/models/other/405",
        "/v1/chat/completions/POST/200",
    }


def test_openmetrics_is_spoken_when_it_is_asked_for(scripted_url: str) -> None:
    kind = "application/openmetrics-text; version=1.0.0"
    answer = httpx.get(f"{scripted_url}/metrics", headers={"accept": kind})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_metrics_need_the_key_and_are_there_while_the_model_loads(engine: ScriptedEngine) -> None:
    engine.load_error = Unavailable("There is no model.")
    engine.phase = "loading"
    with serving(create_app(Settings(api_key="s3cret"), engine)) as url:
        refused = httpx.get(f"{url}/metrics")
        assert refused.status_code == 401
        assert_envelope(refused.json())
        answer = httpx.get(f"{url}/metrics", headers={"authorization": "Bearer s3cret"})
    assert "mlx:engine_ready{" in answer.text


def test_the_process_is_told_of_where_there_is_no_proc() -> None:
    registry = CollectorRegistry()
    registry.register(PlainProcess())
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = {s.name: s.value for family in families for s in family.samples}
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_start_time_seconds"] > 1.7e9
    assert found["process_resident_memory_bytes"] > 2**22

"""Metrics: the server's figures as Prometheus reads them, under vLLM's names, prefixed with `mlx:`.

Counts of requests are kept here as requests end; what the engine counts is asked of it when
somebody reads. Each application has a registry of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import psutil
from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from door.log import Story
from parts import Engine, EngineStatus

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640)
TOKEN_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2.5)
REQUEST_S = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 60, 120, 300, 960, 1920)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5)
FINISHES = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "client left": "abort",
    "cancelled": "abort",
}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
MODEL = ("model_name",)

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series each, unread


class Metrics:
    """The figures of one application."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "Seconds to the first token.", FIRST_TOKEN_S
        )
        self._token = self._histogram(
            "time_per_output_token_seconds",
            "Seconds between two tokens of an answer, on its average.",
            TOKEN_S,
        )
        self._request = self._histogram(
            "e2e_request_latency_seconds", "Seconds from a request to its whole answer.", REQUEST_S
        )
        self._prompt = self._histogram(
            "request_prompt_tokens", "Tokens of a request's prompt.", TOKENS
        )
        self._generation = self._histogram(
            "request_generation_tokens", "Tokens of a request's answer.", TOKENS
        )
        self._success = self._counter(
            "request_success", "Requests for an answer, by how they ended.", "finished_reason"
        )
        self._http = self._counter(
            "http_requests", "Requests of any kind.", "method", "endpoint", "status"
        )
        for reason in ("stop", "length", "tool_calls", "abort", "error"):
            self._success.labels(model, reason)
        self.registry.register(_EngineFigures(engine, model))
        PlatformCollector(registry=self.registry)
        if sys.platform == "linux":
            ProcessCollector(registry=self.registry)
        else:
            self.registry.register(PlainProcess())

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        whole = Histogram(
            f"mlx:{name}", text, MODEL, registry=self.registry, buckets=tuple(buckets)
        )
        return whole.labels(self._model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mlx:{name}", text, (*MODEL, *labels), registry=self.registry)

    def count(self, story: Story) -> None:
        """Count a request that is over. Labels hold nothing that a client can invent."""
        method = story.method if story.method in METHODS else "other"
        if story.method != "BACKGROUND":  # its request was counted when it was answered
            self._http.labels(
                self._model, method, story.endpoint or "other", str(story.status)
            ).inc()
        if not story.id:
            return
        self._success.labels(self._model, FINISHES.get(story.finish, "error")).inc()
        if story.first_s is not None:
            self._first_token.observe(story.first_s)
        if story.usage is not None:
            self._request.observe(story.total_s)
            self._prompt.observe(story.usage.prompt_tokens)
            self._generation.observe(story.usage.completion_tokens)
        if story.token_s is not None:
            self._token.observe(story.token_s)


class _EngineFigures(Collector):
    """What the engine says of itself, at the moment somebody asks."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering does not ask an engine that has not started

    def collect(self) -> Iterator[Metric]:
        status = self._engine.status
        for name, text, value in _gauges(status):
            gauge = GaugeMetricFamily(f"mlx:{name}", text, labels=MODEL)
            gauge.add_metric([self._model], value)
            yield gauge
        for name, text, value in _counters(status):
            counter = CounterMetricFamily(f"mlx:{name}", text, labels=MODEL)
            counter.add_metric([self._model], value)
            yield counter


def _gauges(status: EngineStatus) -> Iterator[tuple[str, str, float]]:
    memory = status.memory
    yield "num_requests_running", "Requests in the batch.", status.running
    yield "num_requests_waiting", "Requests that wait for a place.", status.waiting
    yield (
        "kv_cache_usage_perc",
        "Share of the KV caches' room in use, 0 to 1.",
        kv_use(status),
    )
    yield "engine_ready", "1 when the engine can serve.", status.phase == "ready"
    yield "engine_stalled_seconds", "Seconds without a step while work waits.", status.stalled_s
    yield "memory_limit_bytes", "What the engine allows itself.", memory.limit
    yield "memory_active_bytes", "What MLX holds in arrays.", memory.active
    yield "memory_kv_cache_bytes", "KV caches of running requests.", memory.kv_caches
    yield "memory_prefix_cache_bytes", "Prompts kept for later.", memory.prefix_cache
    if status.model is not None:
        yield "memory_weights_bytes", "The model's weights.", status.model.num_bytes
        yield "context_window_tokens", "Prompt and answer together.", status.model.context_window


def _counters(status: EngineStatus) -> Iterator[tuple[str, str, float]]:
    counts = status.counts
    yield "prompt_tokens", "Tokens of prompts.", counts.prompt_tokens
    yield "generation_tokens", "Tokens of answers.", counts.completion_tokens
    yield "prefix_cache_queries", "Tokens looked for in the prefix cache.", counts.prompt_tokens
    yield "prefix_cache_hits", "Tokens found in the prefix cache.", counts.cached_tokens
    yield "num_preemptions", "Requests that had to give their memory up.", counts.preemptions
    yield "engine_steps", "Steps of the engine.", counts.steps
    yield "engine_failed_steps", "Steps that failed.", counts.failed_steps


def kv_use(status: EngineStatus) -> float:
    """The share of the room beside the weights that running requests' KV caches take, 0 to 1."""
    weights = status.model.num_bytes if status.model else 0
    room = status.memory.limit - weights
    return min(status.memory.kv_caches / room, 1.0) if room > 0 else 0.0


class PlainProcess(Collector):
    """The process's figures where there is no `/proc`, under the names that they have there."""

    def collect(self) -> Iterator[Metric]:
        process = psutil.Process()
        cpu, memory = process.cpu_times(), process.memory_info()
        yield CounterMetricFamily(
            "process_cpu_seconds", "Processor time, in seconds.", value=cpu.user + cpu.system
        )
        for name, text, value in (
            ("start_time_seconds", "Start, in seconds since 1970.", process.create_time()),
            ("resident_memory_bytes", "Memory that is held.", memory.rss),
            ("virtual_memory_bytes", "Memory that was asked for.", memory.vms),
        ):
            yield GaugeMetricFamily(f"process_{name}", text, value=value)


def add_routes(router: APIRouter, metrics: Metrics) -> None:
    """Add `GET /metrics`."""

    @router.get("/metrics")
    async def read(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": kind})

# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "fastapi>=0.120,<1",
#   "uvicorn>=0.35,<1",
#   "pydantic>=2.11,<3",
#   "sse-starlette>=3,<4",
#   "mlx>=0.32.4,<0.33; sys_platform == 'darwin'",
#   "mlx[cpu]>=0.32.4,<0.33; sys_platform == 'linux'",
#   "mlx-lm>=0.32.2,<0.33",
#   "websockets>=15,<17",
#   "llguidance>=1.9.1,<2",
#   "psutil>=7,<8",
#   "prometheus-client>=0.22,<1",
#   "rich>=14,<16",
#   "shtab>=1.7,<2",
#   "pyyaml>=6,<7",
#   "starlette>=0.49.1,<2",
#   "h11>=0.16,<1",
#   "jinja2>=3.1.6,<4",
# ]
# ///
"""The door: an OpenAI-compatible server for one language model on this machine.

    python server.py --model mlx-community/Qwen3-8B-4bit

The application, start and stop. Routes are in `door/`, what the JSON means is known in `protocol/`,
what the model does in `inference/`; MLX is never imported here.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # said before an import can fail on it
    sys.exit("This server needs Python 3.11 or newer, because mlx-lm does.")

import commands
from door import settings as door_settings

if __name__ == "__main__" and commands.is_called(sys.argv[1:]):
    sys.exit(commands.run(sys.argv[1:]))

# The command line is read before the heavy imports: --help and a mistyped flag answer at once.
SETTINGS = door_settings.parse() if __name__ == "__main__" else None

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from door import (
    browser,
    chat,
    conversations,
    dashboard,
    log_lines,
    metrics,
    open_files,
    openapi,
    pages,
    responses,
    stacks,
    websocket,
)
from door import log as door_log
from door.admission import Admission
from door.bodies import StrictJsonRoute
from door.callers import Callers
from door.cors import Cors
from door.guard import Guard
from door.keys import Keys
from door.origins import OwnPages
from door.settings import DEMO_MODEL, VERSION, Settings
from door.stream import ClientGone
from door.wire import Wire
from parts import (
    Engine,
    NotFound,
    SamplingParams,
    ServerError,
    Unavailable,
)
from protocol import errors
from protocol.archive import Archive
from protocol.conversations import Store
from protocol.thinking import ReasoningFormat

log = logging.getLogger("mlx_server")

T = TypeVar("T")


# The application


def create_app(settings: Settings, engine: Engine, store: Store | None = None) -> FastAPI:
    """Make the application around an engine and a store, which start and stop with it.

    Raises:
        Unavailable: the file of keys cannot be used.
    """
    store = store or _store(settings)
    keys = Keys.of(settings)
    engine = Admission(
        engine,
        max_admitted=settings.max_batch + settings.max_queue,
        timeout=settings.timeout or None,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_load(app, settings, engine)),
            asyncio.create_task(_archive(store)),
            asyncio.create_task(_watch(app, engine)),
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # As long as the streams get: what is made in the background has no connection to wait for.
        await engine.stop(settings.drain)
        await app.state.runs.end()
        if num_lost := await asyncio.to_thread(store.flush):
            log.error("%d conversations could not be archived and are lost", num_lost)

    app = FastAPI(
        title="MLX server",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={
            "default": {
                "description": "What went wrong",
                "content": {"application/json": {"schema": errors.ENVELOPE_SCHEMA}},
            }
        },
    )
    app.router.route_class = StrictJsonRoute
    app.state.began = time.monotonic()
    app.state.port = settings.port
    app.state.on_load_failure = lambda error: None
    app.state.on_engine_failure = lambda reason: None
    figures = metrics.Metrics(engine, settings.model_name)
    board = app.state.board = dashboard.Dashboard(engine)
    app.state.stories = door_log.Stories(figures.count, board.hear)
    metrics.add_routes(app.router, figures)
    dashboard.add_routes(app.router, board)
    _answer_errors(app, settings)
    _add_routes(app, settings, engine, store)
    openapi.describe(app)
    app.add_middleware(OwnPages)
    app.add_middleware(
        Guard,
        callers=Callers(settings.host, settings.allowed_hosts, settings.origins),
        keys=keys,
        max_body=settings.max_body,
        stories=app.state.stories,
    )
    if settings.origins:
        app.add_middleware(Cors, origins=settings.origins)
    return app


def _store(settings: Settings) -> Store:
    folder = None if settings.no_conversation_logs else settings.conversation_logs
    return Store(
        Archive(Path(folder)) if folder else None,
        ttl=settings.conversation_ttl,
        can_revive=not settings.no_revive,
    )


async def _archive(store: Store) -> None:
    """Learn what the archive holds, then take to it what is over, until the server stops."""
    await _tried(store.open)
    while await _tried(store.index_some) is False:
        pass
    while True:
        await asyncio.sleep(min(ARCHIVE_EVERY_S, max(store.ttl / 4, 0.05)))
        await _tried(store.sweep)


async def _tried(work: Callable[[], T]) -> T | None:
    """Do file work. Whatever goes wrong, there is a next time: this task must not end."""
    try:
        return await asyncio.to_thread(work)
    except Exception as error:
        log.error("the archive failed: %s", door_log.told(error))
        return None


async def _watch(app: FastAPI, engine: Engine) -> None:
    """Have the process end when its engine has failed, so that what started it can start it again.

    Those who wait are told first.
    """
    reason = await engine.failed()
    await asyncio.sleep(FAREWELL_S)
    app.state.on_engine_failure(reason)


async def _load(app: FastAPI, settings: Settings, engine: Engine) -> None:
    try:
        await engine.start()
    except Unavailable as error:
        app.state.on_load_failure(error)
        return
    card = engine.status.model
    assert card is not None
    url = _url(settings.host, app.state.port)
    banner = door_log.banner(
        card,
        url,
        real_models=_real_models() if settings.model == str(DEMO_MODEL) else (),
        has_key=bool(settings.api_key or settings.api_key_file),
        origins="any" if "*" in settings.origins else ", ".join(settings.origins) or "its own",
    )
    log_lines.say(banner, "ready", level="info", url=url, model=card.name)


def _real_models() -> list[str]:
    """Three to try instead of the demo model, each with its size."""
    from inference.sizes import in_words, suggested

    return [f"{known.repo}  ({in_words(known.num_bytes)})" for known in suggested()]


def _url(host: str, port: int) -> str:
    """Where a client on this machine finds the server."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _answer_errors(app: FastAPI, settings: Settings) -> None:
    """Put every failure into the one envelope."""

    @app.exception_handler(ServerError)
    async def ours(request: Request, error: ServerError) -> Response:
        return JSONResponse(
            errors.body_of(error), errors.status_of(error), headers=errors.headers_of(error)
        )

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse(errors.validation_body(error.errors()), 422)

    # Starlette's, not FastAPI's: unknown paths and methods raise only that one.
    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        match error.__cause__:  # what was wrong with a body that FastAPI had us read
            case ServerError() as refused:
                return await ours(request, refused)
            case RequestValidationError() as wrong:
                return await malformed(request, wrong)
        sentence = {
            404: f"There is nothing at {request.url.path[:200]}.",
            405: f"{request.method} is not allowed here.",
            408: "The body did not come in time.",
            413: f"The body is larger than {settings.max_body} bytes.",
            503: "Too many large bodies are here already. Try again later.",
        }.get(error.status_code, "The request cannot be read.")
        body = errors.envelope(error.status_code, sentence)
        return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        request.state.story.finish = "client left"
        return Response(status_code=499)


def _add_routes(app: FastAPI, settings: Settings, engine: Engine, store: Store) -> None:
    defaults = SamplingParams(
        temperature=settings.temp,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        max_tokens=settings.max_tokens,
        max_reasoning_tokens=settings.reasoning_budget,
    )
    reasoning_format = cast(ReasoningFormat, settings.reasoning_format)

    made = responses.Responses(
        engine,
        store,
        model=settings.model_name,
        defaults=defaults,
        reasoning_format=reasoning_format,
        stories=app.state.stories,
    )
    app.state.runs = made.runs
    responses.add_routes(app.router, made)
    conversations.add_routes(app.router, store)
    browser.add_routes(app.router, made)
    app.state.sockets = websocket.add_routes(app.router, made)
    pages.add_routes(app.router)

    @app.get("/health", responses={503: {"description": "Why it cannot serve"}})
    async def health() -> Response:
        return _health(app, settings, engine, store)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_entry(settings, engine)]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        entry = _model_entry(settings, engine)
        if model != entry["id"]:
            raise NotFound(
                f"The model {model[:100]!r} is not loaded here; {entry['id']!r} is.",
                param="model",
                code="model_not_found",
            )
        return entry

    chat.add_routes(
        app.router,
        engine,
        model=settings.model_name,
        defaults=defaults,
        reasoning_format=reasoning_format,
    )


def _health(app: FastAPI, settings: Settings, engine: Engine, store: Store) -> Response:
    status = engine.status
    is_stalled = status.stalled_s > settings.stall_timeout
    is_well = status.phase in ("ready", "sleeping") and not is_stalled
    body: dict[str, Any] = {
        "status": "stalled" if is_stalled else "ok" if status.phase == "ready" else status.phase,
        "model": settings.model_name,
        "context_window": status.model.context_window if status.model else None,
        "queue": {"running": status.running, "waiting": status.waiting},
        "memory": asdict(status.memory),
        "stalled_s": round(status.stalled_s, 3),
        "failed_steps": status.counts.failed_steps,
        "archive": store.archive_state,
        "uptime_s": round(time.monotonic() - app.state.began, 3),
        "version": VERSION,
    }
    if status.reason or is_stalled:
        body["reason"] = status.reason or "stalled"
    headers = {} if is_well else {"retry-after": str(errors.RETRY_AFTER_S)}
    return JSONResponse(body, 200 if is_well else 503, headers=headers)


def _model_entry(settings: Settings, engine: Engine) -> dict[str, Any]:
    card = engine.status.model
    entry: dict[str, Any] = {
        "id": settings.model_name,
        "object": "model",
        "created": STARTED,
        "owned_by": "local",
    }
    if card is not None:
        entry["context_window"] = card.context_window
        entry["capabilities"] = {"thinking": card.thinking, "tools": card.tools}
    return entry


STARTED = int(time.time())
BACKLOG, TAKEN_AT_ONCE = 2048, 4
"""Connections that wait to be taken, and those that are taken before any is looked at: by then they
have open files. Asyncio tries as many times, too, when it can have no more, and tells of each."""
MAX_FRAME = 16 * 2**20
"""Bytes of a frame on a socket."""
GOODBYE_S = 5
"""Seconds that clients get to read the ends of their streams."""
FAREWELL_S = 1.0
"""Seconds in which /health says that the engine has failed, before the process ends."""
LAST_WORK_S = 1.0
"""Seconds that a thread gets to end by itself when everything else has."""
ENGINE_FAILED = 70
"""The exit code then: an internal software error, in the words of sysexits."""
ARCHIVE_EVERY_S = 30
"""Seconds between two looks at which conversations are over."""


# Start and stop


class Server(uvicorn.Server):
    """Uvicorn, which lets the engine end its answers when a signal asks it to stop."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain = drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and at once on the second. A clean stop is no failure: exit code 0."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.should_exit:
                os._exit(128 + number)
            self.should_exit = True

        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            signals.append(signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(open_files.told_in_short)
        await super().startup(sockets)
        for listener in sockets or ():  # which asyncio has made as short as what it takes at once
            listener.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        # Uvicorn cuts sockets off when it is asked to stop, so it is asked when all is told.
        await self._engine.stop(self._drain)
        await self.config.app.state.sockets.end()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def main(settings: Settings) -> int:
    """Serve until a signal comes. Returns the process's exit code."""
    open_files.stand_in_for_closed()
    open_files.allow_many()
    log_lines.set_up(settings.log_level, cast(log_lines.LogFormat, settings.log_format))
    stacks.tell_on_signal()
    try:
        listener = _listen(settings)
        engine = _engine(settings)
        app = create_app(settings, engine)
    except Unavailable as error:
        _say_no_start(error)
        return 1
    except KeyboardInterrupt:  # while a model is downloaded
        print("Stopped. The same command goes on where this one was.", file=sys.stderr)
        return 130
    _warn_of_exposure(settings)
    app.state.port = listener.getsockname()[1]
    server = Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            http=Wire,
            backlog=TAKEN_AT_ONCE,
            timeout_graceful_shutdown=GOODBYE_S,
            ws_max_size=min(settings.max_body, MAX_FRAME),
            ws_per_message_deflate=False,
        ),
        engine,
        settings.drain,
    )
    failure: list[Unavailable] = []
    has_failed: list[str] = []

    def give_up(error: Unavailable) -> None:
        failure.append(error)
        server.should_exit = True

    def end(reason: str) -> None:
        log.critical("the engine has failed: %s; the server ends", reason)
        has_failed.append(reason)
        server.should_exit = True

    app.state.on_load_failure = give_up
    app.state.on_engine_failure = end
    server.run(sockets=[listener])
    if failure:
        _say_no_start(failure[0])
    code = ENGINE_FAILED if has_failed else 1 if failure else 0
    if _is_busy():
        logging.shutdown()
        os._exit(code)
    return code


def _is_busy() -> bool:
    """Whether a thread works on that nobody waits for any more, such as a load or a step that
    hangs: the interpreter would wait for it."""
    deadline = time.monotonic() + LAST_WORK_S
    others = [t for t in threading.enumerate() if not (t.daemon or t is threading.main_thread())]
    for thread in others:
        thread.join(max(deadline - time.monotonic(), 0))
    return any(thread.is_alive() for thread in others)


def _say_no_start(error: Unavailable) -> None:
    log_lines.say(
        f"Cannot start: {error.message}", "cannot start", level="error", reason=error.message
    )


def _warn_of_exposure(settings: Settings) -> None:
    if settings.is_exposed:
        log.warning(
            "ANYONE WHO CAN REACH %s MAY USE THIS SERVER: it has no key. "
            "Give it one with --api-key-file, or listen on 127.0.0.1.",
            settings.host,
        )


def _listen(settings: Settings) -> socket.socket:
    """Open the port, before anything else takes time. Raises `Unavailable`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno in (13, 98, 48):
            problem = f"port {settings.port} is in use or may not be used (try --port 0)"
        else:
            problem = f"{settings.host!r} is not an address of this machine (try --host 127.0.0.1)"
        raise Unavailable(problem + ".") from None
    listener.listen(BACKLOG)
    return listener


def _engine(settings: Settings) -> Engine:
    """Make the engine; the model's files are checked now, and loaded when it starts."""
    from inference.engine import Engine as MlxEngine
    from inference.engine import LoadedModel
    from inference.repository import locate

    folder = locate(settings.model, is_forced=settings.force)
    if settings.adapter_path and not Path(settings.adapter_path).is_dir():
        raise Unavailable(f"There is no adapter folder {settings.adapter_path!r}.")

    def load() -> LoadedModel:
        from inference import loader

        options = loader.LoadOptions(
            folder=folder,
            name=settings.model_name,
            adapter_path=settings.adapter_path,
            context_window=settings.ctx_size,
            template_args=settings.chat_template_args,
            trust_remote_code=settings.trust_remote_code,
            kv_bits=settings.kv_bits,
            memory_limit=settings.memory_limit,
            is_forced=settings.force,
            prefix_cache_bytes=settings.prompt_cache_bytes,
            prefix_cache_folder=_folder(settings.prompt_cache_dir),
            prefix_folder_bytes=settings.prompt_cache_disk_bytes,
        )
        with open_files.limit_kept():
            model = loader.load(options)
        # What is here stays. To look through all of it for what can be freed takes a tenth of a
        # second, in which nothing else happens; so it is not looked through again.
        gc.collect()
        gc.freeze()
        return model

    return MlxEngine(
        load,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        stall_timeout=settings.stall_timeout,
        idle_unload=settings.idle_unload,
    )


def _folder(path: str | None) -> Path | None:
    return Path(path).expanduser().absolute() if path else None


if SETTINGS is not None:
    sys.exit(main(SETTINGS))

"""By which names the server may be called, from which web pages, and with which keys."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from door.callers import Callers
from door.keys import Keys
from door.settings import Settings
from parts import Unavailable
from server import _warn_of_exposure, create_app
from tests.door.asking import create, get, refusal
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine
from tests.serving import serving

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
EVIL = "http://evil.example"
CLIENT = httpx.Client(timeout=20, limits=httpx.Limits(max_keepalive_connections=0))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = Settings(no_conversation_logs=True, allowed_hosts=("gpu.lan", ".corp.example"))
    with serving(create_app(settings, ScriptedEngine())) as url:
        yield url


def asked(
    url: str, path: str = "/v1/models", method: str = "GET", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CLIENT.request(method, url + path, headers=named)


# Names


@pytest.mark.parametrize(
    "host",
    "localhost LOCALHOST:8080 localhost. 127.0.0.1:1 [::1]:8080 192.168.1.7:8080 gpu.lan "
    "GPU.lan:80 a.corp.example host.docker.internal:8080 my.localhost:3000".split(),
)
def test_the_names_that_are_ours_may_be_used(url: str, host: str) -> None:
    assert asked(url, host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *"evil.example evil.example:8080 localhost.evil.example 127.0.0.1.nip.io".split(),
        *"corp.example evilcorp.example localhost@evil.example 2130706433 0x7f000001".split(),
        *"[::1 * localhost:x".split(),
        *("gpu.lan.evil.example", "xn--lcalhost-0za", "", "a b"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/", "/nothing"])
def test_a_name_that_was_made_to_point_here_is_refused(url: str, host: str, path: str) -> None:
    answer = asked(url, path, host=host)
    assert answer.status_code == 403
    assert assert_envelope(answer.json())["code"] == "forbidden_host"


def test_any_name_will_do_when_the_server_was_told_so() -> None:
    callers = Callers("0.0.0.0", ["*"])
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"any.example")]}
    assert callers.refusal(scope, {}) is None
    assert Callers("0.0.0.0").refusal(scope, {}) is not None
    assert Callers("any.example").refusal(scope, {}) is None


def test_a_socket_is_opened_by_our_names_only(url: str) -> None:
    opening = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert asked(url, "/v1/responses", **opening, host="evil.example").status_code == 403
    connect(url.replace("http", "ws") + "/v1/responses").close()


# Pages


def test_the_api_may_be_called_from_any_page_without_credentials(url: str) -> None:
    for answer in (
        asked(url, origin=EVIL, sec_fetch_site="cross-site"),
        asked(url, "/v1/nothing", origin=EVIL),
        asked(url, "/v1/chat/completions", "POST", origin=EVIL),
        asked(url, host="evil.example", origin=EVIL),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_a_stream_and_its_errors_may_be_read_from_any_page(url: str) -> None:
    for body in ({**CHAT, "stream": True}, {**CHAT, "stream": True, "n": 0}):
        answer = CLIENT.post(f"{url}/v1/chat/completions", json=body, headers={"origin": EVIL})
        assert answer.headers["access-control-allow-origin"] == "*"


def test_a_browser_may_ask_first_for_ten_minutes(url: str) -> None:
    asked_for = "authorization,x-stainless-os,x-stainless-retry-count,x-anything"
    answer = asked(
        url,
        "/v1/responses",
        "OPTIONS",
        origin=EVIL,
        access_control_request_method="DELETE",
        access_control_request_headers=asked_for,
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-headers"] == asked_for
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-max-age"] == "600"


@pytest.mark.parametrize("path", ["/", "/conversations", "/dashboard", "/metrics", "/nothing"])
def test_pages_of_other_servers_get_nothing_but_the_api(url: str, path: str) -> None:
    answer = asked(url, path, origin=EVIL, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert answer.status_code == 403
    assert assert_envelope(answer.json())["code"] == "forbidden_origin"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("method", "mode", "destination"),
    [
        ("GET", "no-cors", "image"),
        ("GET", "no-cors", "script"),
        ("GET", "navigate", "iframe"),
        ("POST", "no-cors", "empty"),
        ("POST", "navigate", "document"),
        ("GET", "same-origin", "empty"),
    ],
)
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_the_api_is_not_for_forms_images_and_scripts_of_other_pages(
    url: str, site: str, method: str, mode: str, destination: str
) -> None:
    if site == "same-site" and method == "GET":
        pytest.skip("another server of this machine may show what it can get anyway")
    id = create(url, background=True)["id"]
    said = {"origin": EVIL, "sec_fetch_mode": mode, "sec_fetch_dest": destination}
    path = "/v1/models" if method == "GET" else f"/v1/responses/{id}/cancel"
    answer = asked(url, path, method, sec_fetch_site=site, **said)
    assert answer.status_code == 403
    assert assert_envelope(answer.json())["code"] == "forbidden_origin"
    fetched = {**said, "sec_fetch_mode": "cors"}
    assert asked(url, path, method, sec_fetch_site=site, **fetched).status_code == 200


def test_a_link_may_be_followed_but_not_framed(url: str) -> None:
    visit = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert asked(url, "/nothing", **visit, sec_fetch_dest="document").status_code == 404
    assert asked(url, "/nothing", **visit, sec_fetch_dest="iframe").status_code == 403


@pytest.mark.parametrize("settings", [{"no_cors": True}, {"allowed_origins": ("http://app",)}])
def test_other_pages_are_refused_when_the_server_was_told_so(settings: dict[str, Any]) -> None:
    app = create_app(Settings(no_conversation_logs=True, **settings), ScriptedEngine())
    with serving(app) as url:
        for answer in (
            asked(url, origin=EVIL, sec_fetch_site="cross-site"),
            CLIENT.post(f"{url}/v1/chat/completions", json=CHAT, headers={"origin": EVIL}),
        ):
            assert refusal(answer) == (403, "forbidden_origin", None)
            assert "access-control-allow-origin" not in answer.headers
        preflight = asked(url, method="OPTIONS", origin=EVIL, access_control_request_method="POST")
        assert_envelope(preflight.json())
        assert "access-control-allow-origin" not in preflight.headers
        own = CLIENT.post(f"{url}/v1/chat/completions", json=CHAT, headers={"origin": url})
        assert own.status_code == 200
        app_page = asked(url, origin="http://app", sec_fetch_site="cross-site")
        assert (app_page.status_code == 200) == ("allowed_origins" in settings)
        with pytest.raises(InvalidStatus):
            connect(url.replace("http", "ws") + "/v1/responses", origin="http://evil.example")
        connect(url.replace("http", "ws") + "/v1/responses", origin=url).close()


def test_every_answer_forbids_what_it_does_not_need(url: str) -> None:
    stream = CLIENT.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True})
    for answer in (stream, asked(url), asked(url, "/nothing"), asked(url, host="evil.example")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "no-store" in answer.headers["cache-control"]


# Keys


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# ours\nkey-of-anna\n\n  key-of-ben  \n", encoding="utf-8")
    return path


def test_what_one_key_made_is_nobody_elses(key_file: Path, tmp_path: Path) -> None:
    settings = Settings(api_key_file=str(key_file), conversation_logs=str(tmp_path / "logs"))
    with serving(create_app(settings, ScriptedEngine())) as url:
        anna, ben = ({"authorization": f"Bearer key-of-{name}"} for name in ("anna", "ben"))
        made = CLIENT.post(f"{url}/v1/responses", json={"input": "hi"}, headers=anna).json()
        talk = CLIENT.post(f"{url}/v1/conversations", json={}, headers=anna).json()
        item = made["output"][0]["id"]
        again = {"input": "hi", "previous_response_id": made["id"]}
        bodies: list[dict[str, Any]] = [
            again,
            {"input": "hi", "conversation": talk["id"]},
            {"input": [{"type": "item_reference", "id": item}]},
        ]
        for body in bodies:
            for path in ("", "/input_tokens"):
                answer = CLIENT.post(f"{url}/v1/responses{path}", json=body, headers=ben)
                assert answer.status_code in (400, 404)
        unknown = "resp_" + "0" * 32
        for method, path in (
            *(("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")),
        ):
            one = CLIENT.request(method, f"{url}/v1/responses/{made['id']}{path}", headers=ben)
            none = CLIENT.request(method, f"{url}/v1/responses/{unknown}{path}", headers=ben)
            assert one.status_code == none.status_code == 404
            assert one.text.replace(made["id"], "x") == none.text.replace(unknown, "x")
        for method, path in (
            *(("GET", ""), ("DELETE", ""), ("GET", "/items"), ("GET", "/items/x")),
            ("DELETE", "/items/x"),
        ):
            where = f"{url}/v1/conversations/{talk['id']}{path}"
            assert CLIENT.request(method, where, headers=ben).status_code == 404
        assert CLIENT.post(f"{url}/v1/responses", json=again, headers=anna).status_code == 200
        socket = url.replace("http", "ws") + "/v1/responses"
        with connect(socket, additional_headers=ben) as frames:
            frames.send(json.dumps({"type": "response.create", **again}))
            assert '"previous_response_not_found"' in str(frames.recv(20))


def test_each_key_of_a_file_opens_and_no_other_does(key_file: Path) -> None:
    keys = Keys.of(Settings(api_key="shared", api_key_file=str(key_file)))
    owners = [keys.owner({"authorization": f"Bearer {k}"}) for k in ("key-of-anna", "key-of-ben")]
    assert all(owners) and len(set(owners)) == 2
    assert keys.owner({"x-api-key": "shared"}) == ""
    for wrong in ("", "# ours", "key-of", "key-of-anna ben", "KEY-OF-ANNA", "\ud800"):
        assert keys.owner({"authorization": f"Bearer {wrong}"}) is None
    assert "key-of-anna" not in "".join(map(str, owners))


@pytest.mark.parametrize("text", [None, "", "# nothing\n\n"])
def test_a_file_without_keys_opens_nothing(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(Unavailable, match="file of keys"):
        create_app(Settings(api_key_file=str(path)), ScriptedEngine())


def test_an_open_server_without_a_key_says_so_loudly(caplog: pytest.LogCaptureFixture) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        _warn_of_exposure(Settings(host=host))
    _warn_of_exposure(Settings(host="0.0.0.0", api_key="k"))
    assert not caplog.text
    _warn_of_exposure(Settings(host="0.0.0.0"))
    assert "ANYONE WHO CAN REACH 0.0.0.0" in caplog.text


# What is said, and where it is left


MARKER = "zebra-marker-7391"


def test_nothing_that_was_said_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine()
    settings = Settings(conversation_logs=str(tmp_path / "logs"))
    with caplog.at_level(logging.INFO), serving(create_app(settings, engine)) as url:
        say_everywhere(url)
        engine.submit = broken  # type: ignore[method-assign, assignment]
        say_everywhere(url)
    assert "ZeroDivisionError" in caplog.text
    assert MARKER not in caplog.text


async def broken(prompt: object, params: object, **options: object) -> Any:
    """An engine that fails, and quotes what it was given."""
    raise ZeroDivisionError(f"{prompt}")


def say_everywhere(url: str) -> None:
    part = [{"role": "user", "content": [{"type": "text", "text": MARKER}]}]
    for path, body in {
        "/v1/chat/completions": {"messages": part},
        "/v1/chat/completions?": {"messages": part, "stream": True, "tools": [{"name": MARKER}]},
        "/v1/chat/completions??": {"messages": [{"role": "user", "content": {"x": MARKER}}]},
        "/v1/chat/completions???": {"messages": part, "stop": [MARKER], "temperature": MARKER},
        "/v1/responses": {"input": MARKER, "instructions": MARKER, "metadata": {"a": MARKER}},
        "/v1/responses?": {"input": [{"type": "message", "role": "user", "content": MARKER}, 7]},
        "/v1/responses/input_tokens": {"input": MARKER},
        "/v1/responses/compact": {"input": MARKER, "model": "demo"},
        "/v1/conversations": {"items": [{"role": "user", "content": MARKER}]},
        "/v1/nothing": {"input": MARKER},
    }.items():
        CLIENT.post(url + path, json=body)
    for body in (b'{"a": "' + MARKER.encode(), MARKER.encode(), b"\xff" + MARKER.encode()):
        for path in ("/v1/chat/completions", "/v1/responses"):
            kind = {"content-type": "application/json"}
            CLIENT.post(url + path, content=body, headers=kind)
    with connect(url.replace("http", "ws") + "/v1/responses") as socket:
        for frame in (json.dumps({"type": "response.create", "input": MARKER}), MARKER):
            socket.send(frame)
            socket.recv(20)


def test_a_conversation_is_left_where_only_its_owner_reads(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    umask = os.umask(0)
    try:
        settings = Settings(conversation_logs=str(folder))
        with serving(create_app(settings, ScriptedEngine())) as url:
            create(url)
    finally:
        os.umask(umask)
    (file,) = folder.glob("*.json")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_image_is_never_fetched(url: str) -> None:
    with serving(recorder := Recorder()) as internal:
        picture = {"type": "image_url", "image_url": {"url": f"{internal}/secret"}}
        chat = {"messages": [{"role": "user", "content": [picture]}]}
        answer = CLIENT.post(f"{url}/v1/chat/completions", json=chat)
        assert refusal(answer)[:2] == (400, "unsupported_content")
        item = {"role": "user", "content": [{"type": "input_image", "image_url": internal}]}
        answer = CLIENT.post(f"{url}/v1/responses", json={"input": [item]})
        assert refusal(answer)[:2] == (400, "unsupported_content")
    assert not recorder.requests


class Recorder:
    """An application that notes who asks it for something."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.requests.append(scope["path"])


def test_an_id_is_a_secret_of_128_bits(url: str) -> None:
    ids = {create(url)["id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(len(id.removeprefix("resp_")) == 32 for id in ids)
    assert get(url, next(iter(ids))).status_code == 200

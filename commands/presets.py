"""A preset is what one client must be told to use this server, in the client's own words."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from commands import toml_lines

NAME = "mlx-server"
"""What clients call this server among their providers."""
KEY_VARIABLE = "MLX_SERVER_API_KEY"
"""The server's own variable: where it holds the key, clients find it too."""
ZED_NAME = "mlx-local"
"""Zed always wants a variable with its provider's name in it, even where the server has no key."""
ZED_VARIABLE = "MLX_LOCAL_API_KEY"
PROXY_KEY = "sk-local"
"""LiteLLM's proxy starts only with a key of its own."""
NO_KEY = "none-needed"
"""What is sent where a client insists on a key and the server does not."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the model that a client is to use."""

    url: str
    """Of the API, with /v1."""
    model: str
    context_window: int | None = None
    tools: bool = True
    api_key: str | None = None

    @property
    def key(self) -> str:
        return self.api_key or NO_KEY

    @property
    def max_output(self) -> int:
        """Tokens of an answer that leave most of the window to the conversation."""
        return min((self.context_window or 32768) // 4, 32768)


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in a client's configuration file."""

    path: Path
    kind: Literal["json", "yaml", "toml"]
    merge: Callable[[Any], Any]
    """What the file says, with our part in it, from what it said before; None for no file.

    TOML is given and returned as text, the others as values. Raises `ValueError`.
    """


@dataclass(frozen=True, slots=True)
class Preset:
    """The settings as text to copy, and where they go."""

    text: str
    where: str = ""
    then: str = ""
    entry: Entry | None = None


def codex(target: Target) -> Preset:
    key = f'env_key = "{KEY_VARIABLE}"\n' if target.api_key else ""
    window = f"model_context_window = {target.context_window}\n" if target.context_window else ""
    text = (
        f"model = {json.dumps(target.model)}\n"
        f'model_provider = "{NAME}"\n{window}\n'
        f"[model_providers.{NAME}]\n"
        f'name = "{NAME}"\n'
        f'base_url = "{target.url}"\n'
        'wire_api = "responses"\n'
        # A long prompt is silent for minutes on a small machine; Codex counts no heartbeats.
        f"stream_idle_timeout_ms = 3600000\n{key}"
    )
    path = _home("CODEX_HOME", ".codex") / f"{NAME}.config.toml"
    return Preset(
        text,
        f"{path}, a profile of its own (or config.toml beside it, for every session)",
        f"codex --profile {NAME}" + _with_key(target),
        Entry(path, "toml", lambda old: text if old is None else _in_profile(old, text)),
    )


def _in_profile(old: str, text: str) -> str:
    ours = frozenset({"model", "model_provider", "model_context_window"})
    return toml_lines.replaced(old, text, ours, f"model_providers.{NAME}")


def opencode(target: Target) -> Preset:
    model: dict[str, Any] = {"name": target.model, "tool_call": target.tools}
    if target.context_window:
        model["limit"] = {"context": target.context_window, "output": target.max_output}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": NAME,
        "options": {"baseURL": target.url, "apiKey": target.key},
        "models": {target.model: model},
    }
    ours = {"$schema": "https://opencode.ai/config.json", "provider": {NAME: provider}}
    path = _config_home() / "opencode" / "opencode.json"
    then = f"opencode --model {shlex.quote(f'{NAME}/{target.model}')}"
    return _json_preset(ours, path, then)


def zed(target: Target) -> Preset:
    model = {
        "name": target.model,
        "max_tokens": target.context_window or 32768,
        "max_output_tokens": target.max_output,
        "capabilities": {
            "tools": target.tools,
            "images": False,
            "parallel_tool_calls": target.tools,
            "prompt_cache_key": False,
        },
    }
    server = {"api_url": target.url, "available_models": [model]}
    ours = {"language_models": {"openai_compatible": {ZED_NAME: server}}}
    then = f"export {ZED_VARIABLE}={shlex.quote(target.key)}, from where Zed is started"
    return _json_preset(ours, _config_home() / "zed" / "settings.json", then)


def continue_(target: Target) -> Preset:
    model: dict[str, Any] = {
        "name": NAME,
        "provider": "openai",
        "model": target.model,
        "apiBase": target.url,
        "apiKey": target.key,
        "roles": ["chat", "edit", "apply"],
    }
    if target.tools:
        model["capabilities"] = ["tool_use"]
    if target.context_window:
        options = {"contextLength": target.context_window, "maxTokens": target.max_output}
        model["defaultCompletionOptions"] = options
    fresh = {"name": "Local", "version": "0.0.1", "schema": "v1", "models": []}

    def merge(old: Any) -> Any:
        old = old or fresh
        return {**old, "models": _with(old.get("models") or [], model, "name")}

    path = Path.home() / ".continue" / "config.yaml"
    return _yaml_preset(merge, path, "choose mlx-server in Continue's list of models")


def llm(target: Target) -> Preset:
    model: dict[str, Any] = {
        "model_id": NAME,
        "model_name": target.model,
        "api_base": target.url,
        "supports_schema": True,
        "supports_tools": target.tools,
    }
    if target.api_key:
        model["api_key_name"] = NAME
    folder = os.environ.get("LLM_USER_PATH")
    path = Path(folder) if folder else _application_support() / "io.datasette.llm"
    then = f"llm -m {NAME} 'Hello!'"
    if target.api_key:
        then = f"llm keys set {NAME}, and give it the server's key; then {then}"
    return _yaml_preset(
        lambda old: _with(old or [], model, "model_id"), path / "extra-openai-models.yaml", then
    )


def aider(target: Target) -> Preset:
    ours = {
        "openai-api-base": target.url,
        "openai-api-key": target.key,
        "model": f"openai/{target.model}",
    }
    path = Path.home() / ".aider.conf.yml"
    return _yaml_preset(lambda old: {**(old or {}), **ours}, path, "aider")


def litellm(target: Target) -> Preset:
    return Preset(
        _litellm_config(target),
        "config.yaml of the proxy",
        f"litellm --config config.yaml --host 127.0.0.1; its clients send the key {PROXY_KEY}",
    )


def claude(target: Target) -> Preset:
    text = (
        "# Claude Code speaks Anthropic's API, which this server does not have.\n"
        "# LiteLLM's proxy stands between them: pip install 'litellm[proxy]', save this as\n"
        "# litellm.yaml and keep this running:\n"
        "# litellm --config litellm.yaml --host 127.0.0.1 --port 4000\n"
    ) + _litellm_config(target)
    then = (
        f"ANTHROPIC_BASE_URL=http://127.0.0.1:4000 ANTHROPIC_AUTH_TOKEN={PROXY_KEY} "
        f"ANTHROPIC_DEFAULT_HAIKU_MODEL={shlex.quote(target.model)} {_claude_window(target)}"
        f"claude --model {shlex.quote(target.model)}"
    )
    return Preset(text, "litellm.yaml, where the proxy is started", then)


def _claude_window(target: Target) -> str:
    """Claude Code takes a model that it does not know for one with a window of a million tokens."""
    if not target.context_window:
        return ""
    return (
        f"CLAUDE_CODE_MAX_CONTEXT_TOKENS={target.context_window} "
        f"CLAUDE_CODE_MAX_OUTPUT_TOKENS={target.max_output} "
    )


def _litellm_config(target: Target) -> str:
    parameters = {
        "model": f"hosted_vllm/{target.model}",
        "api_base": target.url,
        "api_key": target.key,
    }
    models = [{"model_name": target.model, "litellm_params": parameters}]
    return _yaml({"model_list": models, "general_settings": {"master_key": PROXY_KEY}})


def open_webui(target: Target) -> Preset:
    # A container's own 127.0.0.1 is not this machine's.
    inside = target.url.replace("127.0.0.1", "host.docker.internal")
    text = (
        "docker run -d -p 3000:8080 --add-host=host.docker.internal:host-gateway \\\n"
        f"  -e OPENAI_API_BASE_URL={inside} -e OPENAI_API_KEY={shlex.quote(target.key)} \\\n"
        "  -v open-webui:/app/backend/data --name open-webui ghcr.io/open-webui/open-webui:main\n"
    )
    return Preset(
        text,
        "a shell",
        "start this server with --host 0.0.0.0 and an --api-key, or the container cannot reach it",
    )


def cline(target: Target) -> Preset:
    window = str(target.context_window or "as the server says")
    lines = (
        ("API Provider", "OpenAI Compatible"),
        ("Base URL", target.url),
        ("API Key", target.key),
        ("Model ID", target.model),
        ("Context Window Size", window),
        ("Supports Images", "off"),
    )
    text = "".join(f"{name:20} {value}\n" for name, value in lines)
    return Preset(text, "Cline's settings in VS Code")


def langchain(target: Target) -> Preset:
    text = (
        "from langchain_openai import ChatOpenAI\n\n"
        "model = ChatOpenAI(\n"
        f"    model={target.model!r}, base_url={target.url!r}, api_key={target.key!r}\n"
        ")\n"
        'print(model.invoke("Hello!").content)\n'
    )
    return Preset(text, "your Python program")


def sdk(target: Target) -> Preset:
    text = f"export OPENAI_BASE_URL={target.url}\nexport OPENAI_API_KEY={shlex.quote(target.key)}\n"
    return Preset(text, "a shell, before a program that uses an OpenAI SDK")


PRESETS: dict[str, Callable[[Target], Preset]] = {
    "codex": codex,
    "claude": claude,
    "opencode": opencode,
    "zed": zed,
    "continue": continue_,
    "open-webui": open_webui,
    "llm": llm,
    "aider": aider,
    "cline": cline,
    "litellm": litellm,
    "langchain": langchain,
    "sdk": sdk,
}


def merged(old: Any, ours: Any) -> Any:
    """A JSON value with our part in it; what is not ours stays."""
    if isinstance(old, dict) and isinstance(ours, dict):
        return {**old, **{key: merged(old.get(key), value) for key, value in ours.items()}}
    return ours


def _with(entries: list[Any], ours: dict[str, Any], key: str) -> list[Any]:
    """A list with our entry in the place of the one that has its name. Raises `ValueError`."""
    if not isinstance(entries, list):
        raise ValueError("there is no list where this client's models should be")
    others = [one for one in entries if not (isinstance(one, dict) and one.get(key) == ours[key])]
    return [*others, ours]


def _json_preset(ours: dict[str, Any], path: Path, then: str) -> Preset:
    entry = Entry(path, "json", lambda old: merged(old or {}, ours))
    return Preset(json.dumps(ours, indent=2, ensure_ascii=False) + "\n", str(path), then, entry)


def _yaml_preset(merge: Callable[[Any], Any], path: Path, then: str) -> Preset:
    return Preset(_yaml(merge(None)), str(path), then, Entry(path, "yaml", merge))


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text


def _with_key(target: Target) -> str:
    return f", with the server's key in {KEY_VARIABLE}" if target.api_key else ""


def _home(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / name)


def _config_home() -> Path:
    return _home("XDG_CONFIG_HOME", ".config")


def _application_support() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return _config_home()

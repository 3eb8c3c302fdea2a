"""Loading gives a model that can be stepped, or one sentence that says why not."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import server
from door.settings import Settings
from inference import loader
from inference.grammar import Grammars
from inference.loader import LoadOptions, _sampling_defaults, load
from parts import Constraint, InvalidRequest, Message, Prompt, SamplingParams, Unavailable
from tests import demo
from tests.conftest import DEMO, ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in DEMO.iterdir():
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def options(folder: Path, **rest: Any) -> LoadOptions:
    return LoadOptions(folder=folder, name="demo", **rest)


def test_the_demo_model_is_loaded_with_what_is_known_about_it() -> None:
    model = load(options(DEMO))
    assert model.card.context_window == demo.CONTEXT_WINDOW
    assert (model.card.thinking, model.card.tools) == (True, True)
    assert model.card.num_bytes == (DEMO / "model.safetensors").stat().st_size
    assert model.vocab_size == demo.VOCAB_SIZE
    assert demo.END in model.stop_tokens
    assert model.runner.can_batch
    assert model.render(Prompt((Message("user", "hi"),)))


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"top_k": 20, "min_p": 0.05, "temperature": 0.6}, {"top_k": 20, "min_p": 0.05}),
        ({"top_k": 0, "min_p": 0.0}, {}),
        ({"top_k": None, "min_p": 1.5}, {}),
        ({"top_k": "20", "min_p": -1}, {}),
        ({"top_k": 1.5}, {}),
        ({}, {}),
    ],
)
def test_the_models_own_sampling_defaults_are_read(folder: Path, said: Any, read: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(said))
    assert load(options(folder)).card.sampling_defaults == read


def test_a_model_without_readable_sampling_defaults_has_none(folder: Path) -> None:
    for text in ("[", "[]"):
        (folder / "generation_config.json").write_text(text)
        assert _sampling_defaults(folder) == {}
    (folder / "generation_config.json").unlink()
    assert load(options(folder)).card.sampling_defaults == {}


def test_the_context_can_be_set() -> None:
    assert load(options(DEMO, context_window=512)).card.context_window == 512


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "no_such_model"}, "does not know the model type"),
        ({"hidden_size": 96}, "do not fit its config.json"),
        ({"num_hidden_layers": 7}, "do not fit its config.json"),
        ({"model_file": "model.py"}, "--trust-remote-code"),
        ({"hidden_size": "many"}, "cannot be loaded ("),
        ({"num_attention_heads": 0}, "cannot be loaded (ZeroDivisionError: "),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_a_sentence(
    folder: Path, change: dict[str, Any], said: str
) -> None:
    edit(folder / "config.json", lambda config: config.update(change))
    with pytest.raises(Unavailable) as caught:
        load(options(folder))
    assert said in caught.value.message
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff" * 99])
def test_a_broken_tokenizer_is_refused_in_a_sentence(
    folder: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(Unavailable) as caught:
        load(options(folder))
    assert f"{folder / name} cannot be read as JSON" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_adapter_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="adapter"):
        load(options(DEMO, adapter_path=str(tmp_path / "nowhere")))


def test_a_token_behind_a_gap_in_the_vocabulary_can_be_sampled(folder: Path) -> None:
    """There are fewer tokens then than the last one's number says."""

    def leave_a_gap(content: Any) -> None:
        model, added = content["model"], content["added_tokens"]
        model["vocab"].update({token["content"]: token["id"] for token in added})
        last = next(text for text, number in model["vocab"].items() if number == 1268)
        del model["vocab"][last]
        model["merges"] = [m for m in model["merges"] if "".join(m).replace(" ", "") != last]

    edit(folder / "tokenizer.json", leave_a_gap)
    assert load(options(folder)).vocab_size == demo.VOCAB_SIZE


def test_a_token_that_the_model_has_no_embedding_for_is_refused(folder: Path) -> None:
    def add_a_token(content: Any) -> None:
        last = max(content["added_tokens"], key=lambda token: int(token["id"]))
        added = dict(last, id=demo.VOCAB_SIZE + 5, content="<|beyond|>", special=True)
        content["added_tokens"].append(added)

    def show_it(config: Any) -> None:
        config["chat_template"] = "{{ messages[0].content }}{% if deep %}<|beyond|>{% endif %}"

    edit(folder / "tokenizer.json", add_a_token)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", show_it)
    loaded = load(options(folder))
    assert loaded.render(Prompt((Message("user", "<|beyond|>"),)))
    with pytest.raises(InvalidRequest, match=r"beyond.*was not made for"):
        loaded.render(Prompt((Message("user", "hi"),), template_args={"deep": True}))


def test_the_fingerprint_changes_with_what_decides_the_answer(folder: Path) -> None:
    first = load(options(DEMO)).card.fingerprint
    assert first == load(options(folder)).card.fingerprint
    changed = [options(DEMO, template_args={"a": 1}), options(DEMO, kv_bits=8)]
    found = [first, *(load(changes).card.fingerprint for changes in changed)]
    for name in ("tokenizer_config.json", "generation_config.json"):
        edit(folder / name, lambda content: content.update(note="another"))
        found.append(load(options(folder)).card.fingerprint)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    found.append(load(options(folder)).card.fingerprint)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("library", ["mlx", "mlx-lm", "llguidance"])
def test_the_fingerprint_changes_with_the_libraries(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    first = load(options(DEMO)).card.fingerprint
    real = loader.version
    monkeypatch.setattr(loader, "version", lambda name: real(name) + "x" * (name == library))
    assert load(options(DEMO)).card.fingerprint != first


def test_the_vocabulary_is_read_before_anyone_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(options(DEMO))

    def read_tokens(grammars: Grammars) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(Grammars, "_read_tokens", read_tokens)
    prompt = Prompt((Message("user", "hi"),), constraint=Constraint("choice", ["yes"]))
    assert loaded.make_guide([1], prompt, SamplingParams())


def test_what_was_loaded_is_not_looked_through_until_it_leaves() -> None:
    """To look for garbage among all that stays takes a tenth of a second, and nobody is served."""
    engine = server._engine(Settings())
    try:
        model = engine._load()  # type: ignore[attr-defined]
        assert gc.get_freeze_count() > 10_000
        model.release()
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()


LIMIT = """
import resource, sys
from pathlib import Path
from inference.loader import LoadOptions, load
set_to = []
sys.addaudithook(lambda name, args: set_to.append(args) if name == "resource.setrlimit" else None)
before = resource.getrlimit(resource.RLIMIT_NOFILE)
load(LoadOptions(folder=Path("demo/model"), name="demo"))
print(before == resource.getrlimit(resource.RLIMIT_NOFILE), set_to)
"""


def test_the_limit_on_open_files_is_left_alone() -> None:
    """Lowered and raised again will not do: nobody but root may raise it."""
    found = subprocess.run(
        [sys.executable, "-c", LIMIT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "[]"]


def test_an_adapter_changes_what_the_model_says(tmp_path: Path) -> None:
    import mlx.core as mx

    rank, width = 4, 192
    config = {
        "num_layers": 6,
        "lora_parameters": {
            "rank": rank,
            "scale": 20.0,
            "dropout": 0.0,
            "keys": ["self_attn.o_proj"],
        },
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    weights = {}
    for layer in range(6):
        name = f"model.layers.{layer}.self_attn.o_proj"
        weights[f"{name}.lora_a"] = mx.random.normal((256, rank))
        weights[f"{name}.lora_b"] = mx.random.normal((rank, width))
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    plain, adapted = load(options(DEMO)), load(options(DEMO, adapter_path=str(tmp_path)))
    prompt = mx.array([[1, 2, 3]])
    answers = [m.runner.model(prompt) for m in (plain, adapted)]  # type: ignore[attr-defined]
    assert not mx.allclose(answers[0], answers[1])
    assert plain.card.fingerprint != adapted.card.fingerprint


def test_a_limit_that_leaves_no_room_for_a_conversation_is_refused_unless_forced() -> None:
    with pytest.raises(Unavailable, match="larger --memory-limit"):
        load(options(DEMO, memory_limit=2**20))
    forced = load(options(DEMO, memory_limit=2**20, is_forced=True))
    assert forced.budget.max_tokens(demo.CONTEXT_WINDOW) == demo.CONTEXT_WINDOW
    roomy = load(options(DEMO, memory_limit=2**31, is_forced=True))
    assert roomy.budget.limit == 2**31


@pytest.mark.parametrize("template", ["{% if", "{{ raise_exception('no') }}"])
def test_a_template_that_fails_on_everything_is_refused(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(Unavailable, match="chat template"):
        load(options(folder))


# Code that comes with a model


TRAP = """
from pathlib import Path

Path(__file__).with_name("was-run").touch()
Path({place!r}).touch()


class Trap:
    def __init__(self, *arguments, **options):
        pass

    from_pretrained = classmethod(lambda cls, *arguments, **options: cls())


Model = ModelArgs = TrapTokenizer = TrapConfig = TrapModel = Trap
"""
AUTO_MAP = {
    "AutoConfig": "trap.TrapConfig",
    "AutoModelForCausalLM": "trap.TrapModel",
    "AutoTokenizer": ["trap.TrapTokenizer", "trap.TrapTokenizer"],
}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", {"auto_map": AUTO_MAP}),
        ("config.json", {"auto_map": AUTO_MAP, "model_type": "trap"}),
        ("config.json", {"model_file": "trap.py"}),
        ("config.json", {"model_file": "trap.py", "model_type": "trap"}),
        ("tokenizer_config.json", {"auto_map": AUTO_MAP}),
        ("tokenizer_config.json", {"auto_map": AUTO_MAP, "tokenizer_class": "TrapTokenizer"}),
        ("tokenizer_config.json", {"tool_parser_type": "trap"}),
        ("tokenizer_config.json", {"tool_parser_type": "../../trap"}),
    ],
    ids=str,
)
def test_code_that_comes_with_a_model_is_not_run(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, file: str, said: dict[str, Any]
) -> None:
    place = tmp_path_factory.mktemp("place") / "was-run"
    (folder / "trap.py").write_text(TRAP.format(place=str(place)), encoding="utf-8")
    edit(folder / file, lambda content: content.update(said))
    with contextlib.suppress(Unavailable):
        load(options(folder)).render(Prompt((Message("user", "hi"),)))
    assert not place.exists()
    assert not (folder / "was-run").exists()


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch PLACE').read() }}",
    "{{ lipsum.__globals__['os'].system('touch PLACE') }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('PLACE', 'w') }}",
    "{{ strftime_now.__globals__['__builtins__']['open']('PLACE', 'w') }}",
    "{{ self.__init__.__globals__.__builtins__.open('PLACE', 'w') }}",
    "{{ (messages|map(attribute='__class__')|list)[0].__mro__ }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{% set _ = messages.append({'role': 'user', 'content': 'x'}) %}",
    "{{ messages.clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch PLACE') }}",
]


def shown(folder: Path, template: str, tokenizer: Any) -> str:
    """What a model's own template makes of a message, or why it does not."""
    for old in folder.glob("*.jinja"):
        old.unlink()
    said = template + "{{ messages[0].content }}"
    edit(folder / "tokenizer_config.json", lambda content: content.update(chat_template=said))
    try:
        tokens = load(options(folder)).render(Prompt((Message("user", "hi"),)))
    except (InvalidRequest, Unavailable) as refusal:
        return refusal.message
    return str(tokenizer.decode(tokens))


def test_a_models_own_template_is_rendered(folder: Path, tokenizer: Any) -> None:
    assert shown(folder, "{{ 6 * 7 }}{{ messages[0].role }}", tokenizer).startswith("42user")


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_does_not_get_out_of_its_sandbox(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, escape: str
) -> None:
    place = tmp_path_factory.mktemp("place") / "was-run"
    text = shown(folder, escape.replace("PLACE", str(place)), tokenizer)
    assert not place.exists()
    assert "<class" not in text and "root:" not in text
    # Refused, or left empty: what it asked for is nowhere.
    assert text.endswith("hi") or "template" in text

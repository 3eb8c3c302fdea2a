"""Rows with a grammar come and go: their answers do not depend on how their tokens are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from inference import cuda_mailbox, runner
from inference.engine import LoadedModel
from inference.loader import LoadOptions, load
from inference.prefix_cache import PrefixCache
from inference.runner import Runner
from inference.sequence import Sequence
from parts import Constraint, Message, Prompt, SamplingParams
from tests.inference.device import TardyDevice

PATTERNS = (None, "[ab]+", "[0-9]{3,9}", "(yes|no|maybe){2,5}", "[a-z ]{4,40}", "x*y+z")


@dataclass(frozen=True)
class Guest:
    """Who comes at one step, and may leave at another."""

    number: int
    comes: int
    leaves: int | None = None


GUESTS = [Guest(n, comes=3 * (n // 3), leaves=12 if n in (2, 9) else None) for n in range(12)]


@pytest.fixture(scope="module")
def model(float32_model: Path) -> LoadedModel:
    return load(LoadOptions(float32_model, "demo"))


def sequence_of(model: LoadedModel, guest: Guest) -> Sequence:
    pattern = PATTERNS[guest.number % len(PATTERNS)]
    prompt = Prompt(
        (Message("user", f"Tell me about {guest.number} things."),),
        template_args={"enable_thinking": False},
        constraint=None if pattern is None else Constraint("regex", pattern),
    )
    params = SamplingParams(temperature=0.9, seed=guest.number, max_tokens=6 + 3 * guest.number)
    tokens = model.render(prompt)
    return Sequence(
        tokens,
        params,
        model.make_parser(tokens, prompt),
        stop_tokens=model.stop_tokens,
        guide=model.make_guide(tokens, prompt, params),
    )


def answers(model: LoadedModel, *, fails_at: int = -1) -> list[list[int]]:
    """What each guest has heard at its end; everything begins anew after a step that fails."""
    given = model.runner
    assert isinstance(given, Runner)
    serving = Runner(
        given.model, given.tokenizer, vocab_size=model.vocab_size, prefix_cache=PrefixCache(0)
    )
    guests = [(guest, sequence_of(model, guest)) for guest in GUESTS]
    waiting, running, step = [s for _, s in guests], list[Sequence](), 0
    while waiting or running:
        gone = [s for g, s in guests if g.leaves == step]
        serving.remove(gone)
        waiting = [s for s in waiting if s not in gone]
        running = [s for s in running if s not in gone]
        here = [s for g, s in guests if s in waiting and g.comes <= step][: 1 + step % 3]
        if here and serving.prefill(here, 1000):
            serving.join()
            running += here
            waiting = [s for s in waiting if s not in here]
        step += 1
        if step == fails_at:
            serving.reset()
            waiting, running = [*running, *waiting], []
            for sequence in waiting:
                sequence.start_again()
            continue
        for sequence, token, _ in serving.decode():
            sequence.append(token)
        over = [s for s in running if s.is_finished]
        serving.remove(over)
        running = [s for s in running if s not in over]
        assert not any(s.guide and s.guide.error for s in running)
    return [s.generated for _, s in guests]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[TardyDevice]:
    """Those of the batches that are made, each with a mailbox of its own."""
    made: list[TardyDevice] = []

    def mailbox() -> TardyDevice:
        made.append(TardyDevice(len(made)))
        return made[-1]

    monkeypatch.setattr(runner, "mailbox", mailbox)
    return made


@pytest.mark.parametrize("patience_s", [60.0, 0.001])
@pytest.mark.parametrize("fails_at", [-1, 8])
def test_tokens_from_a_mailbox_are_those_that_the_device_chose(
    model: LoadedModel,
    devices: list[TardyDevice],
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
    patience_s: float,
) -> None:
    monkeypatch.setattr(cuda_mailbox, "PATIENCE_S", patience_s)
    found = answers(model, fails_at=fails_at)
    for device in devices:
        device.finish()
    assert sum(device.num_posts for device in devices) > 40
    monkeypatch.setattr(runner, "mailbox", lambda: None)
    wanted = answers(model, fails_at=fails_at)
    stayed = [guest.leaves is None for guest in GUESTS]
    assert [a for a, stays in zip(found, stayed, strict=True) if stays] == [
        a for a, stays in zip(wanted, stayed, strict=True) if stays
    ]


def test_tokens_are_posted_with_the_step_that_chooses_them_and_in_one_place(
    model: LoadedModel, devices: list[TardyDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_mailbox, "PATIENCE_S", 60.0)
    given = model.runner
    assert isinstance(given, Runner)
    serving = Runner(
        given.model, given.tokenizer, vocab_size=model.vocab_size, prefix_cache=PrefixCache(0)
    )
    rows = [sequence_of(model, Guest(4, 0)), sequence_of(model, Guest(10, 0))]
    serving.prefill(rows, 1000)
    serving.join()
    for _ in range(12):
        for sequence, token, _logprob in serving.decode():
            sequence.append(token)
    [device] = devices
    # The first tokens were sampled without a step; those behind the twelfth are under way.
    assert device.num_posts == 1 + 12
    assert len(device.rooms) == 1

"""The mask of a batch is, row by row, what each guide allows."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

import inference.runner
from inference import cuda_mailbox, mask_kernel, masks
from inference.cuda_mailbox import Mailbox
from inference.grammar import Grammars
from inference.guide import Guide
from inference.parser import Markers
from inference.prefix_cache import PrefixCache
from inference.runner import Runner
from parts import Constraint, Message, Prompt

VOCAB = 2_048


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, Markers.of(tokenizer), vocab_size=VOCAB)


def guides(grammars: Grammars, *, thinks: bool = False) -> list[Guide | None]:
    """Guides that stand in different places, and rows without one among them."""
    found: list[Guide | None] = []
    for number, pattern in enumerate(("[ab]+", "[0-9]{3}", "yes|no", "[a-z ]{9}", "x*y", "[0-9]+")):
        args = {"enable_thinking": thinks}
        prompt = Prompt((Message("user", "hi"),), (), args, constraint=Constraint("regex", pattern))
        guide = grammars.guide(prompt, [1], max_reasoning_tokens=0 if thinks else None)
        assert guide is not None
        for _ in range(number % 3):
            guide.accept(allowed(guide)[0])
        found += [guide, None]
    return found


def allowed(guide: Guide) -> list[int]:
    return [int(token) for token in np.flatnonzero(bits(alone(guide))[0])]


def alone(guide: Guide) -> np.ndarray:
    return np.array(masks.filled([guide], VOCAB)).view(np.int32)


def bits(mask: np.ndarray) -> np.ndarray:
    return np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little")


@pytest.mark.parametrize("number", [1, 12])
@pytest.mark.parametrize("thinks", [False, True])
def test_a_row_may_choose_from_what_its_own_guide_allows(
    grammars: Grammars, number: int, thinks: bool
) -> None:
    rows = guides(grammars, thinks=thinks)[: 2 * number]
    mask = masks.filled(rows, VOCAB)
    assert mask is not None
    found = np.array(mask).view(np.int32)
    for row, guide in enumerate(rows):
        wanted = np.full((1, VOCAB // 32), -1, np.int32) if guide is None else alone(guide)
        assert (found[row] == wanted[0]).all()


def test_there_is_no_mask_where_nobody_is_guided() -> None:
    assert masks.filled([None, None], VOCAB) is None


def test_one_that_lost_its_way_leaves_the_others_on_theirs(grammars: Grammars) -> None:
    rows = [guide for guide in guides(grammars) if guide is not None]
    lost = rows[1]
    lost.accept(next(t for t in range(VOCAB) if t not in allowed(lost)))
    mask = masks.filled(rows, VOCAB)
    assert mask is not None
    found = np.array(mask).view(np.int32)
    assert lost.error
    assert lost.is_lost(len(lost._accepted))
    assert bits(found)[1].all()
    for row in (0, 2, 3, 4, 5):
        assert (found[row] == alone(rows[row])[0]).all()


def test_a_batch_writes_its_mask_where_it_stood_before(grammars: Grammars) -> None:
    rows = guides(grammars)
    mask = masks.Mask(VOCAB)
    room = mask.of(len(rows))
    mask.fill(rows)
    before = np.array(room)
    assert (before == np.array(masks.filled(rows, VOCAB))).all()
    fewer = rows[2:9]
    array = mask.of(len(fewer))
    mask.fill(fewer)
    assert (np.array(array) == np.array(masks.filled(fewer, VOCAB))).all()
    # The same memory: an array of a step is what the next one makes of it.
    assert (np.array(room)[: len(fewer)] == np.array(array)).all()
    assert (np.array(room)[len(fewer) :] == before[len(fewer) :]).all()
    more = [*rows, *guides(grammars)]
    array = mask.of(len(more))
    mask.fill(more)
    assert (np.array(array) == np.array(masks.filled(more, VOCAB))).all()


class Device(Mailbox):
    """A mailbox into which tokens come at once, or never."""

    def __init__(self, *, is_silent: bool = False) -> None:
        super().__init__()
        self.is_silent = is_silent

    def post(self, tokens: mx.array) -> mx.array:
        posted = super().post(tokens)
        if not self.is_silent:
            self._slots.view[: tokens.shape[0]] = tokens.tolist()
        return posted

    def _post(self, **_: Any) -> list[mx.array]:
        return [mx.zeros(1)]


def filler(mailbox: Mailbox | None) -> masks.MaskFiller:
    return masks.MaskFiller(ThreadPoolExecutor(1), VOCAB, mailbox)


def test_a_step_after_another_finds_its_own_tokens(grammars: Grammars) -> None:
    rows, twins = guides(grammars), guides(grammars)
    fills = filler(Device())
    for step in range(3):
        tokens = [-1 if guide is None else allowed(guide)[0] for guide in twins]
        told = mx.array(tokens)
        if step != 1:
            assert len(fills.posting(told)) == 1
        with fills.filling(rows, told) as array:
            pass
        for guide, token in zip(twins, tokens, strict=True):
            if guide is not None:
                guide.accept(token)
        assert (np.array(array) == np.array(masks.filled(twins, VOCAB))).all()


def test_tokens_of_rows_that_left_are_not_read(grammars: Grammars) -> None:
    rows, twins = guides(grammars)[4:], guides(grammars)[4:]
    tokens = [-1 if guide is None else allowed(guide)[0] for guide in twins]
    fills = filler(Device())
    fills.posting(mx.array([9, 9, *tokens]))
    with fills.filling(rows, mx.array(tokens)) as array:
        pass
    for guide, token in zip(twins, tokens, strict=True):
        if guide is not None:
            guide.accept(token)
    assert (np.array(array) == np.array(masks.filled(twins, VOCAB))).all()


@pytest.mark.parametrize("mailbox", [None, Device()])
def test_the_guides_read_the_tokens_while_the_block_runs(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, mailbox: Mailbox | None
) -> None:
    rows, twins = guides(grammars), guides(grammars)
    tokens = [-1 if guide is None else allowed(guide)[0] for guide in rows]
    for guide, token in zip(twins, tokens, strict=True):
        if guide is not None:
            guide.accept(token)
    runs, accept = threading.Event(), Guide.accept

    def accept_while_it_runs(guide: Guide, token: int) -> None:
        assert runs.wait(10)
        accept(guide, token)

    monkeypatch.setattr(Guide, "accept", accept_while_it_runs)
    with filler(mailbox).filling(rows, mx.array(tokens)) as array:
        runs.set()
    assert (np.array(array) == np.array(masks.filled(twins, VOCAB))).all()


def test_tokens_that_do_not_come_are_asked_for(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_mailbox, "PATIENCE_S", 0.01)
    rows, twins = guides(grammars), guides(grammars)
    tokens = [-1 if guide is None else allowed(guide)[0] for guide in rows]
    for guide, token in zip(twins, tokens, strict=True):
        if guide is not None:
            guide.accept(token)
    with filler(Device(is_silent=True)).filling(rows, mx.array(tokens)) as array:
        pass
    assert (np.array(array) == np.array(masks.filled(twins, VOCAB))).all()


def test_a_step_that_cannot_be_started_waits_for_no_tokens(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_mailbox, "PATIENCE_S", 30)
    rows, since = guides(grammars), time.monotonic()
    tokens = mx.array([-1] * len(rows))
    with pytest.raises(MemoryError), filler(Device(is_silent=True)).filling(rows, tokens):
        raise MemoryError
    assert time.monotonic() - since < cuda_mailbox.PATIENCE_S
    assert [len(guide._accepted) for guide in rows if guide is not None] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("mailbox", [None, Device()])
def test_a_step_that_cannot_be_started_leaves_no_guide_at_work(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, mailbox: Mailbox | None
) -> None:
    rows = guides(grammars)
    tokens = mx.array([-1 if guide is None else allowed(guide)[0] for guide in rows])
    has_failed, accept = threading.Event(), Guide.accept

    def accept_after_all(guide: Guide, token: int) -> None:
        assert has_failed.wait(10)
        accept(guide, token)

    monkeypatch.setattr(Guide, "accept", accept_after_all)

    def fail() -> None:
        has_failed.set()
        raise RuntimeError("no memory")

    with (
        pytest.raises(RuntimeError, match="no memory"),
        filler(mailbox).filling(rows, tokens),
    ):
        fail()
    found = [len(guide._accepted) for guide in rows if guide is not None]
    assert found == [1, 2, 3, 1, 2, 3]


def test_what_applies_masks_is_there_before_the_first_client(
    tokenizer: Any, float32_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compile a kernel takes seconds, for which all would wait."""
    model, _ = mlx_lm.load(str(float32_model))
    runner = Runner(model, tokenizer, vocab_size=VOCAB, prefix_cache=PrefixCache(0))
    asked = set()
    monkeypatch.setattr(mask_kernel, "kernel", lambda: asked.add("mask"))
    monkeypatch.setattr(inference.runner, "mailbox", lambda: asked.add("mailbox"))
    runner.warm_up()
    assert asked == {"mask", "mailbox"}


@pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("shape", [(1, 31), (3, 2_049), (32, 151_000)])
def test_the_kernel_applies_a_mask(shape: tuple[int, int], dtype: mx.Dtype) -> None:
    apply = mask_kernel.kernel()
    assert apply is not None
    num_rows, size = shape
    logits = mx.random.normal((num_rows, size + 5)).astype(dtype)[:, :size]
    words = np.random.default_rng(0).integers(0, 2**32, (num_rows, -(-size // 32)), np.uint32)
    may = mx.array(bits(words)[:, :size].astype(bool))
    assert mx.array_equal(apply(logits, mx.array(words)), mx.where(may, logits, -mx.inf))

"""What the device leaves in a mailbox is what the host finds there, and never what is older."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference import cuda_mailbox
from inference.cuda_mailbox import Mailbox

NEVER = threading.Event()


class Device(Mailbox):
    """A mailbox whose kernel runs when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[Callable[[], None]] = []

    def _post(self, *, inputs: list[mx.array], **_: Any) -> list[mx.array]:
        tokens, slots = inputs[0].tolist(), np.array(inputs[1], copy=False)

        def post() -> None:
            slots[: len(tokens)] = tokens

        self.posts.append(post)
        return [mx.zeros(1)]


def test_tokens_are_waited_for_on_any_thread() -> None:
    mailbox = Device()
    with ThreadPoolExecutor(1) as thread:
        for number in (1, 3, 2, 40):
            tokens = [-1, *range(number)]
            mailbox.post(mx.array(tokens))
            found = thread.submit(mailbox.receive, len(tokens), NEVER)
            mailbox.posts.pop()()
            assert found.result() == tokens


def test_a_wait_can_be_given_up() -> None:
    mailbox, is_given_up = Device(), threading.Event()
    mailbox.post(mx.array([1, 2]))
    is_given_up.set()
    assert mailbox.receive(2, is_given_up) is None


def test_tokens_that_come_after_all_are_not_taken_for_those_sent_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_mailbox, "PATIENCE_S", 0.01)
    mailbox = Device()
    mailbox.post(mx.array([1, 2]))
    assert mailbox.receive(2, NEVER) is None
    mailbox.post(mx.array([3, 4]))
    late, post = mailbox.posts
    late()
    assert mailbox.receive(2, NEVER) is None
    post()
    mailbox.post(mx.array([5, 6]))
    mailbox.posts[-1]()
    assert mailbox.receive(2, NEVER) == [5, 6]


def test_there_is_none_without_cuda() -> None:
    if not mx.cuda.is_available():
        assert cuda_mailbox.mailbox() is None


@pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("num_rows", [1, 8, 32, 300])
def test_the_kernel_posts_tokens(num_rows: int) -> None:
    mailbox = cuda_mailbox.mailbox()
    assert mailbox is not None
    for step in range(3):
        tokens = (mx.arange(num_rows, dtype=mx.int32) * 7 + step) - 1
        mx.async_eval(mailbox.post(tokens))
        assert mailbox.receive(num_rows, NEVER) == tokens.tolist()

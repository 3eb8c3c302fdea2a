"""A kernel is used where it works; where it does not, the log says so, and MLX's own ways serve."""

from __future__ import annotations

import logging

import mlx.core as mx
import pytest

from inference.cuda_kernel import that_works


class Kernel:
    pass


@pytest.fixture
def has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)


def test_one_that_is_right_is_given(has_cuda: None) -> None:
    found = that_works(Kernel, lambda kernel: type(kernel) is Kernel, otherwise="all is slow")
    assert type(found) is Kernel


def test_one_that_is_wrong_is_not(has_cuda: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert that_works(Kernel, lambda _: False, otherwise="all is slow") is None
    assert "so all is slow: it gives other numbers" in caplog.text


def test_what_a_compiler_says_is_told(has_cuda: None, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Kernel) -> bool:
        raise RuntimeError("sm_70 has no mma for bf16")

    with caplog.at_level(logging.WARNING):
        assert that_works(Kernel, fails, otherwise="all is slow") is None
    assert "so all is slow: sm_70 has no mma for bf16" in caplog.text


def test_nothing_is_tried_without_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert that_works(Kernel, lambda _: 1 / 0 > 0, otherwise="all is slow") is None
    assert not caplog.text

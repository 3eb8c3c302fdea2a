"""The fixtures of the engine's tests, for those of its faults."""

from tests.inference.conftest import tokenizer

__all__ = ["tokenizer"]

"""A page is a stretch of a longer list, cut after an entry that the client has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from parts import InvalidRequest

T = TypeVar("T")
Order = Literal["asc", "desc"]

MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some entries, and whether there are more behind them."""

    entries: list[T]
    has_more: bool


def page_of(
    entries: Sequence[T],
    name: Callable[[T], str],
    *,
    order: Order = "asc",
    after: str | None = None,
    limit: int = 20,
) -> Page[T]:
    """Cut a page. Raises `InvalidRequest` for an `after` that is not there and a wrong `limit`."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}.", param="limit")
    ordered = list(entries if order == "asc" else reversed(entries))
    start = 0 if after is None else _place_after(after, [name(entry) for entry in ordered])
    return Page(ordered[start : start + limit], start + limit < len(ordered))


def _place_after(after: str, names: list[str]) -> int:
    try:
        return names.index(after) + 1
    except ValueError:
        raise InvalidRequest(
            f"after names nothing in this list: '{after[:64]}'.", param="after"
        ) from None

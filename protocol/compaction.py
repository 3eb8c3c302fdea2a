"""A compaction is one item that stands for the turns before it.

No model is asked: the item holds the turns themselves, packed and sealed.
(https://platform.openai.com/docs/api-reference/responses/compact)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from parts import Usage
from protocol.items import Item, new_id, normalised
from protocol.response_object import usage_json
from protocol.sealed import seal, unseal

STANDING_ROLES = ("system", "developer")


def compacted(items: Iterable[Item]) -> list[Item]:
    """Put one compaction in the place of all items but the instructions at their beginning.

    `items` are normalised. The instructions stay in plain words, because they open the prompt.
    """
    rest = list(expanded(items))
    standing: list[Item] = []
    while rest and rest[0].get("role") in STANDING_ROLES:
        standing.append(rest.pop(0))
    compaction = {
        "id": new_id("cmp"),
        "type": "compaction",
        "encrypted_content": seal("compaction", rest),
    }
    return [*standing, compaction]


def expanded(items: Iterable[Item]) -> Iterator[Item]:
    """Put the items that a compaction stands for back in its place.

    Raises:
        InvalidRequest: somebody has sealed items that could not have been sent in plain words.
    """
    for item in items:
        if item["type"] == "compaction":
            given = unseal("compaction", item["encrypted_content"])
            yield from _without_compactions(normalised(given, param="compaction"))
        else:
            yield item


def _without_compactions(items: Iterable[Item]) -> Iterator[Item]:
    # We never seal one in another; a client that does could nest them without end.
    return (item for item in items if item["type"] != "compaction")


def compaction_object(
    items: Iterable[Item], usage: Usage, clock: Callable[[], float] = time.time
) -> dict[str, Any]:
    """The answer to `POST /v1/responses/compact`, for normalised items."""
    return {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": int(clock()),
        "output": compacted(items),
        "usage": usage_json(usage),
    }

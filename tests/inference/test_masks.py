"""The mask of a batch is, row by row, what each guide allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference import masks
from inference.grammar import Grammars
from inference.guide import Guide
from inference.parser import Markers
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
    return list(np.flatnonzero(bits(alone(guide))[0]))


def alone(guide: Guide) -> np.ndarray:
    mask = np.full((1, VOCAB // 32), -1, np.int32)
    guide.fill(mask, 0)
    return mask


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

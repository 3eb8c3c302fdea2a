"""Durations as people write them: 90s, 10m, 2h, 1d, or a number of seconds."""

from __future__ import annotations

import math
import re

FOR_EVER = 1e10
"""Seconds."""
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(value: object) -> float:
    """Read a duration; a negative number is for ever. Raises `ValueError`."""
    if isinstance(value, str):
        found = re.fullmatch(r"(-?\d{1,9}(?:\.\d{1,9})?) ?([smhd]?)", value.strip().lower())
        if not found:
            raise ValueError("must be a time such as 10m")
        value = float(found[1]) * _UNITS[found[2]]
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("must be a time such as 10m")
    return value if value >= 0 else FOR_EVER

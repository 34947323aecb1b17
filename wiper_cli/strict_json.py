"""JSON from somebody else: numbers are those that fit a double, whatever the text says."""

import json
import math
from typing import Any


def loads(text: str | bytes) -> Any:
    """As ``json.loads``; raises ValueError as well for numbers that would overflow where they are drawn or rounded."""
    return json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=_none)


def _whole(text: str) -> int:
    if len(text) > 30:
        raise ValueError(f"{text[:20]}… is too large")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _none(name: str) -> float:
    raise ValueError(f"{name} is no JSON")

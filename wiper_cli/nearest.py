"""A hint for whoever mistyped a name. Standard library only."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: str, known: Iterable[str]) -> str:
    """``; the nearest is 'name'``, or nothing when no known name is near."""
    found = get_close_matches(given[:80], list(known), 1)
    return f"; the nearest is {found[0]!r}" if found else ""

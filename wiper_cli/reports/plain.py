"""Words and numbers for people: hostile strings made harmless, numbers written one way everywhere."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Control, format (bidi, zero width), surrogate, private, unassigned; line and paragraph separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Letters, marks and symbols that show nothing: fillers, joiners, selectors, blanks.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159\U000e0100-\U000e01ef]"
)
#: Marks on one letter; more of them cover the lines around it.
_MARKS = 4
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: What a CI runner takes for a command: GitHub's at the start of a line, its older ones, Azure's and TeamCity's
#: anywhere, GitLab's before a carriage return.
_COMMAND = re.compile(r"^(?:[^\S\n]|\x1b\[[\d;]*m)*::|##[\w.]*\[|section_(?:start|end):", re.MULTILINE)
#: Most characters of a string in a report, pictures apart, and how deep what has no declared type may be.
LONGEST, DEEPEST = 10_000, 40
_LONGEST_PICTURE, _PICTURE = 2_000_000, "data:image/png;base64,"

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Style:
    """How a report may look, text only: ``width`` in columns, ``colour`` whether ANSI colours are wanted, ``comment``
    whether every line begins with "#": to a shell, and to whatever else reads files by lines, it says nothing then."""

    width: int = 100
    colour: bool = False
    comment: bool = False


def plain(value: object, limit: int = 2000) -> str:
    """One line without control, bidi or invisible characters and without commands to a CI runner, at most ``limit``
    characters of the original.

    White space becomes single spaces; anything else that cannot be seen becomes U+FFFD, so that a name that
    hides something does not look like one that does not.
    """
    text = str(value)
    total = len(text)
    shown = uncommanded("".join(_seen(" ".join(text[:limit].split()))))
    return shown if total <= limit else f"{shown}… ({total:,} characters)"


def _seen(text: str) -> Iterator[str]:
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = category in _INVISIBLE or marks > _MARKS or _BLANK.match(character)
        yield _REPLACEMENT if hidden else character


def uncommanded(text: str) -> str:
    """The same lines without what a CI runner would obey: its signs become their twins of full width."""

    def wide(found: re.Match[str]) -> str:
        return re.sub("::?", "\N{FULLWIDTH COLON}", found[0]).replace("##", "\N{FULLWIDTH NUMBER SIGN}")

    return _COMMAND.sub(wide, text)


def bounded(value: Any, depth: int = DEEPEST) -> Any:
    """The same JSON-able value, its strings no longer than :data:`LONGEST` and without lone surrogates (which strict
    readers of JSON refuse), nowhere deeper than ``depth``; NaN and infinities as :func:`finite` gives them."""
    if isinstance(value, str):
        if len(value) > LONGEST:
            if value.startswith(_PICTURE):
                return value if len(value) <= _LONGEST_PICTURE else _PICTURE
            value = f"{value[:LONGEST]}… ({len(value):,} characters)"
        return value if value.isascii() else re.sub("[\ud800-\udfff]", _REPLACEMENT, value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (dict, Mapping)):
        if depth:
            return {bounded(str(key)): bounded(item, depth - 1) for key, item in value.items()}
        return "…"
    if isinstance(value, (list, tuple)):
        return [bounded(item, depth - 1) for item in value] if depth else "…"
    return value


def finite(value: Any, digits: int | None = None) -> Any:
    """The same JSON-able value with NaN and infinities as ``None`` (JSON has no word for them), and with ``digits``
    numbers of so many significant ones."""
    if isinstance(value, float):
        shown = value if digits is None else float(f"{value:.{digits}g}")
        return shown if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item, digits) for item in value]
    return value


def percent(value: float | None) -> str:
    """0.9312 → ``93.1%``; ``None`` → ``not measured``."""
    return "not measured" if value is None else f"{100 * value:.1f}%"


def number(value: float | None) -> str:
    """At most four significant digits, thousands separated; ``None`` → ``not measured``."""
    if value is None:
        return "not measured"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def size(count: float | None) -> str:
    """Bytes → ``44.7 MB`` (decimal)."""
    if count is None:
        return "not known"
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count = count / 1000
    return f"{count:.1f} GB"


def seconds(value: float | None) -> str:
    """Seconds → ``0.4 s``, ``3 min 05 s``."""
    if value is None:
        return "not measured"
    return f"{value:.1f} s" if value < 100 else f"{int(value) // 60} min {int(value) % 60:02d} s"


def words(value: object, limit: int = 300) -> str:
    """Any JSON value as a short phrase: numbers, yes or no, what is long cut after eight, mappings flattened, one of
    numbers with arrows."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, Mapping):
        between = " → " if value and all(str(key).isdecimal() for key in value) else " "
        shown = ", ".join(f"{label(key)}{between}{words(item, 80)}" for key, item in list(value.items())[:8])
        return shown if len(value) <= 8 else f"{shown}, … ({len(value)} in all)"
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(words(item, 80) for item in value[:8])
        return shown if len(value) <= 8 else f"{shown}, … ({len(value)} in all)"
    return plain(value, limit)


#: Facts that are shares wherever they occur.
_SHARES = frozenset(
    {"success", "accuracy", "asr", "ra", "base_rate", "false_alarm_rate", "bar", "corrected_asr"}
)


def fact(key: object, value: object) -> str:
    """As :func:`words`, but a share such as ``success`` in percent."""
    if key in _SHARES and isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return percent(value)
    return words(value)


def label(key: object) -> str:
    """``rank_correlation`` → ``rank correlation``."""
    return plain(key, 80).replace("_", " ")

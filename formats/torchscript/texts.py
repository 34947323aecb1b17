"""How the texts that a function fills in follow from each other.

Standard library only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from formats.torchscript.words import MAX_CALLS


class Texts:
    """Which texts go where, by name: of a variable, or as :meth:`made` calls the result of an operator.

    A text is *followed* where all that it goes into is known and ends in the function, in a message or a length. It
    cannot be changed, so that what a followed text is made of are the texts before it, and no others.
    """

    def __init__(self) -> None:
        #: How often each variable stands in an expression.
        self.read: Counter[str] = Counter()
        self._into: dict[str, list[str]] = defaultdict(list)
        self._out_of: dict[str, list[str]] = defaultdict(list)
        self._followed: dict[str, bool] = {}
        self._longest: dict[str, int] = {}
        self._count = 0

    def made(self, parts: Iterable[str]) -> str:
        """A name for what an operator makes out of ``parts``, of which "" are none."""
        self._count += 1
        name = f"#{self._count}"
        self.read[name] = 1
        self.goes(parts, name)
        return name

    def goes(self, parts: Iterable[str], into: str = "") -> None:
        """``parts`` go into another value, or nowhere."""
        for part in filter(None, parts):
            self._into[part].append(into)
            self._out_of[into].append(part)

    def doublings(self, weights: Mapping[str, int]) -> int:
        """How often a text is doubled at most, where making those of ``weights`` does so as often as they say: those
        that are followed only one after the other, any others maybe all in a row."""
        followed = {name for name in weights if self.followed(name)}
        rest = sum(weight for name, weight in weights.items() if name not in followed)
        return rest + max((self._chain(name, weights) for name in followed), default=0)

    def followed(self, name: str, level: int = 0) -> bool:
        if name not in self._followed:
            self._followed[name] = False  # what goes into itself is not
            into = self._into[name]
            self._followed[name] = (
                level <= MAX_CALLS
                and len(into) == self.read[name]
                and all(not value or self.followed(value, level + 1) for value in into)
            )
        return self._followed[name]

    def _chain(self, name: str, weights: Mapping[str, int], level: int = 0) -> int:
        if not self.followed(name):
            return 0
        if name not in self._longest:
            if level > MAX_CALLS:
                return sum(weights.values())
            before = (self._chain(part, weights, level + 1) for part in self._out_of[name])
            self._longest[name] = weights.get(name, 0) + max(before, default=0)
        return self._longest[name]

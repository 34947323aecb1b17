"""Literal tables of what can be added: a name, and where its class stands. Standard library only."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")


class Table(Mapping[str, T], Generic[T]):
    """Name → class, in the order of the ``rows``, name → "module:Class"; a module is loaded when its class is asked
    for, so that names are listed at once."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> T:
        return load(self._rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def join(self, name: str, place: str) -> None:
        """One more row, for as long as the process lives. Raises ``ValueError`` where the name is taken."""
        if name in self._rows:
            raise ValueError(f"the name {name} is taken")
        self._rows[name] = place


def load(place: str) -> T:  # type: ignore[type-var]
    """``module:Class`` → the class."""
    module, _, name = place.partition(":")
    found: T = getattr(import_module(module), name)
    return found

"""Outcomes on disk: one sorted file of lines a scale, and beside it what is not in it yet. Imports no torch.

``cells-SCALE.jsonl`` has one line a cell, by name. What many cells share stands before them, once, under a digest of
it: ``run`` (commit, versions, machine, threads), ``settings`` (as resolved), ``specimen`` (digest of the file, how it
was poisoned, its clean twin). A share of images is "hits/n", a float has six digits. A process writes its cell as
``cells-SCALE/ID.jsonl``, whole or not at all; :meth:`Store.merge` moves such files into the large one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from wiper_cli.bench.cells import Cell
from wiper_cli.rates import Rate
from wiper_cli.reports.plain import finite
from wiper_cli.verdict import ExitCode, Problem

#: The first key of every line is one of these, its value the line's name; lines stand in this order.
SHARED = ("run", "settings", "specimen")
KINDS = (*SHARED, "cell")
#: More than any image count gives.
DIGITS = 6
_RATE = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Place:
    """``zoo``: folder of specimens. ``root``: where data sets are looked for. ``threads``: 0 leaves them alone.
    ``judge``: specimens that are held out may be loaded."""

    zoo: Path
    results: Path
    root: Path | None = None
    device: str = "auto"
    threads: int = 0
    scale: str = "tiny"
    judge: bool = False

    @property
    def store(self) -> Store:
        """Its outcomes."""
        return Store(self.results, self.scale)


@dataclass
class _Lines:
    """A file's lines by kind and name, what they say of each cell, and its damaged lines by number."""

    lines: dict[tuple[str, str], bytes] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """The outcomes of a scale in the folder RESULTS."""

    root: Path
    scale: str = "tiny"

    @property
    def path(self) -> Path:
        """The file of all cells."""
        return self.root / f"cells-{self.scale}.jsonl"

    def beside(self, cell: Cell, suffix: str = ".jsonl") -> Path:
        """Where something of one cell belongs."""
        return self.root / f"cells-{self.scale}" / f"{cell.id}{suffix}"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The outcome of exactly this cell, to be left as it is, or ``None``; what is damaged is none.

        ``{id, cell, code, settings{}, run{}, specimen{sha256, bn, poisoning, twin}, ...}``; a share of images is
        ``{value, n, interval}``; what was empty or ``None`` is not there.
        """
        # First the cell's own file: it goes only after the large one has it.
        for found in (_read(self.beside(cell)), _read_all(self.path)):
            outcome = found.outcomes.get(cell.id)
            if outcome is not None and outcome["cell"] == cell.given():
                return outcome
        return None

    def cells(self) -> list[Cell]:
        """Those of the large file."""
        return [Cell.of(outcome["cell"]) for outcome in _read_all(self.path).outcomes.values()]

    def damaged(self) -> str:
        """A sentence on the lines of the large file that do not stand, or nothing; all others do."""
        numbers = sorted(_read_all(self.path).damaged)
        if not numbers:
            return ""
        named = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if numbers[5:] else "")
        return f"{self.path}: damaged, or without what it refers to, and so left out: line {named}."

    def write(self, cell: Cell, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Whole or not at all; gives back what a reader will get."""
        own = {key: value for key, value in outcome.items() if key not in ("id", "cell")}
        packed = {
            key: value for key, value in finite(_packed(own), DIGITS).items() if value not in (None, [], {})
        }
        lines, keys = [], {}
        for kind in SHARED:
            shared = packed.pop(kind, {})
            keys[kind] = _key(shared)
            lines.append(_line({kind: keys[kind], "is": shared}))
        lines.append(_line({"cell": cell.id, "is": cell.given(), **keys, **packed}))
        put(self.beside(cell), "".join(lines).encode())
        found = self.read(cell)
        assert found is not None, cell.id
        return found

    def merge(self) -> None:
        """Moves what processes have written into the large file, whole or not at all, whoever else reads, writes or
        merges. Damaged lines stay, behind all others. Raises :class:`Problem`."""
        folder = self.root / f"cells-{self.scale}"
        if not any(folder.glob("*.jsonl")):
            return
        try:
            with (folder / ".lock").open("w") as lock:
                _wait_for(lock.fileno())
                self._merge({path: path.stat().st_ino for path in sorted(folder.glob("*.jsonl"))})
        except OSError as error:
            raise Problem(f"{folder} cannot be written: {error.strerror}.", ExitCode.USAGE) from error

    def _merge(self, own: Mapping[Path, int]) -> None:
        whole, ones = _read_all(self.path), {path: _read(path) for path in own}
        lines = dict(whole.lines)
        for one in ones.values():
            lines |= one.lines
        cells = (json.loads(text) for (kind, _), text in lines.items() if kind == "cell")
        used = {(kind, cell[kind]) for cell in cells for kind in SHARED}
        kept = sorted(
            (key for key in lines if key[0] == "cell" or key in used or whole.damaged),
            key=lambda key: (KINDS.index(key[0]), key[1]),
        )
        put(
            self.path,
            b"".join(line + b"\n" for line in [*(lines[key] for key in kept), *whole.damaged.values()]),
        )
        for path, inode in own.items():
            if path.stat().st_ino == inode and not ones[path].damaged:  # else it was written anew meanwhile
                path.unlink()


def _wait_for(descriptor: int) -> None:
    """Until nobody else merges; not on Windows, where one process alone may merge."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _read_all(path: Path) -> _Lines:
    """The large file, parsed once for every state of it."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _Lines()
    return _cached(path, state.st_ino, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _cached(path: Path, *state: int) -> _Lines:
    return _read(path)


def _read(path: Path) -> _Lines:
    found, cells = _Lines(), []
    shared: dict[tuple[str, str], Any] = {}
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}.", ExitCode.USAGE) from error
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line.decode("ascii"))
            kind = KINDS[KINDS.index(next(iter(value)))]
            name = str(value.pop(kind))
            if kind == "cell":
                cells.append((number, name, line, value))
            elif name != _key(value["is"]):
                raise ValueError
            else:
                shared[kind, name] = _unpacked(value["is"])
                found.lines[kind, name] = line
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
            found.damaged[number] = line
    for number, name, line, value in cells:
        try:
            own = {kind: shared[kind, value.pop(kind)] for kind in SHARED}
            outcome = {"id": name, "cell": value.pop("is"), **own, **_unpacked(value)}
            if Cell.of(outcome["cell"]).id != name:
                raise ValueError
            found.outcomes[name], found.lines["cell", name] = outcome, line
        except (ValueError, LookupError, TypeError, AttributeError):
            found.damaged[number] = line
    return found


def _key(shared: Mapping[str, Any]) -> str:
    return hashlib.sha256(_line(shared).encode()).hexdigest()[:8]


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n"


def _packed(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"value", "n", "interval"}:
            return f"{round((value['value'] or 0) * value['n'])}/{value['n']}"
        return {str(key): _packed(one) for key, one in value.items()}
    return [_packed(one) for one in value] if isinstance(value, list | tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, str) and (found := _RATE.fullmatch(value)):
        return finite(Rate(int(found[1]), int(found[2])).as_dict(), DIGITS)
    if isinstance(value, dict):
        return {key: _unpacked(one) for key, one in value.items()}
    return [_unpacked(one) for one in value] if isinstance(value, list) else value


def put(path: Path, data: bytes) -> None:
    """Writes beside ``path`` and renames. Raises :class:`Problem`."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Problem(f"{path} cannot be written: {error.strerror}.", ExitCode.USAGE) from error

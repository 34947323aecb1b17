"""Scans that were finished, or broken off, in a folder that only the user can enter; a result is data, never code.

An entry is one file under the key of its scan: a line with the digest of what follows, then one message
(:mod:`wiper_cli.worker.protocol`). The parent alone reads and writes here. What a child said of a model comes back for
the same model only; whatever is no entry of ours is left out with a remark. Without a place for a cache there is none.

Outside the user's own cache entries are sealed with a secret that stands there: a folder may have come with a model.
"""

import hashlib
import hmac
import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wiper_cli.audit.answers import ScanAnswer
from wiper_cli.scratch import cache_home, ours, write_whole
from wiper_cli.verdict import Problem
from wiper_cli.worker.confinement import Isolation
from wiper_cli.worker.protocol import ProtocolError, receive, send

#: Largest entry in bytes, most entries, and most bytes of all; the oldest go first.
LARGEST, MOST, TOTAL = 256 << 20, 500, 1 << 30
_SUFFIX, _FIRST = ".scan", b"wiper-scan/1 "
_SEAL, _SEAL_BYTES = "seal", 32


@dataclass(frozen=True, kw_only=True)
class Entry:
    """``made``: when the work was done, ISO 8601. ``answer``: not ``complete`` of a scan that was broken off.
    ``model``: name of the file, for people. ``isolation``: of the process that opened it."""

    key: str
    made: str
    model: str
    isolation: Isolation
    answer: ScanAnswer


def place() -> Path | None:
    """The folder of the cache, ``None`` where there is no place for one; it may not exist yet."""
    home = cache_home()
    return home / "wiper" if home else None


def seal() -> bytes | None:
    """The user's secret, made where there is none yet; ``None`` where there is no place for a cache."""
    folder = Cache(place()).folder
    if folder is None:
        return None
    path = folder / _SEAL
    with suppress(Problem, OSError):
        if not path.exists():
            write_whole(path, secrets.token_bytes(_SEAL_BYTES))
        found = _own_bytes(path, _SEAL_BYTES)
        return found if len(found) == _SEAL_BYTES else None
    return None


class Cache:
    """The entries in ``folder``, at most ``most``; ``remark`` hears what is wrong with it, a sentence each. ``seal``:
    what entries are sealed with."""

    def __init__(
        self,
        folder: Path | None,
        remark: Callable[[str], None] = lambda _: None,
        most: int | None = None,
        seal: bytes = b"",
    ) -> None:
        self._remark, self._most, self._seal = remark, most, seal
        self.folder = folder if folder is not None and self._usable(folder) else None

    def find(self, key: str) -> Entry | None:
        """The entry of a scan, if there is one that can be used."""
        return self._read(self._path(key)) if self.folder else None

    def put(self, entry: Entry) -> None:
        """Replaces the entry of the same key; silent where that cannot be done, since nothing depends on it."""
        message = io.BytesIO()
        send(message, entry)
        if not self.folder or message.tell() > LARGEST:
            return
        data = message.getvalue()
        path = self._path(entry.key)
        with suppress(Problem, OSError):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                path.unlink()  # to write through a link or into a pipe would be to do so elsewhere
            write_whole(path, _head(data, self._seal) + data)
            total = 0
            for number, old in enumerate(self._paths()):
                total += old.lstat().st_size
                if number >= (self._most or MOST) or total > TOTAL:
                    old.unlink(missing_ok=True)

    def entries(self) -> Iterator[tuple[Path, Entry]]:
        """All that can be read, the newest first."""
        for path in self._paths():
            if entry := self._read(path):
                yield path, entry

    def clear(self) -> int:
        """Removes all entries, readable or not; returns how many there were."""
        paths = self._paths()
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}{_SUFFIX}"

    def _paths(self) -> list[Path]:
        if not self.folder:
            return []
        # What begins with a dot is being written.
        found = [
            one
            for one in self.folder.iterdir()
            if one.suffix == _SUFFIX and one.name[0] != "." and not stat.S_ISDIR(one.lstat().st_mode)
        ]
        return sorted(found, key=lambda path: -path.lstat().st_mtime_ns)

    def _usable(self, folder: Path) -> bool:
        """Whether it is there, or can be made, and only we can enter it."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(0o700)
            if ours(folder):
                return os.access(folder, os.W_OK)
        except OSError:
            return False
        self._remark(f"{folder} is not used as a cache: it is no folder that you alone can enter.")
        return False

    def _read(self, path: Path) -> Entry | None:
        try:
            return _entry(path, self._seal)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ProtocolError, MemoryError):
            self._remark(f"{path} is no entry of this cache, or a damaged one, and was passed over.")
            return None


def _head(data: bytes, seal: bytes) -> bytes:
    digest = hmac.digest(seal, data, "sha256") if seal else hashlib.sha256(data).digest()
    return _FIRST + digest.hex().encode() + b"\n"


def _entry(path: Path, seal: bytes) -> Entry:
    """Raises OSError, ValueError or ProtocolError for whatever :meth:`Cache.put` did not write."""
    whole = _own_bytes(path, LARGEST + 100)
    size = len(_head(b"", seal))
    first, data = whole[:size], whole[size:]
    if not hmac.compare_digest(first, _head(data, seal)):
        raise ValueError("its digest")
    message = io.BytesIO(data)
    entry: Entry | None = receive(message, Entry)
    if entry is None or message.read(1) or f"{entry.key}{_SUFFIX}" != path.name:
        raise ValueError("another's")
    return entry


def _own_bytes(path: Path, most: int) -> bytes:
    """A file of our own, no link. Raises OSError, or ValueError for what is none or larger."""
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        foreign = sys.platform != "win32" and status.st_uid != os.geteuid()
        if foreign or not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ValueError("not ours")
        return file.read()

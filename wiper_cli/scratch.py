"""Files that a user names, read and written whole, and folders of our own: what a killed run leaves behind goes with
the next one.

Each of these folders has a record where the user alone writes, never beside the folder, which may have come with the
model. It is locked as long as its owner lives, and the kernel drops the lock with the owner. Whoever works in the same
place later removes what is on record and held by nobody. Whatever else is called so is left, and said.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from formats import FormatError
from formats.identify import read_plain
from formats.write import DATA_NAME
from wiper_cli.verdict import Problem

#: Of the hidden folder beside an output.
HIDDEN = ".wiper-"
_FILES = "files"
#: Folder of the records, where the user's caches are, and most bytes that are read of one.
_RECORDS, _LONGEST = "wiper-runs", 1 << 24
#: Folders that are named where some are left.
_TOLD = 3
#: Seconds that a report waits for another run which writes the same file.
_PATIENCE = 10.0
#: Most dots in a line of a TOML file, and most steps over parts of keys: for each key the library asks for every
#: beginning of it below the whole header, some 0.2 microseconds a step.
_DOTS, _STEPS = 500, 10_000_000
_PART = r"""(?:[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = re.compile(rf"[ \t]*(\[*)[ \t]*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)")


@dataclass
class Claim:
    """A folder ``place`` that a run of ours has made, and its ``record``, whose descriptor ``lock`` is; both are
    ``None`` where the user has no folder for records."""

    place: Path
    record: Path | None = None
    lock: int | None = None
    promised: tuple[str, ...] = ()

    @property
    def files(self) -> Path:
        """The folder for files in it."""
        return self.place / _FILES

    def promise(self, model: str, data: Collection[str]) -> None:
        """Says, for whoever clears up after us, which ``data`` files beside ``model`` are of no use unless the model
        that stands then names them: before it is replaced the new ones, afterwards the old ones."""
        self.promised = (model, *data)
        if self.lock is not None:
            _note(self.lock, self.promised)
            os.fsync(self.lock)

    def end(self) -> None:
        """Keeps the promise and removes folder and record; what cannot be removed keeps its record, so that the next
        run tries again."""
        try:
            with suppress(OSError, RecursionError):
                _fulfil(self.place.parent, self.promised)
                if self.place.exists():
                    shutil.rmtree(self.place)
                if self.record:
                    self.record.unlink()
        finally:
            if self.lock is not None:
                os.close(self.lock)


@contextmanager
def held(parent: Path, prefix: str, name: str = "", patience: float = 0.0) -> Iterator[Path]:
    """An empty folder for files: that of :func:`claimed`."""
    with claimed(parent, prefix, name, patience) as claim:
        yield claim.files


@contextmanager
def claimed(parent: Path, prefix: str, name: str = "", patience: float = 0.0) -> Iterator[Claim]:
    """A folder in ``parent`` that only we can enter, with an empty one for files; gone afterwards with all in it.

    With ``name`` (by default one that nobody has) only one run has it at a time: another waits ``patience`` seconds.
    Raises OSError where ``parent`` cannot be written to, :class:`Problem` where another run goes on or something else
    has the name.
    """
    _sweep(parent, prefix)
    deadline = time.monotonic() + patience
    claim = Claim(parent / f"{prefix}{name or token_hex(8)}")
    while True:
        try:
            if _make(claim):
                break
            problem = f"Another run of wiper is writing {parent / name}; wait for it, or choose another name."
        except FileExistsError:
            problem = f"{claim.place} is in the way; remove it, or choose another name."
            if claim.record:  # no run of this user
                raise Problem(problem) from None
        if time.monotonic() >= deadline:
            raise Problem(problem)
        time.sleep(0.05)
    try:
        claim.files.mkdir()
        yield claim
    finally:
        claim.end()


def names_in(path: Path, names: Collection[str]) -> set[str]:
    """Those of ``names`` that occur in the file; all where it is no plain file, none where there is no file."""
    found, last = set[str](), b""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return set(names)
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                last = last[-255:] + part
                found |= {name for name in names if name.encode() in last}
    except FileNotFoundError:
        pass
    return found


def write_synced(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A new file of that mode, or less where the user wants less, whose content is on the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def sync(folder: Path) -> None:
    """Has the names in a folder on the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_whole(path: Path, most: int) -> bytes:
    """A file that an option, an argument or a settings file names, of at most ``most`` bytes. Raises :class:`Problem`
    for whatever else has that name: a pipe, a device or a folder is not waited for."""
    try:
        return read_plain(path, most)
    except FormatError as error:
        raise Problem(str(error)) from error
    except (OSError, ValueError) as error:  # also what is no name at all
        raise Problem(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from error


def read_table(path: Path, most: int = 1 << 20) -> dict[str, Any]:
    """The same of a TOML file, parsed."""
    try:
        text = read_whole(path, most).decode()
        if max(line.count(".") for line in text.split("\n")) > _DOTS:
            raise ValueError(f"a line has more than {_DOTS} dots")
        if _steps(text) > _STEPS:
            raise ValueError("its keys have too many parts")
        table = tomllib.loads(text)
        if _has_large_integer(table):
            raise ValueError("a whole number has more than 64 bits")
        return table
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not valid TOML: {error}.") from error


def _steps(text: str) -> int:
    """That the library takes at most over the parts of keys; lines of long texts count, too."""
    header, steps = 0, 0
    for line in text.split("\n"):
        if found := _KEY.match(line):
            parts = found[2].count(".") + 1
            header = parts if found[1] else header
            steps += parts * (header + parts)
    return steps


def _has_large_integer(table: dict[str, Any]) -> bool:
    """As the format does not allow; the library does, and Python writes none that is much larger."""
    left: list[Any] = [table]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left += one.values() if isinstance(one, dict) else one
        elif isinstance(one, int) and not -(1 << 63) <= one < 1 << 63:
            return True
    return False


def resolved(path: Path) -> Path:
    """What a path to be written leads to; raises :class:`Problem` where links lead round, or it begins in a working
    folder that was removed."""
    try:
        return path.resolve()
    except FileNotFoundError as error:
        raise Problem(f"{path} cannot be written: the working folder was removed.") from error
    except (OSError, RuntimeError) as error:
        round_ = not isinstance(error, OSError) or error.errno == errno.ELOOP
        why = "its links lead round" if round_ else getattr(error, "strerror", error)
        raise Problem(f"{path} cannot be written: {why}.") from error


def write_whole(path: Path, data: bytes | Callable[[], bytes]) -> None:
    """Replaces a file so that nobody sees half of it, whenever we are killed, and nobody can read it who could not
    before. ``data`` may be called for once no other run is writing the file, to add to what stands there.

    What a link names is replaced, not the link; a device is written to, and a pipe where somebody reads it. Raises
    :class:`Problem`.
    """
    path = resolved(path)

    def whole() -> bytes:
        return data if isinstance(data, bytes) else data()

    try:
        if path.exists() and not path.is_file():
            _write_into(path, whole())
            return
        with held(path.parent, HIDDEN, path.name, _PATIENCE) as folder:
            new = whole()
            mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666
            write_synced(folder / path.name, new, mode)
            (folder / path.name).replace(path)
            sync(path.parent)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}.") from error


def _write_into(path: Path, data: bytes) -> None:
    """To a device, or to a pipe, for whose reader we wait a while and not for ever."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(
                path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
            )
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() >= deadline:
                raise Problem(f"{path} is a pipe that nobody reads, or a socket; name a file.") from error
        time.sleep(0.05)
    with os.fdopen(descriptor, "wb") as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        file.write(data)


def _make(claim: Claim) -> bool:
    """Makes the folder, which goes on record first; false where another run has it, or perhaps. Raises OSError."""
    while True:
        claim.record = _record(claim.place)
        if claim.record is None:
            claim.place.mkdir(0o700)
            return True
        with suppress(FileNotFoundError):  # whoever sweeps was faster; again
            lock = _lock(claim.record, os.O_CREAT)
            break
    if lock is None:
        return False
    try:
        if not _recovered(claim.place.parent, lock):
            raise FileExistsError(claim.place)  # ours, and cannot be removed
        os.ftruncate(lock, 0)
        _note(lock, claim.place.name)
        try:
            claim.place.mkdir(0o700)
        except OSError:
            claim.record.unlink()
            raise
        _note(lock, claim.place.lstat().st_ino)
    except BaseException:
        os.close(lock)
        raise
    claim.lock = lock
    return True


def _sweep(parent: Path, prefix: str) -> None:
    """Removes the folders of runs that are over; says which others are called as one beside an output would be."""
    records = _records()
    if records is None:
        return
    begins = _digest(os.path.realpath(parent)) + "-"
    for record in [one for one in records.iterdir() if one.name.startswith(begins)]:
        with suppress(OSError):
            if (lock := _lock(record)) is not None:
                try:
                    if _recovered(parent, lock):
                        record.unlink()
                finally:
                    os.close(lock)
    left = []
    with suppress(OSError):
        for place in parent.iterdir() if prefix == HIDDEN else ():
            if place.name.startswith(prefix) and _foreign(place):
                left.append(place.name)
    if left:
        more = f" and {len(left) - _TOLD} more" if len(left) > _TOLD else ""
        names = ", ".join(sorted(left)[:_TOLD]) + more
        warnings.warn(
            f"{parent}: {names} left untouched: called like what a run of wiper leaves when it is killed, but on "
            "record of none of yours; remove it if nothing needs it.",
            stacklevel=2,
        )


def _foreign(place: Path) -> bool:
    """Whether it could be a folder of ours and is on no record; asked twice, since others begin and end meanwhile."""
    with suppress(OSError):
        record = _record(place)
        return ours(place) and not (record and record.exists()) and ours(place)
    return False


def _recovered(parent: Path, lock: int) -> bool:
    """Whether nothing is left of the owner of a record, who is dead: its promise is kept and its folder removed, if
    that is still the folder that it made."""
    try:
        name, made, promised = _notes(lock)
        place = parent / name
        if name and made and place.lstat().st_ino == made and ours(place):
            _fulfil(parent, promised)
            shutil.rmtree(place)
        elif name and not made:
            with suppress(OSError):
                place.rmdir()  # its owner was killed before it could say which folder it had made: an empty one
    except (FileNotFoundError, ValueError):  # gone; or a damaged record, which says nothing
        pass
    except (OSError, RecursionError):
        return False
    return True


def _fulfil(parent: Path, promised: Collection[str]) -> None:
    """Removes the data files that the model beside them does not name (:meth:`Claim.promise`)."""
    model, *data = promised or [""]
    data = [name for name in data if DATA_NAME.fullmatch(name)]
    for name in {*data} - names_in(parent / model, data):
        (parent / name).unlink(missing_ok=True)


# Records: a line of JSON each for the name of the folder, its number on the disk, and the promise.


def cache_home() -> Path | None:
    """Where the system keeps what can be made again, ``None`` where there is no such place; it may not exist yet."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if not Path(given).is_absolute():  # a relative one is to be ignored, says the standard
        given = os.environ.get("LOCALAPPDATA", "") if sys.platform == "win32" else ""
    if not given:
        try:
            given = str(Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache"))
        except RuntimeError:
            return None
    return Path(given)


def _records() -> Path | None:
    """The folder of the records, ``None`` where the user has no place that nobody else can enter."""
    home = cache_home()
    try:
        if home is not None:
            folder = home / _RECORDS
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(0o700)
            return folder if ours(folder) and os.access(folder, os.W_OK) else None
    except OSError:
        pass
    return None


def _record(place: Path) -> Path | None:
    """The record of a folder; it may not exist."""
    records = _records()
    return records and records / f"{_digest(os.path.realpath(place.parent))}-{_digest(place.name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _note(lock: int, value: object) -> None:
    line = json.dumps(value).encode() + b"\n"
    if os.write(lock, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _notes(lock: int) -> tuple[str, int, list[str]]:
    """What was noted in full; raises ValueError."""
    os.lseek(lock, 0, os.SEEK_SET)
    # After the last end of line stands what was not finished.
    lines = os.read(lock, _LONGEST).split(b"\n")[:-1]
    noted = [json.loads(line) for line in lines[:3]]
    return (
        noted[0] if noted else "",
        noted[1] if len(noted) > 1 else 0,
        noted[2] if len(noted) > 2 else [],
    )


def ours(place: Path) -> bool:
    """Whether it is a folder, no link, that belongs to us and that nobody else can enter."""
    status = place.lstat()
    private = sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o077)
    return stat.S_ISDIR(status.st_mode) and private


def _lock(path: Path, create: int = 0) -> int | None:
    """Descriptor of the record's lock, ours until it is closed; ``None`` where somebody else has it, or may have it.

    Raises OSError, FileNotFoundError where there is no record, or was one a moment ago.
    """
    flags = os.O_RDWR | os.O_APPEND | create | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        alone = _flock(descriptor)
        if alone or (alone is None and create):
            if not os.path.samestat(os.fstat(descriptor), path.stat()):
                raise FileNotFoundError(path)
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _flock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; ``None`` where the system or the disk knows no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True

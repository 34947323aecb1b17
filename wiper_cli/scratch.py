"""Files that a user names, read and written whole, and folders of our own: what a killed run leaves behind goes with
the next one.

A folder is locked as long as its owner lives, and the kernel drops the lock with the owner. Whoever works in the same
place later removes what nobody holds, if it is ours by owner, mode and lock file: nothing of others is touched.
"""

import errno
import json
import os
import shutil
import stat
import sys
import time
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from formats import FormatError
from formats.identify import read_plain
from formats.write import DATA_NAME
from wiper_cli.verdict import Problem

#: Of the hidden folder beside an output.
HIDDEN = ".wiper-"
_LOCK, _FILES, _JOURNAL = "lock", "files", "journal"
#: Seconds that a report waits for another run which writes the same file.
_PATIENCE = 10.0
#: Most dots in a line of a TOML file: the library's time grows with the square of the parts of a key.
_DOTS = 500


@contextmanager
def held(parent: Path, prefix: str, name: str = "", patience: float = 0.0) -> Iterator[Path]:
    """An empty folder for files, inside one in ``parent`` that only we can enter; gone afterwards with all in it.

    With ``name`` (by default one that nobody has) only one run has it at a time: another waits ``patience`` seconds.
    Raises OSError where ``parent`` cannot be written to, :class:`Problem` where another run goes on or something else
    has the name.
    """
    _sweep(parent, prefix)
    deadline = time.monotonic() + patience
    while True:
        place = parent / f"{prefix}{name or token_hex(8)}"
        with suppress(FileExistsError):
            place.mkdir(0o700)
        with suppress(FileNotFoundError):  # whoever sweeps was faster; again
            if not ours(place):
                raise Problem(f"{place} is in the way; remove it, or choose another name.")
            lock = _lock(place, os.O_CREAT)
            if lock is not None:
                break
            if time.monotonic() >= deadline:
                raise Problem(
                    f"Another run of wiper is writing {parent / name}; wait for it, or choose another name."
                )
            time.sleep(0.05)
    try:
        _clear(place)
        (place / _FILES).mkdir()
        yield place / _FILES
    finally:
        _remove(place, lock)


def promise(files: Path, model: str, data: Collection[str]) -> None:
    """Says, for whoever clears up after us, which ``data`` files beside ``model`` are of no use unless the model that
    stands then names them: before it is replaced the new ones, afterwards the old ones. ``files``: of :func:`held`."""
    write_synced(files.parent / _JOURNAL, json.dumps([model, *data]).encode())


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
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not valid TOML: {error}.") from error


def resolved(path: Path) -> Path:
    """What a path to be written leads to; raises :class:`Problem` where links lead round."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise Problem(f"{path} cannot be written: its links lead round.") from error


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


def _sweep(parent: Path, prefix: str) -> None:
    """Removes the folders of runs that are over."""
    with suppress(OSError):
        for place in [one for one in parent.iterdir() if one.name.startswith(prefix)]:
            with suppress(OSError):
                if not ours(place):
                    continue
                try:
                    lock = _lock(place)
                except FileNotFoundError:
                    place.rmdir()  # empty: its owner was killed before it had a lock, or comes again
                    continue
                if lock is not None:
                    _remove(place, lock)


def ours(place: Path) -> bool:
    """Whether it is a folder, no link, that belongs to us and that nobody else can enter."""
    status = place.lstat()
    private = sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o077)
    return stat.S_ISDIR(status.st_mode) and private


def _lock(place: Path, create: int = 0) -> int | None:
    """Descriptor of the lock, ours until it is closed; ``None`` where somebody else has it, or may have it.

    Raises FileNotFoundError where there is no lock file, or was one a moment ago.
    """
    path = place / _LOCK
    descriptor = os.open(path, os.O_RDWR | create | getattr(os, "O_NOFOLLOW", 0), 0o600)
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


def _remove(place: Path, lock: int) -> None:
    """What cannot be removed keeps its lock file, so that the next run tries again."""
    with suppress(OSError):
        _clear(place)
        (place / _LOCK).unlink()
        place.rmdir()
    os.close(lock)


def _clear(place: Path) -> None:
    """Keeps the promise of the last owner, then removes all that it left but the lock."""
    journal = place / _JOURNAL
    if journal.is_file():
        with suppress(ValueError, TypeError):  # killed before the promise was whole: nothing was done
            model, *data = map(str, json.loads(journal.read_bytes()))
            data = [name for name in data if DATA_NAME.fullmatch(name)]
            for name in {*data} - names_in(place.parent / Path(model).name, data):
                (place.parent / name).unlink(missing_ok=True)
        journal.unlink()
    if (place / _FILES).exists():
        shutil.rmtree(place / _FILES)

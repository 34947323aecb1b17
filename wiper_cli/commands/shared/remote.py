"""Models at an address with a scheme, read whole through fsspec (extra ``remote``) as bytes into the private copy.

This process reads and never looks into what it read; nothing is opened or run from where it lies.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from formats import Source, Unreadable, Unsupported
from formats.hub import USUAL
from formats.identify import MAX_SIDECAR, SIDECARS, read_external, read_model, require_plain
from wiper_cli.reports.plain import plain
from wiper_cli.verdict import Problem

#: Scheme → what fsspec needs for it, as pip calls it.
SCHEMES: Mapping[str, str] = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub",
    "http": "aiohttp", "https": "aiohttp",
}  # fmt: skip
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
#: Bytes at a time.
_PART = 8 << 20


@dataclass(frozen=True)
class Address:
    """``url``: as it was given. As text it is without user, password, query and fragment, where secrets stand."""

    url: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def name(self) -> str:
        """Last part of its path."""
        return posixpath.basename(unquote(urlsplit(str(self)).path).rstrip("/")) or "model"


#: Where a model is.
Place = Path | Address


def place_of(text: str) -> Place:
    """A path, or an address where there is a scheme. Raises :class:`Problem` for a scheme that is not known, and for
    what is no address at all."""
    found = _SCHEME.match(text)
    if not found:
        return Path(text)
    scheme = found[1].lower()
    try:
        path = unquote(urlsplit(text).path)
    except ValueError as error:
        raise Problem(f"{plain(text.partition(':')[0], 20)}://… is no address: {error}.") from error
    if "\0" in path:
        raise Problem("An address has a zero byte in it.")
    if scheme == "file":
        return Path(path)
    if scheme not in SCHEMES or "::" in text:
        raise Problem(
            f"{plain(Address(text), 200)} is at no address that can be read; there are file, {', '.join(SCHEMES)}."
        )
    return Address(text)


def read_at(place: Place, limit: int) -> Source:
    """As :func:`formats.identify.read_model`."""
    if isinstance(place, Path):
        return read_model(place, limit)
    files, path = _file(place)
    folder = posixpath.dirname(path)
    folders = (folder, posixpath.dirname(folder)) if posixpath.basename(folder) == "onnx" else (folder,)
    name = posixpath.basename(Address(path).name)
    sidecars: dict[str, bytes] = {}
    for beside in (*SIDECARS, f"{Path(name).stem}.json"):
        for above in folders:
            with suppress(Unreadable, Unsupported):
                sidecars.setdefault(beside, _read(place, files, posixpath.join(above, beside), MAX_SIDECAR))
    return Source(name, _read(place, files, path, limit), sidecars=sidecars)


def external_at(place: Place, locations: Sequence[str], limit: int) -> dict[str, bytes]:
    """As :func:`formats.identify.read_external`."""
    if isinstance(place, Path):
        return read_external(place, locations, limit)
    files, path = _file(place)
    found: dict[str, bytes] = {}
    for location in locations:
        require_plain(posixpath.basename(path), location)
        found[location] = _read(place, files, posixpath.join(posixpath.dirname(path), location), limit)
        limit -= len(found[location])
    return found


def _file(place: Address) -> tuple[Any, str]:
    """The file system, and the path of the model there: of a folder, the file in it that is called as usual."""
    scheme = urlsplit(place.url).scheme.lower()
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(place.url)
    except ImportError:
        raise Problem(
            f"{place} cannot be read without packages for it: pip install fsspec {SCHEMES[scheme]}"
        ) from None
    except Exception as error:
        raise _unreadable(place, error) from error
    if scheme.startswith("http") or not _asked(place, files.isdir, path):
        return files, path
    for name in USUAL:
        if _asked(place, files.isfile, posixpath.join(path, name)):
            return files, posixpath.join(path, name)
    raise Unreadable(f"{place} is a folder without {', '.join(USUAL)}; name the model file.")


def _asked(place: Address, question: Any, path: str) -> bool:
    try:
        return bool(question(path))
    except Exception as error:
        raise _unreadable(place, error) from error


def _read(place: Address, files: Any, path: str, limit: int) -> bytes:
    """All bytes, at most ``limit``; whatever size was promised, no more are taken."""
    parts, total = [], 0
    try:
        file: IO[bytes]
        with files.open(path, "rb") as file:
            while part := file.read(min(_PART, limit + 1 - total)):
                parts.append(part)
                total += len(part)
                if total > limit:
                    break
    except Exception as error:  # file systems have no common base of their errors
        raise _unreadable(place, error) from error
    if total > limit:
        raise Unsupported(f"{place} has more than {limit} bytes, which is the limit.")
    return b"".join(parts)


def _unreadable(place: Address, error: Exception) -> Unreadable:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # nobody answers
    if isinstance(error, FileNotFoundError):
        return Unreadable(f"{place} does not exist.")
    said = (str(error).strip().splitlines() or [""])[0].replace(place.url, str(place))
    return Unreadable(f"{place} cannot be read ({type(error).__name__}): {plain(said, 300)}")

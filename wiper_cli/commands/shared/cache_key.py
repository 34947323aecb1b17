"""What a scan depends on, as one digest: the bytes of model and images, what was asked, our code and its libraries."""

import hashlib
import json
import os
import platform
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from formats import Source
from wiper_cli import __version__
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.images.listing import MOST_BYTES, walk
from wiper_cli.progress import Progress
from wiper_cli.tables.plugins import VARIABLE
from wiper_cli.worker.codec import pack
from wiper_cli.worker.launcher import ROOT

#: What computes, beside our own code.
_LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow",
    "safetensors",
)  # fmt: skip
_CODE = (".py", ".json", ".gz")

#: What tells whether a file or folder was written to meanwhile, also by somebody who sets its times back.
Stamp = tuple[int, int, int, int, int]
#: Digests of files that stand as they were when they were read: all models of a fleet have the same images.
_KNOWN: dict[Stamp, str] = {}
#: Bytes read at a time.
_PART = 1 << 22


@dataclass(frozen=True)
class Key:
    """``name``: hexadecimal digest. ``files``: all files and folders that were read for it beside the model, as
    they were then."""

    name: str
    files: dict[Path, Stamp | None]

    @property
    def holds(self) -> bool:
        """Whether all those files are as they were."""
        return all(_stamp(path) == was for path, was in self.files.items())


def key_of(request: ScanRequest, source: Source, isolation: str, progress: Progress) -> Key | None:
    """The key of ``request`` on ``source``; ``None`` where code of others takes part, which no digest of ours covers.
    ``progress`` is told of every folder and file, and may end it.

    Raises :class:`Problem` or OSError where something that the request names cannot be read.
    """
    if os.environ.get(VARIABLE) or (request.arch and ".py:" in request.arch):
        return None
    asked = pack(request)[0]
    files: dict[Path, Stamp | None] = {}
    del asked["model"], asked["done"]
    for item in fields(request):
        value = getattr(request, item.name)
        if item.name in asked and isinstance(value, Path):
            # The name, too: a report shows it.
            asked[item.name] = [
                str(value),
                _content(value, files, lambda done, total: progress("look for an earlier scan", done, total)),
            ]
    depends = {
        "wiper": __version__,
        "code": _code(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "isolation": isolation,
        "model": [source.sha256, _digests(source.files), _digests(source.sidecars)],
        "asked": asked,
    }
    return Key(hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest(), files)


def _content(path: Path, files: dict[Path, Stamp | None], progress: Callable[[int, int], None]) -> str:
    """Digest of a file, or of all names and files in a folder."""
    if not path.is_dir():
        return _digest(path, files, lambda: progress(0, 0))

    def enter(folder: Path) -> None:
        progress(0, 0)
        files[folder] = _stamp(folder)

    names, folders = walk(path, enter)
    # An empty class folder, too, moves the numbers of those behind it.
    whole = hashlib.sha256(json.dumps(folders).encode())
    for number, name in enumerate(names):
        here = partial(progress, number, len(names))
        here()
        whole.update(
            f"{len(os.fsencode(name))} ".encode()
            + os.fsencode(name)
            + _digest(path / name, files, here).encode()
        )
    return whole.hexdigest()


def _digest(path: Path, files: dict[Path, Stamp | None], progress: Callable[[], None]) -> str:
    """Of a plain file; what is none, or too large, or cannot be read, is not read by the scan either."""
    files[path] = stamp = _stamp(path)
    if stamp is None or not 0 < stamp[0] <= MOST_BYTES:
        return "none"
    if stamp in _KNOWN:
        return _KNOWN[stamp]
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                whole, left = hashlib.sha256(), stamp[0]
                while left > 0 and (part := file.read(min(_PART, left))):
                    progress()
                    whole.update(part)
                    left -= len(part)
                if stamp == _stamp(path):
                    _KNOWN[stamp] = whole.hexdigest()
                return whole.hexdigest()
    except OSError:
        pass
    return "none"


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


def _digests(files: Any) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@cache
def _code() -> str:
    """Of every file of the packages that a scan runs."""
    whole = hashlib.sha256()
    for package in ("formats", "wiper_cli"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in _CODE:
                whole.update(
                    f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest()
                )
    return whole.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

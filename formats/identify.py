"""What kind of file this is, by its content and never by its suffix; what is refused, and why.

Standard library only: the process that runs this holds no model.
"""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from formats import hub, polyglot
from formats.errors import FormatError, Hostile, Unreadable, Unsupported
from formats.kinds import reader, recognised
from formats.model import Kind, Manifest, Source
from formats.sidecar import CLASS_FILES

#: What external data of an honest ONNX file never is, one id each; ids are stable and never reused.
RULES: Mapping[str, str] = {
    "WIPER-FILE-001": "The model names external data by something else than a plain file name.",
    "WIPER-FILE-002": "The model's external data is a symbolic link.",
    "WIPER-FILE-003": "The model's external data is a hard link or no regular file.",
}

MAX_FILE = 16 << 30
#: A model and its external data together.
MAX_WHOLE = (2 << 30) - (16 << 20)
MAX_SIDECAR = 1 << 20
SIDECARS = ("config.json", "preprocessor_config.json", *CLASS_FILES)

#: (offset, bytes, what it is and what to do): files that are often taken for a model.
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ORTM", "an onnxruntime .ort file, made for one runtime build; use the ONNX file it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model, which is not supported; export the network to ONNX"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file, which is not supported; export the network to ONNX"),
    (257, b"ustar", "a tar archive; unpack it and name the model file inside"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (0, b"BZh", "compressed with bzip2; unpack it first"),
    (0, b"\xfd7zXZ\0", "compressed with xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"\x93NUMPY", "a NumPy array, not a model; name a safetensors, TorchScript or ONNX file"),
    (0, b"\x89PNG", "a PNG image, not a model; name a safetensors, TorchScript or ONNX file"),
    (0, b"\xff\xd8\xff", "a JPEG image, not a model; name a safetensors, TorchScript or ONNX file"),
    (0, b"GGUF", "a GGUF language model; only image classifiers are supported"),
    (0, b"\x7fELF", "a compiled program, not a model; name a safetensors, TorchScript or ONNX file"),
)  # fmt: skip

#: Entry name (below the root folder) that only one kind of zip has → what it is and what to do.
_FOREIGN_ZIP: tuple[tuple[str, str], ...] = (
    (
        "serialized_exported_program.json",
        "a torch.export program (.pt2), which can hide a pickle; save it as ONNX",
    ),
    ("archive_format", "a torch.export program (.pt2), which can hide a pickle; save it as ONNX"),
    ("model.weights.h5", "a Keras archive, which is not supported; export the network to ONNX"),
    ("MAR-INF/MANIFEST.json", "a TorchServe archive; unpack it and name the model file inside"),
)


def read_source(path: str | Path) -> Source:
    """Read a model file once, with the external data an ONNX file names and small descriptions beside it.

    Raises :class:`Unreadable` or :class:`Unsupported` for what is no model file that we know (see
    :func:`identify`) and :class:`Hostile` when external data is not a plain file beside the model.
    """
    source = read_model(path)
    left = MAX_WHOLE - len(source.data)
    return replace(source, files=read_external(path, external_locations(source), left))


def read_model(path: str | Path, limit: int = MAX_FILE) -> Source:
    """The bytes of a model file and of the descriptions beside it, not looked into. ``limit``: most bytes.

    Raises :class:`Unreadable`, and :class:`Unsupported` for a file that is too large.
    """
    path = Path(path)
    sidecars = {}
    data = _read_model(path, limit)
    # Exporters put ONNX files into a folder of their own, below what describes them.
    folders = (
        (path.parent, path.absolute().parents[1]) if path.absolute().parent.name == "onnx" else (path.parent,)
    )
    for name in (*SIDECARS, f"{path.stem}.json"):
        content = next(filter(None, (_read_sidecar(folder / name) for folder in folders)), None)
        if content is not None:
            sidecars[name] = content
    return Source(path.name, data, sidecars=sidecars)


def external_locations(source: Source) -> Sequence[str]:
    """Names of the files beside the model that hold tensors of it; raises as :func:`identify`."""
    return reader(identify(source.data, source.name)).external_locations(source.data)


def read_external(path: str | Path, locations: Sequence[str], limit: int = MAX_WHOLE) -> dict[str, bytes]:
    """The files that the model at ``path`` names, by those names; ``limit``: most bytes of all together.

    Raises :class:`Hostile` for anything but plain files beside the model, else as :func:`read_model`.
    """
    files: dict[str, bytes] = {}
    for location in locations:
        files[location] = _read_external(Path(path), location, limit)
        limit -= len(files[location])
    return files


def identify(data: bytes, name: str) -> Kind:
    """The kind of a file's content; ``name`` is used in messages only.

    Raises :class:`Unreadable` (empty, truncated, unknown bytes, a pointer or a web page instead of the file)
    or :class:`Unsupported` (another kind of model file), with the next step in the sentence.
    """
    if not data:
        raise Unreadable(f"{name} is empty; get the file again.")
    kind = recognised(data)
    if kind is None:
        raise _refusal(data, name)
    return kind


def inspect(source: Source) -> Manifest:
    """Kind and tensor addresses of a file, from its bytes alone; nothing in it is executed."""
    manifest = reader(identify(source.data, source.name)).read_manifest(source)
    # Shards are files of that kind themselves; external data of ONNX is of none.
    for data in (source.data, *(source.files.values() if manifest.kind == "safetensors" else ())):
        polyglot.refuse(data, manifest.kind)
    return manifest


def _refusal(data: bytes, name: str) -> FormatError:
    """What a file is that is of no kind, and the next step."""
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        return Unreadable(f"{name} is a Git LFS pointer, not the file itself; run: git lfs pull")
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return Unreadable(f"{name} is a web page, saved in place of the file; download the file itself.")
    for offset, magic, sentence in _FOREIGN:
        if data[offset : offset + len(magic)] == magic:
            return Unsupported(f"{name} is {sentence}.")
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_refusal(data, name)
    if data[0] == 0x80 and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _pickle(name)
    return Unreadable(
        f"{name} is no model file known here: its {len(data)} bytes are neither safetensors, "
        "TorchScript nor ONNX, or the file is damaged."
    )


def _zip_refusal(data: bytes, name: str) -> FormatError:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return Unreadable(
            f"{name} begins like a zip archive (TorchScript) but is truncated or damaged; get a whole copy."
        )
    below = {entry.partition("/")[2] for entry in entries}
    for entry, sentence in _FOREIGN_ZIP:
        if entry in below or entry in entries:
            return Unsupported(f"{name} is {sentence}.")
    if "data.pkl" in below:
        return _pickle(name)
    return Unsupported(
        f"{name} is a zip archive without a TorchScript model; unpack it and name the model file."
    )


def _pickle(name: str) -> Unsupported:
    return Unsupported(
        f"{name} is a Python pickle (torch.save), which can run any code when it is loaded; wiper convert takes its "
        "tensors out without loading it."
    )


def read_plain(path: Path, limit: int) -> bytes:
    """All bytes of a regular file, at most ``limit``; nothing else is waited for.

    Raises OSError, :class:`Unreadable` for what is no regular file or changes meanwhile, :class:`Unsupported` for more.
    """
    return _read_all(_open(path), str(path), limit)


def _open(path: str | Path, flags: int = 0, folder: int | None = None) -> int:
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, os.O_RDONLY | flags, dir_fd=folder)


def _read_all(descriptor: int, name: str, limit: int) -> bytes:
    """All bytes of a regular file through an open descriptor, which is closed."""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{name} is no regular file; name one.")
        if status.st_size > limit:
            raise Unsupported(f"{name} has {status.st_size} bytes; the limit is {limit}.")
        data = file.read(status.st_size + 1)
    if len(data) != status.st_size:
        raise Unreadable(f"{name} changed while it was read; try again when nothing writes to it.")
    return data


def _read_model(path: Path, limit: int) -> bytes:
    try:
        if path.is_dir():
            raise Unreadable(f"{path} is a directory; name {hub.model_in(path)}.")
        return read_plain(path, limit)
    except FileNotFoundError as error:
        raise Unreadable(f"{path} does not exist.") from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise Unsupported(f"{path} does not fit into memory.") from error


def require_plain(model: str, location: str) -> None:
    """Raises :class:`Hostile` for external data of a file called ``model`` that is no plain name beside it."""
    plain = location.isprintable() and location not in ("", ".", "..", model) and len(location) <= 255
    if not plain or set(location) & set('/\\:*?"<>|'):
        raise Hostile(
            f"The model keeps tensors in {location[:80]!r}, which is no plain name of a file beside it.",
            "WIPER-FILE-001",
            ascii(location[:200]),
        )


def _read_external(model: Path, location: str, limit: int) -> bytes:
    """External data of an ONNX file: a plain regular file beside the model that is known by no other name."""
    require_plain(model.name, location)
    try:
        descriptor = _open_beside(model, location)
    except FileNotFoundError as error:
        raise Unreadable(
            f"The model keeps tensors in {location!r}, which is missing; put that file beside it."
        ) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise Unreadable(f"{location} cannot be read: {error.strerror or error}.") from error
        raise Hostile(
            f"The model keeps tensors in {location!r}, which is a symbolic link; put the file itself there.",
            "WIPER-FILE-002",
            location,
        ) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size > limit:
        os.close(descriptor)
        raise Unsupported(
            "The model and its external data are too large: 2 GiB together, and what memory is free, is the limit."
        )
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise Hostile(
            f"The model keeps tensors in {location!r}, which is a hard link or no regular file; "
            "put a plain copy there.",
            "WIPER-FILE-003",
            location,
        )
    return _read_all(descriptor, location, limit)


def _open_beside(model: Path, location: str) -> int:
    """Opens a plain name in the model's folder, and nothing behind a link but the content that a cache keeps of it."""
    follow_none = getattr(os, "O_NOFOLLOW", 0)
    place = Path(os.path.realpath(model.parent)) / location
    kept = hub.blob(place) if place.is_symlink() else None
    if kept is not None:
        return _open_in(kept[0], kept[1], follow_none)
    return _open_in(model.parent, location, follow_none)


def _open_in(parent: Path, location: str, follow_none: int) -> int:
    if os.open not in os.supports_dir_fd:
        if (parent / location).is_symlink():
            raise OSError(errno.ELOOP, "symbolic link")
        return _open(parent / location, follow_none)
    folder = os.open(parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open(location, follow_none, folder)
    finally:
        os.close(folder)


def _read_sidecar(path: Path) -> bytes | None:
    """A small description beside the model; ``None`` when there is none that can be used. A report shows words of it,
    so that links, but those of a cache, are passed over: they may lead to what is the user's own."""
    try:
        return _read_all(_open_beside(path, path.name), path.name, MAX_SIDECAR)
    except (OSError, Unreadable, Unsupported):
        return None

"""The gate, and the writing of a file, in a process of its own under limits: whatever parses the bytes of a model
file is called here, never in the parent. Standard library only.

The parent reads the bytes, lays out its private copy, asks, and hears plain data.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from formats import Edit, FormatError, Hostile, NewTensor, Source, Unsupported, inspect, own_names, write_edit
from formats.checkpoint.convert import convert, refuse_harmful
from formats.identify import (
    MAX_WHOLE,
    external_locations,
    identify,
    read_external,
    read_model,
    read_plain,
    read_source,
)
from formats.kinds import KINDS, reader, writer
from formats.model import Kind
from wiper_cli.worker.codec import LARGEST
from wiper_cli.worker.confinement import Bounds
from wiper_cli.worker.protocol import Job

A = TypeVar("A")

#: Behind what a file is: what to do.
_REST = re.compile(r"[;:,.] |\.$")

#: Most external files of a model, and most that is said about one: how many notes, how long each.
MOST_FILES, MOST_NOTES, LONGEST_NOTE = 10_000, 100, 1000


@dataclass(frozen=True, kw_only=True)
class GateAnswer:
    """What the bytes are. ``locations``: files beside the model that hold tensors; where they were not laid out yet,
    nothing more is known than the kind. ``parameters``: elements of all ``tensors`` together."""

    kind: Kind
    locations: tuple[str, ...]
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GateJob(Job[GateAnswer]):
    """Judge a file by its bytes. ``complete``: the external files lie beside it."""

    answer = GateAnswer

    complete: bool = False


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """A file by its content. ``kind``: "" of what is no model. ``parts``: files beside it that it names. ``reason``:
    what it is instead, less its name, such as "is a PNG image, not a model"; ``unread`` where nobody can say.
    ``harmful``: a pickle that would do harm when it is loaded."""

    kind: str = ""
    parts: tuple[str, ...] = ()
    reason: str = ""
    unread: bool = False
    harmful: bool = False


@dataclass(frozen=True, kw_only=True)
class SortAnswer:
    """One for each file, in their order."""

    files: tuple[Sorted, ...]


@dataclass(frozen=True, kw_only=True)
class SortJob(Job[SortAnswer]):
    """Tell models from other files. ``files``: below the folder in which ``model`` is a name."""

    answer = SortAnswer

    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WriteAnswer:
    """``files``: bytes of the model and of what it keeps outside, by name (:func:`formats.own_names`)."""

    files: Mapping[str, NewTensor]


@dataclass(frozen=True, kw_only=True)
class WriteJob(Job[WriteAnswer]):
    """Lay the new values of ``edit`` over a file, which will be called ``name``."""

    answer = WriteAnswer

    edit: Edit
    name: str


@dataclass(frozen=True, kw_only=True)
class ConvertAnswer:
    """``files``: bytes of one safetensors file, under "". ``place``, ``left_out``, ``called``, ``unknown``,
    ``named``, ``strange``: see :class:`formats.checkpoint.convert.Converted`."""

    files: Mapping[str, NewTensor]
    tensors: int
    place: str
    left_out: tuple[str, ...]
    called: tuple[str, ...]
    unknown: tuple[str, ...]
    named: tuple[str, ...]
    strange: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConvertJob(Job[ConvertAnswer]):
    """Write the tensors of a checkpoint as safetensors. ``key``: where they stand, found where empty."""

    answer = ConvertAnswer

    key: str = ""


def bounds(source: Source, copies: int = 4) -> Bounds:
    """What a job on so many bytes may take, of which it holds so many copies; honest files stay far below."""
    return Bounds(memory=(1 << 30) + copies * source.size, seconds=10 + (source.size >> 23))


def load() -> None:
    """Imports what a job needs, before the process is bound."""
    for kind in KINDS:
        reader(kind)
        writer(kind)


def judge(job: GateJob) -> GateAnswer:
    """Raises a ``FormatError`` for what is refused."""
    source = read_model(job.model)
    try:
        kind, locations = identify(source.data, source.name), tuple(external_locations(source))
    except Unsupported:
        refuse_harmful(source.data)
        raise
    if len(locations) > MOST_FILES:
        raise Unsupported(
            f"The model keeps its tensors in {len(locations)} files; the limit is {MOST_FILES}."
        )
    if locations and not job.complete:
        return GateAnswer(kind=kind, locations=locations)
    manifest = inspect(replace(source, files=read_external(job.model, locations)))
    return GateAnswer(
        kind=kind,
        locations=locations,
        tensors=len(manifest.tensors),
        parameters=min(sum(a.elements for a in manifest.tensors.values()), LARGEST - 1),
        dtypes=tuple(sorted({a.dtype for a in manifest.tensors.values()})),
        notes=tuple(note[:LONGEST_NOTE] for note in manifest.notes[:MOST_NOTES]),
    )


def sort(job: SortJob) -> SortAnswer:
    """Raises whatever a reader does that fails on one of the files."""
    return SortAnswer(files=tuple(_sorted(job.model.parent / name) for name in job.files))


def _sorted(path: Path) -> Sorted:
    data = b""
    try:
        data = read_plain(path, MAX_WHOLE)
        kind = identify(data, "")
    except FormatError as error:
        reason = _REST.split(str(error).removeprefix(str(path)).strip())[0][:LONGEST_NOTE]
        return Sorted(reason=reason, harmful=_is_harmful(data))
    except OSError as error:
        return Sorted(reason=f"cannot be read: {error.strerror}", unread=True)
    try:
        return Sorted(kind=kind, parts=tuple(external_locations(Source("", data)))[:MOST_FILES])
    except FormatError:  # which its examination will say
        return Sorted(kind=kind)


def _is_harmful(data: bytes) -> bool:
    try:
        refuse_harmful(data)
    except Hostile:
        return True
    return False


def write(job: WriteJob) -> WriteAnswer:
    """Raises a ``FormatError`` where the edit does not fit the file."""
    source = read_source(job.model)
    manifest = inspect(source)
    files = own_names(source, manifest, write_edit(source, manifest, job.edit), job.name)
    return WriteAnswer(files={name: NewTensor("U8", (len(data),), data) for name, data in files.items()})


def to_safetensors(job: ConvertJob) -> ConvertAnswer:
    """Raises a ``FormatError`` for what is refused."""
    found = convert(read_model(job.model).data, job.key)
    return ConvertAnswer(
        files={"": NewTensor("U8", (len(found.data),), found.data)},
        tensors=found.tensors,
        place=found.place,
        left_out=tuple(part[:LONGEST_NOTE] for part in found.left_out[:MOST_NOTES]),
        called=tuple(part[:LONGEST_NOTE] for part in found.called[:MOST_NOTES]),
        unknown=tuple(part[:LONGEST_NOTE] for part in found.unknown[:MOST_NOTES]),
        named=tuple(part[:LONGEST_NOTE] for part in found.named[:MOST_NOTES]),
        strange=tuple(part[:LONGEST_NOTE] for part in found.strange[:MOST_NOTES]),
    )


_STORIES: Mapping[type[Job[Any]], Callable[[Any], Any]] = {
    GateJob: judge, SortJob: sort, WriteJob: write, ConvertJob: to_safetensors,
}  # fmt: skip

#: Whatever this process can be asked.
JOBS = tuple(_STORIES)


def run(job: Job[A]) -> A:
    """The answer to ``job``, by its type."""
    answer: A = _STORIES[type(job)](job)
    return answer

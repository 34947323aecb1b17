"""Messages between parent and child: frames of 8 bytes little-endian length, 1 byte kind, payload. No torch.

``T``: the name of a container (1 byte length, then ASCII), then the container, safetensors. ``J``: a JSON object
with one entry: the type of a message and its fields (:mod:`wiper_cli.worker.codec`). A message is a ``J``, its tensors'
``T`` before it.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, TypeVar

from wiper_cli.strict_json import loads
from wiper_cli.verdict import ExitCode, Finding, Verdict
from wiper_cli.worker.codec import Malformed, pack, unpack

#: Largest JSON payload in bytes: a report with all its thumbnails stays far below.
JSON_LIMIT = 64 << 20
#: Largest tensor payloads of one message in bytes, all together, and most of them.
TENSOR_LIMIT, MOST_CONTAINERS = 16 << 30, 8

_HEADER = struct.Struct("<Qc")


A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class Job(Generic[A]):
    """What a child is asked about the file ``model``."""

    answer: ClassVar[type]

    model: Path


class ProtocolError(Exception):
    """The other side sent something that is no message of those expected."""


class Truncated(ProtocolError):
    """The other side ended inside a message."""


@dataclass(frozen=True)
class Progress:
    """As a :class:`wiper_cli.progress.Progress` is called."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Log:
    """A remark."""

    sentence: str


@dataclass(frozen=True)
class Refusal:
    """Instead of an answer; the fields of a :class:`wiper_cli.verdict.Problem`. ``rule``, ``place``: of a hostile file,
    see :class:`formats.Hostile`."""

    sentence: str
    exit_code: ExitCode
    rule: str = ""
    place: str = ""
    findings: tuple[Finding, ...] = ()
    verdict: Verdict = Verdict.INCOMPLETE


def send(stream: IO[bytes], message: object) -> None:
    """Writes a message, a dataclass, and flushes. NaN and infinities are refused (``ValueError``)."""
    fields, containers = pack(message)
    text = json.dumps({type(message).__name__: fields}, allow_nan=False, separators=(",", ":")).encode()
    for name, data in containers.items():
        _write(stream, b"T", bytes([len(name)]) + name.encode("ascii"), data)
    _write(stream, b"J", text)
    stream.flush()


def _write(stream: IO[bytes], kind: bytes, *parts: bytes) -> None:
    stream.write(_HEADER.pack(sum(map(len, parts)), kind))
    for part in parts:
        stream.write(part)


def receive(stream: IO[bytes], *kinds: type) -> Any:
    """Reads one message of one of ``kinds``; ``None`` at a clean end.

    Raises :class:`ProtocolError` for anything else, its message a phrase that says what is wrong.
    """
    containers: dict[str, bytes] = {}
    while head := stream.read(_HEADER.size):
        length, kind = _HEADER.unpack(_whole(head, _HEADER.size))
        if kind == b"T" and len(containers) < MOST_CONTAINERS:
            if length > TENSOR_LIMIT - sum(map(len, containers.values())):
                raise ProtocolError("its tensors are too large")
            name = _exactly(stream, _exactly(stream, 1)[0])
            containers[name.decode("ascii", "replace")] = _exactly(stream, length - 1 - len(name))
        elif kind == b"J" and length <= JSON_LIMIT:
            return _message(_exactly(stream, length), containers, kinds)
        else:
            raise ProtocolError("a frame is of an unknown kind, too large or one too many")
    if containers:
        raise Truncated("the tensors of no message")
    return None


def _message(payload: bytes, containers: dict[str, bytes], kinds: tuple[type, ...]) -> Any:
    try:
        message = loads(payload)
    except (ValueError, RecursionError):
        raise ProtocolError("its JSON does not parse") from None
    by_name = {kind.__name__: kind for kind in kinds}
    if not isinstance(message, dict) or len(message) != 1 or not {*message} <= {*by_name}:
        raise ProtocolError(f"it is none of {', '.join(by_name)}")
    ((name, fields),) = message.items()
    try:
        return unpack(by_name[name], fields, containers)
    except Malformed as error:
        raise ProtocolError(str(error)) from error


def _exactly(stream: IO[bytes], length: int) -> bytes:
    if length < 0:
        raise ProtocolError("a frame is shorter than its name")
    try:
        return _whole(stream.read(length), length)
    except MemoryError:
        raise ProtocolError("it does not fit into memory") from None


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise Truncated("it ends inside a frame")
    return data

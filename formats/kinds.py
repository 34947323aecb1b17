"""The kinds of model file: a folder each, with the same doors.

:data:`formats.model.Kind` is the table. A door is a module that is loaded when it is used; ``magic``,
``manifest`` and ``patch`` need the standard library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast, get_args

from formats.model import Edit, Kind, Manifest, Opened, Source

if TYPE_CHECKING:
    from torch import Tensor

    from formats.dataflow import Dataflow

#: In the order in which a file is held against them: the first bytes of safetensors may be those of any other.
KINDS: tuple[Kind, ...] = get_args(Kind)


class Recogniser(Protocol):
    """``formats/KIND/magic.py``, which loads little: every file is held against all kinds."""

    def recognises(self, data: bytes) -> bool:
        """Whether the bytes look like a file of this kind, whole or not."""


class Reader(Protocol):
    """``formats/KIND/manifest.py``; raises what :mod:`formats.errors` says, for whatever bytes."""

    RULES: Mapping[str, str]  #: what no honest writer makes, one id each; ids are stable and never reused

    def external_locations(self, data: bytes) -> Sequence[str]:
        """Names of the files beside the model that hold tensors of it."""

    def read_manifest(self, source: Source) -> Manifest:
        """The addresses of all tensors, from the bytes alone."""


class Writer(Protocol):
    """``formats/KIND/patch.py``."""

    def members(self, source: Source) -> dict[str, bytes]:
        """Every part of the file, see :mod:`formats.ranges`, in the order of the file."""

    def patch(self, source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
        """What changes: the model file under "", external files by their location. The edit fits the file."""

    def renamed(self, data: bytes, names: Mapping[str, str]) -> bytes:
        """The model file, now naming each external file ``names[location]``; nothing else of its content changes."""


class Opener(Protocol):
    """``formats/KIND/opener.py``."""

    def open_file(self, source: Source, manifest: Manifest, arch: str | None = None) -> Opened:
        """The network of the file, its values in float32; ``arch`` is for files that hold tensors alone."""


class Server(Protocol):
    """``formats/KIND/serving.py``."""

    RUNTIME: str  #: what deployments run files of this kind with

    def serve(self, source: Source, arch: str | None = None) -> Callable[[Tensor], Tensor]:
        """Normalised float32 [N,C,H,W] → logits float32 [N,K] on the CPU, by that runtime; what it computes may
        depend on the caller's gradient mode."""


class Tracer(Protocol):
    """``formats/KIND/dataflow.py``, of the kinds that hold a graph."""

    def trace(self, source: Source, manifest: Manifest) -> Dataflow:
        """How values flow from the images to the logits; nothing runs."""


def recognised(data: bytes) -> Kind | None:
    """The first kind that the bytes look like."""
    return next((kind for kind in KINDS if recogniser(kind).recognises(data)), None)


def recogniser(kind: Kind) -> Recogniser:
    """What knows the files of a kind by their first bytes and outline."""
    return cast(Recogniser, import_module(f"formats.{kind}.magic"))


def reader(kind: Kind) -> Reader:
    """What reads the bytes of a kind."""
    return cast(Reader, import_module(f"formats.{kind}.manifest"))


def writer(kind: Kind) -> Writer:
    """What puts new values into the bytes of a kind."""
    return cast(Writer, import_module(f"formats.{kind}.patch"))


def opener(kind: Kind) -> Opener:
    """What makes a network of a file."""
    return cast(Opener, import_module(f"formats.{kind}.opener"))


def server(kind: Kind) -> Server:
    """What runs a file as it is deployed."""
    return cast(Server, import_module(f"formats.{kind}.serving"))


def tracer(kind: Kind) -> Tracer:
    """What follows the graph of a file."""
    return cast(Tracer, import_module(f"formats.{kind}.dataflow"))

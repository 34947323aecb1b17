"""The refusals of this package, each one sentence that a user can act on.

FormatError
├── Unreadable            not a whole model file: empty, truncated, random bytes, a folder, an LFS pointer
├── Unsupported           a real file of a kind, version or content that cannot be opened here
│   ├── Stateful              a network whose answers may depend on what it was asked before
│   ├── UnknownArchitecture   tensors without a network: the names of likely ones are in ``candidates``
│   └── Ambiguous             several outputs that may be the logits: their widths are in ``outputs``
├── Hostile               the file breaks a rule that no honest exporter breaks; ``rule`` names it
└── EditError             an edit that does not fit the file it is meant for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class FormatError(Exception):
    """Base of every refusal; ``str(error)`` is one sentence for a person."""


class Unreadable(FormatError):
    """The bytes are no whole model file."""


class Unsupported(FormatError):
    """A model file, but not one that this version can open."""


class Stateful(Unsupported):
    """The network writes into what it keeps from one call to the next."""


class UnknownArchitecture(Unsupported):
    """Tensors were read, but no known network fits their names and shapes."""

    def __init__(self, message: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class Ambiguous(Unsupported):
    """Several outputs may be the logits. ``outputs``: name → number of columns, ``None`` where open."""

    def __init__(self, message: str, outputs: Mapping[str, int | None]) -> None:
        super().__init__(message)
        self.outputs = dict(outputs)


class Hostile(FormatError):
    """The file breaks a safety rule; it was not loaded.

    ``rule`` is the stable id of the rule (``WIPER-TS-001``), ``place`` the archive member, tensor or node.
    """

    def __init__(self, message: str, rule: str, place: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.place = place


class EditError(FormatError):
    """New values whose name, dtype, shape or encoding does not fit the file."""

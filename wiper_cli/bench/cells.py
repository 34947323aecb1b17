"""One cell: what is measured on which specimen, its name, and where its outcome stands. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from wiper_cli.nearest import nearest
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import ExitCode, Problem

FORMAT = "wiper-cell/1"
#: The settings' own defaults, by a name in the place of a preset.
DEFAULT = "default"

Kind = Literal["purify", "scan", "salience"]


@dataclass(frozen=True)
class Cell:
    """``kind`` "purify": the method ``name`` with its ``preset`` and then ``settings``; "scan": the detectors, whose
    suspects and recovered triggers other cells take; "salience": the metric ``name``.

    ``file``: of the specimen. ``images``: of the clean folder, in all three parts; 0: all there are. ``labels``:
    the folder's, or the model's own predictions. ``test_images``: measured on. ``watch``: ASR after every epoch, too.
    ``live``: batch norm is trained with its statistics.
    """

    specimen: str
    name: str
    kind: Kind = "purify"
    preset: str = DEFAULT
    settings: tuple[tuple[str, Any], ...] = ()
    file: str = "model.safetensors"
    images: int = 0
    labels: Literal["folder", "model"] = "folder"
    test_images: int = 2000
    seed: int = 1
    watch: bool = False
    live: bool = False

    @property
    def id(self) -> str:
        """Readable, and different for different cells: it ends in a digest of everything."""
        parts = [self.specimen, *([] if self.kind == "purify" else [self.kind]), self.name]
        if self.preset != DEFAULT:
            parts.append(self.preset)
        parts += [f"{key}={value}" for key, value in self.settings]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("file", "images", "labels", "watch", "live") and value != item.default:
                parts.append(str(value) if item.name in ("file", "labels") else f"{item.name}{int(value)}")
        text = re.sub(r"[^A-Za-z0-9.=_-]+", "-", ".".join([*parts, f"s{self.seed}"]))
        return f"{text[:180]}.{self.digest[:8]}"

    @property
    def digest(self) -> str:
        """Of every field, hexadecimal."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        own = {**asdict(self), "settings": dict(self.settings)}
        if not self.live:  # cells older than the field have none
            del own["live"]
        found: dict[str, Any] = json.loads(json.dumps(own))
        return found

    def purifier(self) -> Any:
        """The settings of its method, typed. Raises :class:`Problem` for a method, preset or setting that is not."""
        if self.name not in METHODS:
            raise Problem(f"There is no method {self.name!r}{nearest(self.name, METHODS)}.")
        kind = METHODS[self.name]
        if self.preset != DEFAULT and self.preset not in kind.presets:
            raise Problem(f"{self.name} has no preset {self.preset!r}{nearest(self.preset, kind.presets)}.")
        given = {**kind.presets.get(self.preset, {}), **dict(self.settings)}
        known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
        for key in given:
            if key not in known:
                raise Problem(f"{self.name} has no setting {key!r}{nearest(key, known)}.")
        return kind(**given)

    def scan(self) -> Cell:
        """The scan whose findings this cell takes."""
        return Cell(
            self.specimen, "detectors", "scan", file=self.file, images=self.images, labels=self.labels, seed=self.seed
        )  # fmt: skip


@dataclass(frozen=True)
class Store:
    """The folder RESULTS: ``cells/ID.json``, and what scans recovered as ``cells/ID.safetensors``."""

    root: Path

    def path(self, cell: Cell, suffix: str = ".json") -> Path:
        """Where an outcome belongs."""
        return self.root / "cells" / f"{cell.id}{suffix}"

    def read(self, cell: Cell, sha256: str | None = None) -> dict[str, Any] | None:
        """The outcome that stands for exactly this cell, or ``None``; what is damaged does not stand, nor, where
        ``sha256`` is given, what was measured on another file of the same name."""
        try:
            found: dict[str, Any] = json.loads(self.path(cell).read_bytes())
        except (OSError, ValueError):
            return None
        right = found.get("format") == FORMAT and found.get("cell") == cell.as_dict()
        if right and sha256 is not None:
            right = (found.get("model") or {}).get("sha256") == sha256
        return found if right else None

    def write(self, cell: Cell, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Whole or not at all; gives back what a reader will get."""
        found = {"format": FORMAT, "id": cell.id, "cell": cell.as_dict(), **outcome}
        lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in found.items())
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        put(self.path(cell), text.encode())
        kept: dict[str, Any] = json.loads(text)
        return kept


def put(path: Path, data: bytes) -> None:
    """Writes beside ``path`` and renames. Raises :class:`Problem`."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Problem(f"{path} cannot be written: {error.strerror}.", ExitCode.USAGE) from error

"""``--output-dir DIR``: a folder a model with its reports, and ``index.json`` and ``index.html`` over all of them.

Each model's report is written when it is there, the index from time to time and at the end. What a scan of the same
bytes, images, settings and code needs to be taken again lies beside the report, in a folder for the user alone, so that
a run that was killed goes on where it was.
"""

import datetime
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wiper_cli import strict_json
from wiper_cli.commands.fleet.batch import Item
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.run import read_reports
from wiper_cli.reports import render
from wiper_cli.reports.changes import changes
from wiper_cli.reports.fleet import SCHEMA, page, row, usable
from wiper_cli.reports.json import dumps
from wiper_cli.reports.plain import bounded
from wiper_cli.scratch import read_whole, write_whole
from wiper_cli.verdict import Problem

#: Largest index that is read, in bytes, and seconds between two that are written.
MOST, _EVERY = 128 << 20, 10.0
_REPORT, _PAGE, _INDEX = "report.json", "report.html", "index"
#: What a name is made of; the rest becomes a hyphen.
_STRANGE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass
class FleetFolder:
    """A :class:`wiper_cli.commands.fleet.batch.Standing`. ``items``: each with its own folder's name."""

    root: Path
    items: list[Item]
    say: Callable[[str], None]
    #: Rows of the last run that was whole, by folder, and when that was; of this one.
    before: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    since: str | None = None
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: str = field(default_factory=lambda: _now())
    _written: float = field(default_factory=time.monotonic)

    @classmethod
    def at(cls, root: Path, items: Sequence[Item], say: Callable[[str], None]) -> "FleetFolder":
        """Makes the folder where there is none; raises :class:`Problem` where none can be, or holds another's."""
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(f"{root} cannot be a folder of reports: {error.strerror}.") from error
        made = cls(root, _named(items), say)
        standing, shown = (_own(root / f"{_INDEX}.{kind}") for kind in ("json", "html"))
        if standing.exists():
            made._take(standing)
        elif shown.exists():
            raise Problem(f"{shown} is no page of ours; name another folder with --output-dir.")
        for item in made.items:
            _own_folder(root / item.folder)
        made._write(False)
        return made

    def put(self, number: int, document: Document) -> None:
        """Writes the report of the model with this number, unless it stands there already."""
        item = self.items[number]
        place = _own_folder(self.root / item.folder)
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            raise Problem(f"{place} cannot be made: {error.strerror}.") from error
        earlier = self._earlier(place / _REPORT)
        if earlier is None or not _same(earlier, document):
            if earlier is not None:
                document["changes"] = changes(document, [earlier], _REPORT)
            write_whole(place / _PAGE, render("html", [document]).encode())
            write_whole(place / _REPORT, render("json", [document]).encode())
        self.rows[item.folder] = row(document, item.folder, self.before.get(item.folder), self.since)
        if time.monotonic() - self._written > _EVERY:
            self._write(False)

    def close(self, whole: bool) -> None:
        """Writes the index, and says where it is."""
        self._write(whole)
        self.say(f"{self.root / _INDEX}.html has {len(self.rows)} of {len(self.items)} models.")

    def _take(self, standing: Path) -> None:
        try:
            index = bounded(strict_json.loads(read_whole(standing, MOST)))
        except (ValueError, RecursionError):
            index = None
        if not usable(index):
            raise Problem(
                f"{standing} is no index of ours; name another folder with --output-dir, or remove it."
            )
        if index["finished"]:
            self.before, self.since = {one["folder"]: one for one in index["models"]}, index["finished"]
        else:  # it was broken off; what it was to be compared with still counts
            self.before, self.since = {one["folder"]: one for one in index["before"]}, index["since"]

    def _earlier(self, path: Path) -> Mapping[str, Any] | None:
        if not path.exists():
            return None
        try:
            return next(iter(read_reports(path)), None)
        except Problem as problem:
            self.say(f"{problem} It is written anew.")
            return None

    def _write(self, whole: bool) -> None:
        names = [item.folder for item in self.items]
        index = {
            "schema": SCHEMA,
            "began": self.began,
            "finished": _now() if whole else None,
            "since": self.since,
            "models": [self.rows[name] for name in names if name in self.rows],
            "waiting": [
                {"path": bounded(str(item.model)), "folder": item.folder}
                for item in self.items
                if item.folder not in self.rows
            ],
            "gone": [one["path"] for name, one in self.before.items() if name not in {*names}],
            "before": [] if whole else list(self.before.values()),
        }
        write_whole(_own(self.root / f"{_INDEX}.json"), dumps(index).encode())
        write_whole(_own(self.root / f"{_INDEX}.html"), page(index).encode())
        self._written = time.monotonic()


def _own(path: Path) -> Path:
    """The same; raises :class:`Problem` for a link: the folder may be another's, and lead us to write elsewhere."""
    if path.is_symlink():
        raise Problem(f"{path} is a link; remove it, or name another folder with --output-dir.")
    return path


def _own_folder(place: Path) -> Path:
    """The folder of one model, which may not be there yet; so are the files in it."""
    if _own(place).exists() and not place.is_dir():
        raise Problem(f"{place} is no folder; remove it, or name another one with --output-dir.")
    for name in (_PAGE, _REPORT):
        _own(place / name)
    return place


def _named(items: Sequence[Item]) -> list[Item]:
    """The same with names that are the same in every run over the same models, and that nobody who names the models
    can make the same for two: the report of one would replace that of the other."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        where = os.path.realpath(item.model) if isinstance(item.model, Path) else str(item.model)
        seen[where] += 1
        digest = hashlib.sha256(f"{where}\0{seen[where]}".encode(errors="surrogateescape")).hexdigest()[:32]
        word = _STRANGE.sub("-", item.label.rpartition(".")[0] or item.label).strip(".-")[-60:]
        found.append(replace(item, folder=f"{word}-{digest}".lstrip("-")))
    return found


def _same(earlier: Mapping[str, Any], document: Document) -> bool:
    """Whether the report that stands is of the very scan whose result was taken again."""
    parts = ("verdict", "sentence", "exit_code", "findings", "suppression")
    cached = document["cached"]
    return bool(cached and cached["whole"]) and all(
        earlier.get(part) == json.loads(json.dumps(document[part])) for part in parts
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

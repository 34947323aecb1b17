"""The models in a folder: every file is told by its content, and nothing is left out without a word.

A folder of one model, as hubs lay it out, counts as one. The parent process lists, a gate
(:mod:`wiper_cli.worker.gate`) looks into the files. No link is followed that leads out of the folder.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formats import FormatError
from formats.hub import SUFFIXES, holds_one, model_in
from formats.safetensors.shards import SUFFIX
from wiper_cli.commands.shared.remote import Address, Place
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.confinement import Bounds
from wiper_cli.worker.gate import SortAnswer, Sorted, SortJob

#: Most entries below a folder, and how deep.
MOST, DEEPEST = 100_000, 32
#: Of files that are looked into by one process.
_BATCH = 500
#: Processes that may fail before what is left is taken for models.
_FAILURES = 32
#: What is said of a file by its name alone is worth a report of why it was not examined.
_NAMED = (*SUFFIXES, ".ckpt", ".pkl", ".pt2", ".ort", ".tflite", ".h5", ".keras", ".mar")
#: What describes a model in the folder of a hub, and is no model: nobody need hear of it.
_DESCRIBING = re.compile(
    r"(readme|licen[cs]e|notice|copying|citation)(\..*)?|\.git(attributes|ignore)|(tokenizer|spiece)\.model"
    r"|.*\.(json|jsonl|md|txt|ya?ml|toml|csv|tsv|png|jpe?g|gif|webp|svg|pdf)",
    re.ASCII | re.IGNORECASE,
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
#: Names that are told of those skipped for one reason.
_TOLD = 3

Sort = Callable[[SortJob, Bounds], SortAnswer]


@dataclass
class Found:
    """``models``: in the order of their names. ``skipped``: reason → names below the folder."""

    folder: Path
    models: list[Path] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def sentences(self) -> list[str]:
        """What was skipped, by reason."""
        said = []
        for reason, names in sorted(self.skipped.items()):
            more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
            said.append(f"{self.folder}: skipped {', '.join(names[:_TOLD])}{more}: {reason}.")
        return said


def models_in(folder: Path, sort: Sort) -> Found:
    """Models below ``folder``, each as the path of a file, or of a folder that cannot be read. ``sort``: asks a gate.

    Raises :class:`Problem` where there are too many entries to look at.
    """
    found = Found(folder)
    listed = _Listing(folder, found, sort)
    listed.visit(folder, 0)
    found.models += [folder / name for name in _told_apart(folder, listed.files, found.skipped, sort)]
    found.models.sort(key=lambda path: path.parts)
    return found


def expanded(path: Place, sort: Sort, say: Callable[[str], None]) -> Sequence[Place]:
    """The model files that ``path`` stands for: a folder for the model or the models in it; ``say`` hears what was
    skipped. What holds none stands for itself, and its report says so."""
    if isinstance(path, Address) or not os.path.isdir(path):  # noqa: PTH112  # which raises nothing
        return [path]
    found = models_in(path, sort)
    for sentence in found.sentences():
        say(sentence)
    return found.models or [path]


class _Listing:
    """What lies below ``root``: files in ``files`` by their names there, folders of one model in ``found``."""

    def __init__(self, root: Path, found: Found, sort: Sort) -> None:
        self.root, self.found, self.sort = root, found, sort
        self.real = Path(os.path.realpath(root))
        self.files: list[str] = []
        self.left = MOST

    def visit(self, place: Path, depth: int) -> None:
        try:
            if self._one(place):
                return
            with os.scandir(place) as entries:
                listed = sorted(entry.name for entry, _ in zip(entries, range(self.left + 1), strict=False))
        except OSError:  # to examine it will say so
            self.found.models.append(place)
            return
        self.left -= len(listed)
        if self.left < 0 or depth > DEEPEST:
            many = f"more than {MOST:,} entries" if self.left < 0 else f"folders {DEEPEST} levels deep"
            raise Problem(f"{self.root} holds {many}; name a smaller folder.")
        for path in (place / name for name in listed):
            try:
                reason, folder = self._passed_over(path), path.is_dir()
            except OSError:  # a name that is too long, a folder whose names alone can be read
                self.found.models.append(path)
                continue
            if reason:
                self._skip(path, reason)
            elif not folder:
                self.files.append(str(path.relative_to(self.root)))
            elif _blobs(path):
                self._skip(path, "is what snapshots link to")
            else:
                self.visit(path, depth + 1)

    def _one(self, place: Path) -> bool:
        """Whether it is the folder of one model, which joins the models."""
        if not holds_one(place):
            return False
        try:
            model = model_in(place)
        except FormatError:  # a cache of several revisions, as a rule
            return False
        # Who names the folder itself stands for where its links lead.
        if place != self.root and not Path(os.path.realpath(model)).is_relative_to(self.real):
            return False
        self.found.models.append(model)
        reason = f"its folder counts as one model, {model.relative_to(self.root)}"
        # Of a cache, or where exporters put ONNX files, the model lies further below.
        folders = [above for above in model.parents if above.is_relative_to(place)]
        others = [path for folder in folders for path in sorted(folder.iterdir())]
        beside = [
            path
            for path in others
            if not model.is_relative_to(path) and (path.is_dir() or not _DESCRIBING.fullmatch(path.name))
        ]
        parts = self._parts(model) if beside else ()
        left = [path for path in beside if path not in parts]
        harmful = self._harmful(left)
        for path in left:
            if path in harmful:  # whatever loads the folder may take it in place of the model
                self.found.models.append(path)
            else:
                self._skip(path, "is what snapshots link to" if _blobs(path) else reason)
        return True

    def _harmful(self, paths: Sequence[Path]) -> set[Path]:
        """Pickles among what lies beside a model that would do harm when they are loaded, or that no gate can read."""
        names = {str(path.relative_to(self.root)): path for path in paths if path.is_file()}
        pickles = [name for name in names if name.lower().endswith(_PICKLED)]
        told = _sorted(self.root, pickles, self.sort) if pickles else {}
        return {names[name] for name, one in told.items() if one.harmful or one.unread}

    def _parts(self, model: Path) -> Collection[Path]:
        """Files beside a model that are examined with it."""
        index = model.name.endswith(SUFFIX)
        if not index and not model.name.lower().endswith(".onnx"):
            return ()
        (told,) = _sorted(self.root, [str(model.relative_to(self.root))], self.sort).values()
        # A file that is called like a model may be one to others, whatever an ONNX file takes from it.
        own = [name for name in told.parts if index or not name.lower().endswith(_NAMED)]
        return [model.parent / name for name in own]

    def _passed_over(self, path: Path) -> str:
        """Why nobody looks into it; empty where somebody does."""
        if path.name.startswith(".") or path.name == "__MACOSX":
            return "is hidden"
        if path.is_symlink():
            target = Path(os.path.realpath(path))
            if path.is_dir():
                return "is a link to a folder"
            if not target.is_relative_to(self.real):
                return "is a link that leads out of the folder"
        if not path.is_dir() and not path.is_file():
            return "is no regular file"
        return ""

    def _skip(self, path: Path, reason: str) -> None:
        self.found.skipped[reason].append(str(path.relative_to(self.root)))


def _blobs(path: Path) -> bool:
    """Whether a cache keeps the content of its files there."""
    return path.name == "blobs" and (path.parent / "snapshots").is_dir()


def _told_apart(root: Path, files: Sequence[str], skipped: dict[str, list[str]], sort: Sort) -> list[str]:
    """The models among the files. A file that is called like one is taken for one: its report says what it is."""
    every = _sorted(root, files, sort)
    parts = {
        (os.path.dirname(name), part): (name, told.kind)  # noqa: PTH120
        for name, told in every.items()
        for part in told.parts
    }
    models = []
    for name, told in every.items():
        owner, kind = parts.get(os.path.split(name), ("", ""))
        # A model may claim another one's file; only shards are models themselves.
        if owner and owner != name and (not told.kind or kind == "safetensors"):
            skipped[f"belongs to {owner}"].append(name)
        elif told.kind or told.unread or told.harmful or name.lower().endswith(_NAMED):
            models.append(name)
        else:
            skipped[told.reason].append(name)
    return models


def _sorted(root: Path, files: Sequence[str], sort: Sort) -> dict[str, Sorted]:
    """Each file with what it is. One on which the gate fails is left to its examination, and stops no other; where it
    fails too often, all that are left are."""
    waiting = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)][::-1]
    every: dict[str, Sorted] = {}
    failures = 0
    while waiting:
        batch = waiting.pop()
        sizes = [(root / name).stat().st_size for name in batch if (root / name).is_file()]
        bounds = Bounds((1 << 30) + 4 * max(sizes, default=0), 10 + len(batch) + (sum(sizes) >> 23))
        try:
            told = sort(SortJob(model=root / Path(batch[0]).parts[0], files=tuple(batch)), bounds).files
            every.update(zip(batch, told, strict=True))
        except (Problem, ValueError) as problem:
            if isinstance(problem, Problem) and problem.exit_code is not ExitCode.NO_VERDICT:
                raise
            failures += 1
            if len(batch) == 1 or failures > _FAILURES:
                every.update((name, Sorted(unread=True)) for name in batch)
            else:
                half = len(batch) // 2
                waiting += [batch[half:], batch[:half]]
    return every

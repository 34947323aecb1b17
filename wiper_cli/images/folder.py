"""The clean folder: file names first, pictures streamed, three parts in memory.

A few threads decode. What does not decode is skipped and counted by reason, what had to be converted is counted by
what was done.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from wiper_cli.images.decode import FORMATS, Geometry, SkipError, decode
from wiper_cli.images.labels import LabelMode, by_name, number, orders
from wiper_cli.images.listing import walk
from wiper_cli.images.splits import Clean, Part
from wiper_cli.progress import Progress, silent
from wiper_cli.verdict import ExitCode, Problem

#: Share of select and of report; fit has the rest.
SHARE = 0.2
#: Fewest images of a part.
MINIMUM: Mapping[str, int] = {"fit": 40, "select": 20, "report": 20}
#: Files that a thread decodes at a time.
CHUNK = 8
#: Examples kept for each reason to skip.
EXAMPLES = 5


_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}


class Batch(NamedTuple):
    """``images`` uint8 [n,C,H,W], ``labels`` int64 [n] (-1 where unknown), ``indices`` int64 [n] into the
    folder's files."""

    images: Tensor
    labels: Tensor
    indices: Tensor


#: An image, or ``None``, with what was converted, or why it was left out.
_Decoded = tuple[Tensor | None, tuple[str, ...]]


def _decode_all(paths: Sequence[str], geometry: Geometry) -> list[_Decoded]:
    found: list[_Decoded] = []
    for path in paths:
        try:
            found.append(decode(path, geometry))
        except SkipError as reason:
            found.append((None, (str(reason),)))
    return found


@dataclass
class CleanFolder:
    """The files of a folder, sorted.

    ``files``: relative paths. ``labels``: int64 [N], -1 where unknown. ``origin``: a sentence on the labels.
    ``names``: of all classes: the model's own, else the folders'; empty where neither has any. ``skipped``
    (file → reason) and ``converted`` (file → what was done) grow as files are decoded; ``used`` counts the
    images of each part in memory. ``numbers``: folder → class number; ``orders``: these and every other way to read
    the folders (:func:`wiper_cli.images.labels.orders`), empty where names decide. ``strata``: what the parts are
    drawn by, the labels as first read. ``doubt``: a sentence where nothing decides on the order.
    """

    path: Path
    files: Sequence[str]
    labels: Tensor
    classes: int
    names: Sequence[str]
    labelled: bool
    origin: str
    skipped: dict[str, str] = field(default_factory=dict)
    converted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    used: dict[str, int] | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    orders: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    strata: Tensor | None = None
    doubt: str = ""
    margin: float | None = None
    _last: tuple[tuple[Geometry, int, int | None], Clean] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def sizes(self, sample: int = 200) -> Counter[tuple[int, int]]:
        """(height, width) of about ``sample`` images spread over the folder, from their headers alone and as
        stored, before any rotation."""
        found: Counter[tuple[int, int]] = Counter()
        for name in self.files[:: max(1, len(self.files) // sample)]:
            path = self.path / name
            with suppress(Exception):
                if path.is_file():
                    with Image.open(path, formats=FORMATS) as picture:
                        found[picture.height, picture.width] += 1
        return found

    def stream(
        self,
        geometry: Geometry,
        batch: int = 64,
        indices: Sequence[int] | Tensor | None = None,
        threads: int = 2,
        progress: Progress = silent,
    ) -> Iterator[Batch]:
        """Batches of the files at ``indices`` (default all), in order and without those that are skipped; the
        last one may be smaller. At most two batches are in memory beside the one in use."""
        chosen = range(len(self.files)) if indices is None else [int(i) for i in indices]
        groups = [chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK)]
        with ThreadPoolExecutor(max_workers=threads) as pool:
            waiting: deque[tuple[Sequence[int], Future[list[_Decoded]]]] = deque()
            ready: list[tuple[int, Tensor]] = []
            todo = iter(groups)
            done = 0
            for _ in groups:
                while len(waiting) * CHUNK < 2 * batch and (following := next(todo, None)) is not None:
                    paths = [str(self.path / self.files[index]) for index in following]
                    waiting.append((following, pool.submit(_decode_all, paths, geometry)))
                group, future = waiting.popleft()
                for index, (image, remarks) in zip(group, future.result(), strict=True):
                    self._note(self.files[index], image is None, remarks)
                    if image is not None:
                        ready.append((index, image))
                    if len(ready) == batch:
                        yield self._batch(ready)
                        ready = []
                done += len(group)
                progress("decode", done, len(chosen))
            if ready:
                yield self._batch(ready)

    def _note(self, file: str, left_out: bool, remarks: tuple[str, ...]) -> None:
        if left_out:
            self.skipped[file] = remarks[0]
        elif remarks:
            self.converted[file] = remarks

    def _batch(self, ready: Sequence[tuple[int, Tensor]]) -> Batch:
        indices = torch.tensor([index for index, _ in ready])
        return Batch(torch.stack([image for _, image in ready]).contiguous(), self.labels[indices], indices)

    def load(
        self,
        geometry: Geometry,
        indices: Sequence[int] | Tensor | None = None,
        threads: int = 2,
        progress: Progress = silent,
    ) -> Part:
        """The files at ``indices`` (all) as one part: one uint8 copy, skipped files left out."""
        count = len(self.files) if indices is None else len(indices)
        images = torch.empty(count, geometry.channels, geometry.height, geometry.width, dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.long)
        filled = 0
        for batch in self.stream(geometry, 64, indices, threads, progress):
            end = filled + len(batch.images)
            images[filled:end], labels[filled:end] = batch.images, batch.labels
            filled = end
        return Part(images[:filled], labels[:filled])

    def split(self, seed: int, max_images: int | None = None) -> dict[str, Tensor]:
        """Indices of the files of fit, select and report: at most ``max_images`` together, 60/20/20, in
        proportion to the classes, the same for the same seed and files.

        Raises :class:`Problem` (no verdict) when there are too few files or fewer than two classes.
        """
        if self.labelled and bool((self.labels == self.labels[0]).all()):
            raise Problem(
                f"{self.path}: all images are of one class; images of at least 2 classes are needed.",
                ExitCode.NO_VERDICT,
            )
        if max_images is not None and max_images < (needed := sum(MINIMUM.values())) <= len(self.files):
            raise Problem(f"--max-images {max_images} is too few; at least {needed} are needed.")
        generator = torch.Generator().manual_seed(seed)
        strata = self.labels if self.strata is None else self.strata
        order = _stratified(strata, generator)[:max_images]
        order = order[_stratified(strata[order], generator)]
        self._enough(len(order))
        small = {name: max(MINIMUM[name], int(SHARE * len(order))) for name in ("select", "report")}
        ends = [small["select"], sum(small.values())]
        select, report, rest = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
        return {"fit": rest.sort()[0], "select": select.sort()[0], "report": report.sort()[0]}

    def clean(
        self,
        geometry: Geometry,
        seed: int,
        max_images: int | None = None,
        threads: int = 2,
        progress: Progress = silent,
    ) -> Clean:
        """The three parts in memory, decoded. Labels are -1 when the folder has none.

        Asked again for the same, it gives the same copy. Raises :class:`Problem` (no verdict) when what decodes
        is too little for a part.
        """
        asked = (geometry, seed, max_images)
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        parts = {
            name: self.load(geometry, indices, threads, progress)
            for name, indices in self.split(seed, max_images).items()
        }
        self.used = {name: len(part) for name, part in parts.items()}
        for name, part in parts.items():
            # A damaged file or two may not decide; half of a part may.
            if len(part) < MINIMUM[name] / 2:
                self._enough(sum(self.used.values()), name)
        self._last = (asked, Clean(**parts))
        return self._last[1]

    def table(self, order: str) -> Tensor:
        """Present label → label under another of the ``orders``, int64 [classes]; -1 where no folder has the label."""
        table = torch.full((self.classes,), -1)
        for folder, label in self.numbers.items():
            table[label] = self.orders[order][folder]
        return table

    def renumbered(self, order: str) -> "CleanFolder":
        """The same images, in the same parts, under another of the ``orders``."""
        table, numbers = self.table(order), self.orders[order]
        names, last = self.names, self._last
        if list(names) == _named(self.numbers, self.classes):
            names = _named(numbers, self.classes)
        if last is not None:
            clean = last[1]
            parts = (
                Part(part.images, table[part.labels]) for part in (clean.fit, clean.select, clean.report)
            )
            last = last[0], Clean(*parts)
        strata = self.labels if self.strata is None else self.strata
        return replace(
            self, labels=table[self.labels], numbers=numbers, names=names, strata=strata, _last=last
        )

    def _enough(self, count: int, part: str = "") -> None:
        needed = sum(MINIMUM.values())
        if count < needed or part:
            where = f" (too few for the {part} part)" if part else ""
            raise Problem(
                f"{self.path}: {count} usable images{where}; at least {needed} are needed "
                f"({', '.join(f'{size} to {name}' for name, size in MINIMUM.items())}).",
                ExitCode.NO_VERDICT,
            )

    def describe(self) -> dict[str, Any]:
        """The report's ``clean`` mapping; accuracy is for somebody else to fill in."""
        left = [i for i, name in enumerate(self.files) if name not in self.skipped]
        counts = Counter(self.labels[left].tolist() if self.labelled else ())
        reasons: dict[str, list[str]] = {}
        for name, reason in sorted(self.skipped.items()):
            reasons.setdefault(reason, []).append(printable(name))
        done = Counter(what for converted in self.converted.values() for what in converted)
        return {
            "path": printable(str(self.path)),
            "images": len(left),
            "used": self.used,
            "labelled": self.labelled,
            "labels": self.origin,
            "classes": [
                {"name": printable(self.names[k]) if k < len(self.names) else str(k), "images": count}
                for k, count in sorted(counts.items())
            ],
            "skipped": [
                {"reason": reason, "count": len(names), "examples": names[:EXAMPLES]}
                for reason, names in sorted(reasons.items())
            ],
            "converted": [{"what": what, "count": count} for what, count in sorted(done.items())],
            "accuracy": None,
        }


def _stratified(labels: Tensor, generator: torch.Generator) -> Tensor:
    """An order of ``labels`` whose every beginning holds the classes in their proportions."""
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    sizes = Counter(labels[order].tolist())  # in the order of first occurrence
    ranks = torch.tensor([(i + 0.5) / n for n in sizes.values() for i in range(n)], dtype=torch.float64)
    # Ties are broken by chance, or the first class would lead every time.
    shuffle = torch.randperm(len(order), generator=generator)
    return order[shuffle[ranks[shuffle].argsort(stable=True)]]


def printable(name: str) -> str:
    """A file name as text that every report can carry; bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def read_folder(
    path: str | Path,
    model_classes: int,
    class_names: Sequence[str] | None = None,
    labels: LabelMode = "auto",
    known: Mapping[str, int] | None = None,
) -> CleanFolder:
    """Lists a folder of images; opens no file.

    Class sub-folders give labels: by the model's class names, else by numbers that are class numbers, else by
    sorted order. Images deeper down belong to the class folder above them. Without sub-folders the labels are
    left at -1 for the model's own predictions. Hidden files are passed over. ``known``: folder → class number of
    another folder, which stands where it has all the folders. Raises :class:`Problem`.
    """
    root = Path(path)
    if not root.exists():
        raise Problem(f"{root}: no such folder.")
    if not root.is_dir():
        raise Problem(f"{root} is not a folder.")
    try:
        found, folders = walk(root)
    except OSError as error:
        raise Problem(f"{error.filename or root} cannot be read: {error.strerror}.") from error
    if not found:
        raise Problem(f"{root} holds no files; a folder of images is needed.")
    names = list(class_names or ())
    loose = [file for file in found if os.sep not in file]
    if len(found) == len(loose) or labels == "predictions":
        why = "the folder has no class sub-folders" if len(found) == len(loose) else "as asked"
        origin = f"The labels are the model's own predictions: {why}."
        unknown = torch.full((len(found),), -1)
        return CleanFolder(root, found, unknown, model_classes, names, False, origin)
    _refuse_nesting(root, found, folders)
    if len(folders) > model_classes:
        raise Problem(f"{root} has {len(folders)} class folders and the model {model_classes} classes.")
    ways: Mapping[str, Mapping[str, int]] = {}
    if known and all(folder in known for folder in folders):
        chosen, origin = known, "The labels are those of the clean folders of the same names."
    else:
        chosen, origin = number(root, folders, model_classes, names, labels)
        if labels == "auto" and not by_name(folders, names):
            ways = orders(folders, model_classes)
    files, numbers, skipped = [], [], {}
    for file in found:
        folder = file.split(os.sep, 1)[0] if os.sep in file else ""
        if folder in chosen:
            files.append(file)
            numbers.append(chosen[folder])
        else:
            skipped[file] = "folder that names no class" if folder else "outside the class folders"
    if not files:
        raise Problem(f"{root}: none of the folders that hold images belongs to a class of the model.")
    if not names:
        names = _named(chosen, model_classes)
    result = CleanFolder(
        root, files, torch.tensor(numbers), model_classes, names, True, origin, numbers=chosen, orders=ways
    )
    result.skipped.update(skipped)
    return result


def _named(numbers: Mapping[str, int], classes: int) -> list[str]:
    folder_of = {number: folder for folder, number in numbers.items()}
    return [folder_of.get(number, str(number)) for number in range(classes)]


def _refuse_nesting(root: Path, found: Sequence[str], folders: Sequence[str]) -> None:
    """A folder of splits, or one level too high, is a slip that would give one class or two wrong ones."""
    direct = any(file.count(os.sep) == 1 for file in found)
    splits = all(folder.lower() in _SPLITS for folder in folders)
    if not direct and (len(folders) == 1 or splits):
        example = root / folders[0]
        raise Problem(f"{root} holds class folders one level deeper; name one of them, such as {example}.")

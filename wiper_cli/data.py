"""The clean folder: file names first, pictures streamed, three parts in memory.

Pillow decodes, in a few threads. Nothing is guessed about a file from its name: what does not decode is
skipped and counted by reason, what had to be converted is counted by what was done. Conversions follow what
the usual training loaders do (``convert("RGB")``): an alpha channel is dropped, not composed over a colour.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from wiper_cli.progress import Progress, silent
from wiper_cli.splits import Clean, Part
from wiper_cli.verdict import ExitCode, Problem

# Pillow warns of odd metadata and of large pictures: the first is harmless, the second has a limit here.
warnings.filterwarnings("ignore", module=r"PIL\.")

#: Larger pictures are skipped: a small file can claim any size.
MAX_PIXELS = 64_000_000
#: Formats that are tried. Not among them: those that start other programs (EPS) or hold no photographs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
#: Share of select and of report; fit has the rest.
SHARE = 0.2
#: Fewest images of a part.
MINIMUM: Mapping[str, int] = {"fit": 40, "select": 20, "report": 20}
#: Files that a thread decodes at a time.
CHUNK = 8
#: Examples kept for each reason to skip.
EXAMPLES = 5

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
RESAMPLE: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
#: How folders become labels; "auto" takes the first that fits of names, numbers, order.
LabelMode = Literal["auto", "names", "numbers", "order", "predictions"]

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}


@dataclass(frozen=True)
class Geometry:
    """What a picture is made into: ``channels`` 1 or 3, ``height`` x ``width`` pixels.

    ``resize``: "squash" scales to exactly that size; "crop" scales the short side to ``short_side``
    (``None``: until the size is just covered) and cuts the centre. A picture of the right size is not touched
    by "squash", nor by "crop" without ``short_side``. Downscaling averages (Pillow's filters).
    """

    channels: int
    height: int
    width: int
    resize: Literal["squash", "crop"] = "squash"
    short_side: int | None = None
    interpolation: Interpolation = "bilinear"

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return self.channels * self.height * self.width


class Batch(NamedTuple):
    """``images`` uint8 [n,C,H,W], ``labels`` int64 [n] (-1 where unknown), ``indices`` int64 [n] into the
    folder's files."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class SkipError(Exception):
    """A file that is left out; ``str`` is the reason under which it is counted."""


def decode(path: str, geometry: Geometry) -> tuple[Tensor, tuple[str, ...]]:
    """One file → uint8 [C,H,W] and what had to be converted; raises :class:`SkipError`, nothing else."""
    picture, converted = open_picture(path, geometry.channels)
    picture = fit(picture, geometry)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    shape = (geometry.height, geometry.width, geometry.channels)
    return pixels.reshape(shape).permute(2, 0, 1), converted


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


def open_picture(path: str, channels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """One file → a picture of mode "L" or "RGB", upright, and what had to be converted.

    Raises :class:`SkipError`.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise SkipError("not a regular file")
        if status.st_size == 0:
            raise SkipError("empty file")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise SkipError(f"larger than {MAX_PIXELS // 1_000_000} megapixels")
            return _convert(picture, channels)
    except SkipError:
        raise
    except Image.DecompressionBombError:
        raise SkipError(f"larger than {MAX_PIXELS // 1_000_000} megapixels") from None
    except UnidentifiedImageError:
        raise SkipError("not an image") from None
    except FileNotFoundError:
        raise SkipError("broken link or file that vanished") from None
    except PermissionError:
        raise SkipError("no permission to read") from None
    except Exception as error:  # decoders raise anything at all on damaged data
        raise SkipError("truncated" if "truncated" in str(error).lower() else "damaged") from None


def _convert(picture: Image.Image, channels: int) -> tuple[Image.Image, tuple[str, ...]]:
    done = []
    if getattr(picture, "is_animated", False):
        done.append("several frames: the first taken")
    tiles = getattr(picture, "tile", [])
    depth = str(tiles[0][3]) if tiles else ""
    picture.load()
    if picture.getexif().get(0x0112, 1) not in (0, 1):
        picture = ImageOps.exif_transpose(picture)
        done.append("rotated as its EXIF data say")
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        picture = _eight_bits(picture)
        done.append("more than 8 bits: scaled to 8")
    elif ";16" in depth:
        done.append("more than 8 bits: scaled to 8")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        done.append("alpha channel dropped")
    if mode in ("P", "PA"):
        done.append("palette resolved")
        picture = picture.convert("RGB")
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        done.append(f"{mode} converted to RGB")
    grey = picture.mode in ("1", "L", "LA", "La")
    if grey and channels == 3:
        done.append("grey replicated to three channels")
    if not grey and channels == 1:
        done.append("colour reduced to its luma")
        picture = picture.convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB"), tuple(done)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit and float grey to 0..255, since Pillow's own conversion clips instead of scaling."""
    if picture.mode.startswith("I;16"):
        picture = picture.convert("I")
    low, high = picture.getextrema()
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise SkipError("pixel values of unknown range")
    top = 65535.0 if picture.mode == "I" else 1.0 if high <= 1 else 255.0
    if not 0 <= low <= high <= top:
        raise SkipError("pixel values of unknown range")
    return picture.convert("F").point(lambda value: value * (255.0 / top) + 0.5).convert("L")


def fit(picture: Image.Image, geometry: Geometry) -> Image.Image:
    """A picture made ``geometry.height`` x ``geometry.width``."""
    wide, tall, width, height = *picture.size, geometry.width, geometry.height
    resample = RESAMPLE[geometry.interpolation]
    if geometry.resize == "squash" or (geometry.short_side is None and (wide, tall) == (width, height)):
        return picture if (wide, tall) == (width, height) else picture.resize((width, height), resample)
    if geometry.short_side is not None:
        short = geometry.short_side
        scaled = (short, int(short * tall / wide)) if wide <= tall else (int(short * wide / tall), short)
    elif width * tall >= height * wide:
        scaled = width, round(width * tall / wide)
    else:
        scaled = round(height * wide / tall), height
    if scaled[0] * scaled[1] > MAX_PIXELS:  # a hair of 1 x 100,000 pixels: cut before scaling
        keep_wide, keep_tall = wide * width / scaled[0], tall * height / scaled[1]
        box = (wide - keep_wide) / 2, (tall - keep_tall) / 2, (wide + keep_wide) / 2, (tall + keep_tall) / 2
        return picture.resize((width, height), resample, box)
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    return picture.resize(scaled, resample).crop((left, top, left + width, top + height))


@dataclass
class CleanFolder:
    """The files of a folder, sorted.

    ``files``: relative paths. ``labels``: int64 [N], -1 where unknown. ``origin``: a sentence on the labels.
    ``names``: of all classes: the model's own, else the folders'; empty where neither has any. ``skipped``
    (file → reason) and ``converted`` (file → what was done) grow as files are decoded; ``used`` counts the
    images of each part in memory.
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
        order = _stratified(self.labels, generator)[:max_images]
        order = order[_stratified(self.labels[order], generator)]
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
) -> CleanFolder:
    """Lists a folder of images; opens no file.

    Class sub-folders give labels: by the model's class names, else by numbers that are class numbers, else by
    sorted order. Images deeper down belong to the class folder above them. Without sub-folders the labels are
    left at -1 for the model's own predictions. Hidden files are passed over. Raises :class:`Problem`.
    """
    root = Path(path)
    if not root.exists():
        raise Problem(f"{root}: no such folder.")
    if not root.is_dir():
        raise Problem(f"{root} is not a folder.")
    try:
        found, folders = _walk(root)
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
    chosen, origin = _labels(root, folders, model_classes, names, labels)
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
        folder_of = {number: folder for folder, number in chosen.items()}
        names = [folder_of.get(number, str(number)) for number in range(model_classes)]
    result = CleanFolder(root, files, torch.tensor(numbers), model_classes, names, True, origin)
    result.skipped.update(skipped)
    return result


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """All files below ``root``, relative and sorted, and its direct sub-folders; none that are hidden."""
    files: list[str] = []
    top: list[str] = []

    def visit(place: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        status = Path(place).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link that leads back up
            return
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if not entry.is_dir():
                    files.append(prefix + entry.name)
                    continue
                if not prefix:
                    top.append(entry.name)
                visit(entry.path, prefix + entry.name + os.sep, above | {here})

    visit(str(root), "", frozenset())
    return sorted(files), sorted(top)


def _refuse_nesting(root: Path, found: Sequence[str], folders: Sequence[str]) -> None:
    """A folder of splits, or one level too high, is a slip that would give one class or two wrong ones."""
    direct = any(file.count(os.sep) == 1 for file in found)
    splits = all(folder.lower() in _SPLITS for folder in folders)
    if not direct and (len(folders) == 1 or splits):
        example = root / folders[0]
        raise Problem(f"{root} holds class folders one level deeper; name one of them, such as {example}.")


def _labels(
    root: Path, folders: Sequence[str], classes: int, names: Sequence[str], mode: LabelMode
) -> tuple[Mapping[str, int], str]:
    """Folder → class number, and a sentence on how."""
    matched = _by_name(folders, names)
    if mode == "names" or (mode == "auto" and matched):
        if not matched:
            raise Problem(f"{root}: no folder is named for a class of the model.")
        rest = len(folders) - len(matched)
        others = f"; {rest} that match none are left out" if rest else ""
        return matched, f"The labels are the folder names, matched with the model's class names{others}."
    numbers = _by_number(folders, classes)
    if mode == "numbers" or (mode == "auto" and numbers):
        if not numbers:
            raise Problem(f"{root}: the folders are not named for class numbers from 0 to {classes - 1}.")
        first = int(min(numbers, key=int)) - min(numbers.values())
        other = "" if sorted(numbers, key=int) == sorted(numbers) else ", not in alphabetical order"
        return numbers, f"The labels are the folder names, read as class numbers counted from {first}{other}."
    few = "" if len(folders) == classes else f", {len(folders)} folders for {classes} classes"
    return (
        {folder: number for number, folder in enumerate(folders)},
        f"The labels are the places of the folders in alphabetical order{few}: no class names to match.",
    )


def _by_name(folders: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """By whole names, by what stands before a comma, and by WordNet ids, as far as these are unique."""
    known: dict[str, set[int]] = {}
    for number, name in enumerate(names):
        for alias in {_plain(name), _plain(name.split(",")[0]), _wordnet(name)} - {""}:
            known.setdefault(alias, set()).add(number)
    found = {}
    for folder in folders:
        for alias in (_plain(folder), _wordnet(folder)):
            if len(known.get(alias, ())) == 1:
                found[folder] = next(iter(known[alias]))
                break
    return found


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _wordnet(name: str) -> str:
    found = re.match(r"n\d{8}(?!\d)", name)
    return found.group() if found else ""


def _by_number(folders: Sequence[str], classes: int) -> dict[str, int]:
    """Empty when the folders are no class numbers. Counted from 1 only where 1 to K are all there."""
    if not all(folder.isascii() and folder.isdigit() and len(folder) < 10 for folder in folders):
        return {}
    numbers = sorted(int(folder) for folder in folders)
    first = 1 if numbers == list(range(1, classes + 1)) else 0
    if len(set(numbers)) < len(numbers) or numbers[-1] - first >= classes:
        return {}
    return {folder: int(folder) - first for folder in folders}

"""Images for training: a folder of class folders, or a named data set of torchvision. All as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.nearest import nearest
from wiper_cli.verdict import ExitCode, Problem

#: Name → (class in torchvision.datasets, arguments of its training and of its test part).
NAMED: Mapping[str, tuple[str, Mapping[str, object], Mapping[str, object]]] = {
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
    "gtsrb": ("GTSRB", {"split": "train"}, {"split": "test"}),
    "fashion-mnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "stl10": ("STL10", {"split": "train"}, {"split": "test"}),
}
#: Folders that hold the test part beside ``train``.
TEST_FOLDERS = ("test", "val", "validation")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
#: Of a folder without a test part, one image in so many of each class becomes one.
TEST_SHARE = 5


@dataclass(frozen=True)
class Images:
    """``images`` uint8 [N,C,H,W], ``labels`` int64 [N], on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: Tensor) -> Images:
        return Images(self.images[places], self.labels[places])


@dataclass(frozen=True)
class Dataset:
    """``mean``, ``std``: of the training images per channel, in 0..1, as the networks subtract and divide."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


@lru_cache(maxsize=1)
def load(data: str, root: Path | None = None, size: int | None = None, download: bool = False) -> Dataset:
    """``data``: a folder with ``train/CLASS/*`` and ``test/CLASS/*`` (or ``CLASS/*`` alone, of which every
    fifth image becomes test), the name of such a folder in ``root``, or a name of :data:`NAMED`, found in
    ``root`` as torchvision keeps it. ``size``: side to which images are scaled; by default their own.

    Raises :class:`Problem` when there is no such data, when it has fewer than two classes, or when images
    differ in size and no ``size`` was given.
    """
    folder = _place(data, root)
    if folder is not None:
        name = folder.name or folder.resolve().name
        train, test, classes = _folder(folder, size)
    elif data in NAMED:
        name, (train, test, classes) = data, _named(data, root, size, download)
    else:
        raise Problem(f"{data!r} is neither a folder of images nor a known data set{nearest(data, NAMED)}.")
    if len(classes) < 2:
        raise Problem(f"The data {data!r} has {len(classes)} class; a classifier needs at least two.")
    mean, std = _statistics(train.images)
    return Dataset(name, train, test, classes, mean, std)


def load_test(data: str, root: Path | None = None, size: int | None = None) -> tuple[Images, tuple[str, ...]]:
    """The test part and the classes as :func:`load` gives them; of a folder with a test part nothing else is read."""
    folder = _place(data, root)
    test = None if folder is None else next((folder / n for n in TEST_FOLDERS if (folder / n).is_dir()), None)
    if folder is not None and test is not None and (folder / "train").is_dir():
        return _read(test, None, size)
    whole = load(data, root, size)
    return whole.test, whole.classes


def _place(data: str, root: Path | None) -> Path | None:
    """The folder of that name, as it stands or in ``root``."""
    return next((f for f in (Path(data), *([root / data] if root else [])) if f.is_dir()), None)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    counts = torch.stack(
        [images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])]
    ).double()
    levels, share = torch.arange(256, dtype=torch.float64) / 255, counts / counts.sum(1, keepdim=True)
    mean = share @ levels
    std = (share @ levels.square() - mean.square()).clamp(min=1e-6).sqrt()
    return tuple(round(m, 4) for m in mean.tolist()), tuple(round(s, 4) for s in std.tolist())


def _folder(folder: Path, size: int | None) -> tuple[Images, Images, tuple[str, ...]]:
    train = folder / "train"
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if not train.is_dir() or test is None:
        whole, classes = _read(folder, None, size)
        place = torch.arange(len(whole))
        for label in range(len(classes)):
            own = (whole.labels == label).nonzero().flatten()
            place[own] = torch.arange(len(own))
        held = place % TEST_SHARE == TEST_SHARE - 1
        return whole[~held], whole[held], classes
    found, classes = _read(train, None, size)
    return found, _read(test, classes, size)[0], classes


def _read(folder: Path, classes: tuple[str, ...] | None, size: int | None) -> tuple[Images, tuple[str, ...]]:
    try:
        names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        files = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
    except OSError as error:
        raise Problem(f"The folder {str(folder)!r} cannot be read: {error.strerror}.") from error
    if classes is not None and names != classes:
        raise Problem(f"{str(folder)!r} has other class folders than the training images.")
    if not files:
        raise Problem(f"{str(folder)!r} holds no images in class folders.")

    def one(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                shown = picture if picture.mode == "L" else picture.convert("RGB")
                if size is not None and shown.size != (size, size):
                    shown = shown.resize((size, size), Image.Resampling.BICUBIC)
                return np.asarray(shown)
        except (OSError, ValueError) as error:
            raise Problem(f"The image {str(path)!r} cannot be read: {error}.") from error

    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(one, (path for path, _ in files)))
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise Problem(f"The images of {str(folder)!r} differ in size or colour; give --size to scale them.")
    return Images(_tensor(np.stack(arrays)), torch.tensor([label for _, label in files])), names


def _tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [N,H,W] or [N,H,W,C] → [N,C,H,W]."""
    shown = torch.from_numpy(np.ascontiguousarray(pixels))
    return (shown[:, None] if shown.dim() == 3 else shown.permute(0, 3, 1, 2)).contiguous()


def _named(
    name: str, root: Path | None, size: int | None, download: bool
) -> tuple[Images, Images, tuple[str, ...]]:
    kind, *arguments = NAMED[name]
    parts, classes = [], None
    for given in arguments:
        try:
            found = getattr(import_torchvision().datasets, kind)(
                str(root or Path.cwd()), download=download, **dict(given)
            )
        except RuntimeError as error:
            raise Problem(
                f"The data set {name} is not in {str(root or Path.cwd())!r}; give its --root, or --download."
            ) from error
        except OSError as error:
            raise Problem(f"The data set {name} could not be fetched: {error}.", ExitCode.USAGE) from error
        parts.append(_collected(found, size))
        classes = classes or getattr(found, "classes", None)
    count = int(parts[0].labels.max()) + 1
    return parts[0], parts[1], tuple(map(str, classes or range(count)))


def _collected(found: object, size: int | None) -> Images:
    arrays, labels = [], []
    for picture, label in found:  # type: ignore[attr-defined]
        side = size or (32 if picture.width != picture.height else picture.width)
        shown = (
            picture
            if picture.size == (side, side)
            else picture.resize((side, side), Image.Resampling.BICUBIC)
        )
        arrays.append(np.asarray(shown))
        labels.append(int(label))
    if len({array.shape for array in arrays}) > 1:
        raise Problem("The images differ in size; give --size to scale them.")
    return Images(_tensor(np.stack(arrays)), torch.tensor(labels))

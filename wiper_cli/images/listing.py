"""The names in a folder of images, links followed. Standard library only: the parent process lists, too."""

import os
from collections.abc import Callable
from pathlib import Path

from wiper_cli.verdict import Problem

#: Most that a folder may hold, letters of all their names, and how deep. ImageNet has 22,000 classes, and 1.3 million
#: files of the usual 1,000; links that lead on to links make more of a few than any machine can count.
MOST_FILES, MOST_FOLDERS, MOST_LETTERS, DEEPEST = 4_000_000, 30_000, 1 << 28, 32
#: Bytes of a picture at most: as many as the largest that is decoded has, uncompressed, in 16 bits.
MOST_BYTES = 1 << 30


def walk(root: Path, enter: Callable[[Path], None] = lambda _: None) -> tuple[list[str], list[str]]:
    """All files below ``root``, relative and sorted, and its direct sub-folders; none that are hidden. ``enter`` is
    told every folder before it is read.

    Raises :class:`Problem` where there are too many, OSError where one cannot be read."""
    files: list[str] = []
    top: list[str] = []
    folders = letters = 0

    def visit(place: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        nonlocal folders, letters
        status = Path(place).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link that leads back up
            return
        folders += 1
        if len(above) > DEEPEST or folders > MOST_FOLDERS:
            many = (
                f"more than {MOST_FOLDERS:,} folders"
                if folders > MOST_FOLDERS
                else f"folders {DEEPEST} levels deep"
            )
            raise Problem(f"{root} holds {many}, links followed; name a folder with one sub-folder a class.")
        enter(Path(place))
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if not _is_folder(entry):
                    if len(files) == MOST_FILES:
                        raise Problem(f"{root} holds more than {MOST_FILES:,} files; name a smaller folder.")
                    files.append(prefix + entry.name)
                    letters += len(files[-1])
                    if letters > MOST_LETTERS:
                        raise Problem(
                            f"{root} holds names that are too long together; name a smaller folder."
                        )
                    continue
                if not prefix:
                    top.append(entry.name)
                visit(entry.path, prefix + entry.name + os.sep, above | {here})

    visit(str(root), "", frozenset())
    return sorted(files), sorted(top)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere is a file that will be left out."""
    try:
        return entry.is_dir()
    except OSError:
        return False

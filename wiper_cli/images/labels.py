"""How folders become labels: by the model's class names, by numbers, or by order."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from formats.identify import MAX_SIDECAR
from formats.sidecar import names_in
from wiper_cli.scratch import read_whole
from wiper_cli.verdict import Problem

#: How folders become labels; "auto" takes the first that fits of names, numbers, order.
LabelMode = Literal["auto", "names", "numbers", "order", "predictions"]


def number(
    root: Path, folders: Sequence[str], classes: int, names: Sequence[str], mode: LabelMode
) -> tuple[Mapping[str, int], str]:
    """Folder → class number, and a sentence on how."""
    matched = by_name(folders, names)
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


def named(path: Path, classes: int) -> tuple[str, ...]:
    """The names of ``classes`` classes in a file of the user's (:func:`formats.sidecar.names_in`); raises Problem."""
    names = names_in(read_whole(path, MAX_SIDECAR), classes)
    if names is None:
        raise Problem(
            f"--classes: {path} does not give the names of {classes} classes, one a line or as JSON."
        )
    return names


def orders(folders: Sequence[str], classes: int) -> dict[str, dict[str, int]]:
    """Every way to read ``folders`` as class numbers that loaders are known to take: what it is called → folder →
    class number; of ways that come to the same only the first."""
    found: dict[str, dict[str, int]] = {}
    sorts: dict[str, Sequence[str]] = {}
    if all(folder.isascii() and folder.isdigit() and len(folder) < 10 for folder in folders):
        values = {folder: int(folder) for folder in folders}
        if len(set(values.values())) == len(folders):
            for first in (0, 1):
                if all(first <= value < classes + first for value in values.values()):
                    numbers = {folder: value - first for folder, value in values.items()}
                    found[f"numbers counted from {first}"] = numbers
            sorts["numeric order"] = sorted(folders, key=int)
    sorts["the order of strings, as torchvision's ImageFolder"] = sorted(folders)
    sorts["natural order, as timm"] = sorted(folders, key=_natural)
    found |= {name: {folder: i for i, folder in enumerate(order)} for name, order in sorts.items()}
    names = list(found)
    return {
        name: found[name] for i, name in enumerate(names) if found[name] not in [found[n] for n in names[:i]]
    }


def _natural(folder: str) -> list[str | int]:
    """Digits as numbers and letters without case: timm.data.readers.class_map."""
    parts = re.split("([0-9]+)", folder.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def by_name(folders: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Folder → class number by whole names, by what stands before a comma, and by WordNet ids, where unique."""
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

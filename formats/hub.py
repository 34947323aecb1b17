"""Folders as hubs lay them out: which file in one is the model, and which links in one are its own.

A cache of huggingface_hub keeps the content of files in ``blobs/`` and links to it from ``snapshots/REVISION/``.
"""

from __future__ import annotations

import os
from pathlib import Path

from formats.errors import Unreadable, Unsupported
from formats.safetensors.shards import SUFFIX

#: What a model is called, below the folder, the safest to read first.
USUAL = (
    "model.safetensors", "model.safetensors.index.json", "model.onnx", "onnx/model.onnx", "model.pt",
    "pytorch_model.bin",
)  # fmt: skip
#: Suffixes of model files with other names.
SUFFIXES = (".safetensors", ".onnx", ".pt", ".pth", ".torchscript", ".bin")
#: What describes the weights beside it.
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
#: Most entries of a folder that are looked at.
_MOST = 10_000


def model_in(folder: Path) -> Path:
    """The model file of a folder: one that is called as usual, else the only one; of a cache, that of its snapshot.

    Raises :class:`Unreadable` for a folder without a model, :class:`Unsupported` for one with several.
    """
    try:
        folder = _snapshot(folder)
        usual = next((folder / name for name in USUAL if (folder / name).is_file()), None)
        if usual is not None:
            return usual
        with os.scandir(folder) as entries:
            names = sorted(e.name for _, e in zip(range(_MOST), entries, strict=False))
        indices = [name for name in names if name.endswith(SUFFIX)]
        files = indices or [name for name in names if name.endswith(SUFFIXES)]
    except OSError as error:
        raise Unreadable(f"{folder} cannot be read: {error.strerror}.") from error
    if not files:
        raise Unreadable(
            f"{folder} is a directory without a model file; name a model file, or the folder of one."
        )
    if len(files) > 1:
        raise Unsupported(f"{folder} holds several models ({', '.join(files[:5])}); name one of them.")
    return folder / files[0]


def holds_one(folder: Path) -> bool:
    """Whether a folder is laid out as that of one model: with weights and what describes them, with the index of
    shards, or as a cache keeps a repository. Raises OSError where it cannot be read."""
    if (folder / "snapshots").is_dir():
        return True
    described = any((folder / name).is_file() for name in _DESCRIPTIONS)
    indices = [name for name in os.listdir(folder) if name.endswith(SUFFIX)]  # noqa: PTH208
    return len(indices) == 1 or (described and any((folder / name).is_file() for name in USUAL))


def _snapshot(folder: Path) -> Path:
    """Of the folder of a repository in a cache, the files of its main branch, or of the only revision there."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    revisions = sorted(path for path in snapshots.iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file():
        with main.open("rb") as file:
            named = file.read(100).decode(errors="replace").strip()
        revisions = [path for path in revisions if path.name == named] or revisions
    if len(revisions) != 1:
        raise Unsupported(f"{folder} holds {len(revisions)} snapshots; name the folder of one of them.")
    return revisions[0]


def blob(link: Path) -> tuple[Path, str] | None:
    """(folder of the contents, name there) of a link of a cache to the contents of its own repository; ``None`` for any
    other link, and where that folder is one. ``link``: an absolute path whose folders are no links."""
    snapshot = next((above for above in link.parents if above.parent.name == "snapshots"), None)
    if snapshot is None:
        return None
    blobs = snapshot.parents[1] / "blobs"
    target = Path(os.path.normpath(link.parent / link.readlink()))
    return (blobs, target.name) if target.parent == blobs and not blobs.is_symlink() else None

"""Writing a purified file: a verified file under its final name, or nothing at all.

The new files are laid out in a hidden folder beside their destination, measured there by a fresh process through
the runtime that will serve them, and renamed into place only then.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from formats import Source
from wiper_cli.verdict import Problem


@dataclass(frozen=True)
class Staged:
    """Files in the hidden folder; ``model`` is the one under its final name."""

    folder: Path
    model: Path
    sha256: str
    size: int
    force: bool = False


def check_destination(output: Path, original: Path, force: bool) -> None:
    """Refuses, before any work, a destination that exists, equals the input, or cannot be written to."""
    folder = output.absolute().parent
    if not folder.is_dir():
        raise Problem(f"The folder of the output, {folder}, does not exist.")
    if output.is_dir():
        raise Problem(f"The output {output} is a folder; name a file.")
    if output.exists() and original.exists() and output.samefile(original):
        raise Problem("The output is the input file itself; name another file with -o.")
    if output.exists() and not force:
        raise Problem(f"{output} exists already; --force replaces it.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Problem(f"Nothing can be written to {folder}: {error.strerror}.") from error


def check_companions(output: Path, source: Source, force: bool, original: Path | None = None) -> None:
    """Refuses a destination where the external files of the purified model would replace others.

    Those of ``original``, the model file being purified, are not replaced even with ``force``.
    """
    folder = output.absolute().parent
    own = original is not None and folder.samefile(original.absolute().parent)
    for location in source.files:
        place = folder / location
        if location == output.name:
            raise Problem(f"The model keeps tensors in {location!r}; name another output file with -o.")
        if own:
            raise Problem(
                f"The purified model needs a {location!r} of its own, and {place} belongs to the original; "
                "choose another folder with -o."
            )
        if place.exists() and not force:
            raise Problem(f"{place}, which the model needs beside it, exists already; choose another folder.")


@contextmanager
def staged(output: Path, source: Source, files: Mapping[str, bytes], force: bool) -> Iterator[Staged]:
    """Lays out the purified files and yields them; whatever is still there afterwards is removed.

    ``files``: result of ``formats.write_edit``: "" is the model file, other keys external files that changed.
    External files that did not change are laid out too, since the model names them.
    """
    parts = {**source.files, **{name: data for name, data in files.items() if name}}
    model = files.get("", source.data)
    folder = output.absolute().parent
    check_companions(output, source, force)
    try:
        hidden = Path(tempfile.mkdtemp(prefix=".wiper-", dir=folder))
    except OSError as error:
        raise Problem(f"Nothing can be written to {folder}: {error.strerror}.") from error
    try:
        try:
            for location, data in {**parts, output.name: model}.items():
                (hidden / location).write_bytes(data)
        except OSError as error:
            raise Problem(
                f"{output} cannot be written: {error.strerror}; nothing was left behind."
            ) from error
        yield Staged(
            hidden,
            hidden / output.name,
            hashlib.sha256(model).hexdigest(),
            len(model) + sum(map(len, parts.values())),
            force,
        )
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def commit(stage: Staged) -> None:
    """Renames the staged files into place, the model last; what has appeared there meanwhile is kept."""
    folder = stage.folder.parent
    others = [path for path in stage.folder.iterdir() if path != stage.model]
    present = [path.name for path in (*others, stage.model) if (folder / path.name).exists()]
    if present and not stage.force:
        raise Problem(f"{folder / present[0]} was written by something else meanwhile; --force replaces it.")
    try:
        for path in [*others, stage.model]:
            path.replace(folder / path.name)
    except OSError as error:
        raise Problem(f"{folder / stage.model.name} cannot be written: {error.strerror}.") from error

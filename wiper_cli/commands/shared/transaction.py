"""Writing a purified file: a verified file under its final name, or nothing at all.

The new files are laid out in a hidden folder beside their destination and measured there by a fresh process through
the runtime that will serve them. Then what the model keeps outside gets its place, under names that stand nowhere yet
(``formats.own_names``), and last the model: whenever a run is killed, a reader finds the old model with its data or
the new one with its own.
"""

import filecmp
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from formats import Source
from formats.write import is_own
from wiper_cli.scratch import HIDDEN, Claim, claimed, names_in, sync, write_synced
from wiper_cli.verdict import Problem


@dataclass(frozen=True)
class Destination:
    """Where the purified ``original`` goes, and the hidden folder beside it: ours alone while the run lasts."""

    output: Path
    original: Path
    claim: Claim
    force: bool = False

    @property
    def folder(self) -> Path:
        return self.claim.files


@dataclass(frozen=True)
class Staged:
    """The files in the hidden folder; ``model`` is the one under its final name, ``data`` what it keeps outside."""

    model: Path
    data: tuple[str, ...]
    sha256: str
    size: int


@contextmanager
def reserved(output: Path, original: Path, force: bool) -> Iterator[Destination]:
    """Refuses, before any work, a destination that exists, equals the input, cannot be written to, or that another
    run is about to write; removes what a killed run left there. Afterwards whatever was not committed is removed."""
    folder = output.absolute().parent
    if not folder.is_dir():
        raise Problem(f"The folder of the output, {folder}, does not exist.")
    if output.is_dir():
        raise Problem(f"The output {output} is a folder; name a file.")
    if output.exists() and original.exists() and output.samefile(original):
        raise Problem("The output is the input file itself; name another file with -o.")
    if output.exists() and not output.is_file():
        raise Problem(f"The output {output} is no regular file; name another.")
    if os.path.lexists(output) and not force:
        raise Problem(f"{output} exists already; --force replaces it.")
    with ExitStack() as stack:
        try:
            hidden = stack.enter_context(claimed(folder, HIDDEN, output.name))
        except OSError as error:
            raise Problem(f"Nothing can be written to {folder}: {error.strerror}.") from error
        yield Destination(output, original, hidden, force)


def lay_out(place: Destination, source: Source, files: Mapping[str, bytes]) -> Staged:
    """Writes the purified ``files`` of ``source`` (``formats.own_names``) into the hidden folder."""
    try:
        mode = _mode(place, source)
        for name, data in {**source.sidecars, **files}.items():  # what opening asks of, too
            write_synced(place.folder / name, data, mode)
    except OSError as error:
        raise Problem(
            f"{place.output} cannot be written: {error.strerror}; nothing was left behind."
        ) from error
    return Staged(
        place.folder / place.output.name,
        tuple(name for name in files if name != place.output.name),
        hashlib.sha256(files[place.output.name]).hexdigest(),
        sum(map(len, files.values())),
    )


def _mode(place: Destination, source: Source) -> int:
    """What all files of the original allow; their group counts only where the new files get the same one."""
    mode, group = 0o666, place.folder.stat().st_gid
    for path in (place.original, *(place.original.parent / name for name in source.files)):
        try:
            status = path.stat()
        except OSError:  # gone meanwhile
            return 0o600
        mode &= status.st_mode if status.st_gid == group else status.st_mode & ~stat.S_IRWXG
    return mode | stat.S_IRUSR


def commit(place: Destination, stage: Staged) -> None:
    """Gives the staged files their names, the model last; what has appeared there meanwhile is kept."""
    output = place.output.absolute()
    folder = output.parent
    try:
        new = {name for name in stage.data if not os.path.lexists(folder / name)}
        for name in {*stage.data} - new:
            if not filecmp.cmp(place.folder / name, folder / name, shallow=False):
                raise Problem(
                    f"{folder / name}, which the model needs, exists already and is something else."
                )
        # The model that is replaced may be anybody's, and name the data of another one.
        old = (
            {path.name for path in folder.iterdir() if is_own(path.name, output.name)} if place.force else ()
        )
        place.claim.promise(output.name, new | names_in(output, old))
        for name in stage.data:
            (place.folder / name).replace(folder / name)
        sync(folder)
        _put(stage.model, output, place.force)
        sync(folder)
    except FileExistsError as error:
        raise Problem(f"{output} was written by something else meanwhile; --force replaces it.") from error
    except OSError as error:
        raise Problem(f"{output} cannot be written: {error.strerror}.") from error


def _put(staged: Path, output: Path, force: bool) -> None:
    """A link, unlike renaming, replaces nothing."""
    if not force:
        try:
            os.link(staged, output)
            return
        except FileExistsError:
            raise
        except OSError:  # a disk without links
            if os.path.lexists(output):
                raise FileExistsError(output) from None
    staged.replace(output)

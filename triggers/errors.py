"""The one refusal of this package, and what is refused before a library sees it."""

from pathlib import Path


class TriggerError(ValueError):
    """The trigger does not fit these images, or this model; one sentence says why."""


def require_file(path: str | Path) -> None:
    """Raises :class:`TriggerError` for a pipe, a device or a folder: the libraries that read files would wait."""
    if Path(path).exists() and not Path(path).is_file():
        raise TriggerError(f"{path} cannot be read: it is no regular file.")

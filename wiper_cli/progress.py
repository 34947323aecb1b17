"""How long work says where it is: a function of (stage, done, total), nothing more."""

from typing import Protocol


class Progress(Protocol):
    """Called from time to time; ``total`` 0 means unknown. Must be cheap."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """The progress of somebody who does not want to know."""

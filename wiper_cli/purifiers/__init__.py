"""Purifiers: a model and clean images in, new weights out. The first of the table is the default.

Importing this package imports no torch, so that a command can list methods and their options at once.
"""

from __future__ import annotations

from typing import Final

from wiper_cli.purifiers.contract import Purifier
from wiper_cli.purifiers.settings import FineTuning, Unlearn, Wiper

METHODS: Final[dict[str, type[Purifier]]] = {
    "unlearn": Unlearn,
    "wiper": Wiper,
    "fine-tuning": FineTuning,
}

"""Universal image transforms with free parameters: what a detector recovers and a purifier unlearns.

They are our own guesses at an unknown trigger. Nothing here knows an attack (see the walls in DESIGN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Recovered:
    """A universal transform that sends images to ``target``.

    ``family``: key of :data:`FAMILIES` (``additive``, ``patch``, ``sparse``, ``warp``, ``smooth``, ``square``).
    ``parameters``: tensors by name, without a batch dimension, on the CPU. ``facts``: numbers for a report
    (place, size, colour, success on held-out images, …).
    """

    family: str
    target: int
    parameters: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

"""Which architectures have these tensor names and shapes: look-up in an index shipped as data.

A fingerprint is a digest of the sorted (name, shape) pairs without the class-dependent tensors and without
the counters of batch norms. It needs no torch. Shapes do not show strides, activations, padding or the number of
attention heads, so several architectures can share one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Match:
    """One architecture that fits: ``library/name``, arguments of its factory, number of classes."""

    library: str
    name: str
    arguments: Mapping[str, Any]
    classes: int


def index_path(library: str) -> Path:
    """The shipped index of one library."""
    return Path(__file__).with_name("index") / f"{library}.json.gz"


def is_counter(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the counter of a batch norm, which takes no part in the network: one number at most."""
    return name.endswith("num_batches_tracked") and math.prod(shape) <= 1


def fingerprint(shapes: Shapes, head: tuple[str, ...]) -> str:
    """16 hex digits; ``head`` are the names of tensors that grow with the number of classes."""
    digest = hashlib.sha256()
    for name in sorted(shapes):
        if name not in head and not is_counter(name, shapes[name]):
            digest.update(f"{name} {','.join(map(str, shapes[name]))}\n".encode())
    return digest.hexdigest()[:16]


@cache
def load_index(library: str) -> dict[str, Any]:
    """``{"version", "heads": [[tensor, …]], "models": {key: {"name", "arguments", "head", "digest"}}}``."""
    found: dict[str, Any] = json.loads(gzip.decompress(index_path(library).read_bytes()))
    return found


def look_up(shapes: Shapes) -> list[Match]:
    """Every indexed architecture that fits, torchvision's first, then by length of name."""
    found: list[Match] = []
    for library in LIBRARIES:
        index = load_index(library)
        digests: dict[int, tuple[str, int]] = {}
        for number, head in enumerate(index["heads"]):
            classes = {shapes[name][0] if shapes.get(name) else 0 for name in head}
            if len(classes) == 1 and 0 not in classes:
                digests[number] = (fingerprint(shapes, tuple(head)), classes.pop())
        fitting = [
            Match(library, model["name"], model["arguments"], digests[model["head"]][1])
            for model in index["models"]
            if model["head"] in digests and digests[model["head"]][0] == model["digest"]
        ]
        # Of equal names and shapes, timm's is torchvision's own network.
        known = {match.name for match in found}
        found += sorted(
            (match for match in fitting if match.name not in known),
            key=lambda match: (len(match.name), match.name),
        )
    return found

"""Names of the networks that a file of tensors can be opened as; no library of networks is loaded for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from formats.safetensors.fingerprint import LIBRARIES, load_index

#: Classes of transformers that are opened: from an image to logits, and nothing besides.
TRANSFORMERS = (
    "BeitForImageClassification", "BitForImageClassification", "ConvNextForImageClassification",
    "ConvNextV2ForImageClassification", "CvtForImageClassification", "Data2VecVisionForImageClassification",
    "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "Dinov2ForImageClassification",
    "Dinov2WithRegistersForImageClassification", "EfficientNetForImageClassification",
    "FocalNetForImageClassification", "LevitForImageClassification", "LevitForImageClassificationWithTeacher",
    "MobileNetV1ForImageClassification", "MobileNetV2ForImageClassification", "MobileViTForImageClassification",
    "MobileViTV2ForImageClassification", "PoolFormerForImageClassification", "PvtForImageClassification",
    "PvtV2ForImageClassification", "RegNetForImageClassification", "ResNetForImageClassification",
    "SegformerForImageClassification", "SwiftFormerForImageClassification", "SwinForImageClassification",
    "Swinv2ForImageClassification", "ViTForImageClassification", "ViTMSNForImageClassification",
)  # fmt: skip

#: Research networks by what they are called, N and M being numbers that the tensors tell.
RESEARCH = (
    "resnetN", "resnetN-maxpool", "preact-resnetN", "wrn-N-M", "vggN", "vggN-bn", "resnet9", "resnet9-sequential",
)  # fmt: skip


@cache
def known() -> Mapping[str, tuple[str, ...]]:
    """Library → names, as ``--arch`` takes them behind ``LIBRARY/``."""
    indexed = {
        library: tuple(sorted({model["name"] for model in load_index(library)["models"]}))
        for library in LIBRARIES
    }
    return {**indexed, "transformers": TRANSFORMERS, "research": RESEARCH}


def called(wanted: str) -> list[str]:
    """The full names of all networks of this name, which may be full itself."""
    found = [
        f"{library}/{name}"
        for library, names in known().items()
        for name in names
        if wanted in (name, f"{library}/{name}")
    ]
    plain = wanted.removeprefix("research/")
    if any(re.fullmatch(re.sub("[NM]", r"\\d+", pattern), plain) for pattern in RESEARCH):
        found.append(f"research/{plain}")
    return list(dict.fromkeys(found))


def absent(wanted: str) -> str:
    """A sentence's beginning on a name that no network which fits the file has."""
    if found := called(wanted):
        return f"{' and '.join(found)} {'does' if len(found) == 1 else 'do'} not fit the tensors of this file"
    every = [
        spelled
        for library, names in known().items()
        for name in names
        for spelled in (name, f"{library}/{name}")
    ]
    near = get_close_matches(wanted[:80], every, 1)
    said = f"; the nearest is {near[0]!r}" if near else ""
    return f"No architecture is called {wanted!r}{said} (wiper architectures lists them)"

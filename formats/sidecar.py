"""Hints from small files beside a model: architecture, preprocessing, class names. Standard library only.

They come from whoever made the model: whatever is not of the type and size that an honest one has is passed over, and
nothing in them is taken for the name of a file.

Understood: timm's ``config.json``, Hugging Face's ``config.json`` and ``preprocessor_config.json``, and the
same keys in ``<stem>.json`` or, as strings, in the metadata of the model file itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from formats.model import Manifest, Preprocessing, Source

#: ``resample`` of Hugging Face, which is Pillow's enumeration.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

#: Largest side of an image, in pixels, and smallest part of it that a crop leaves.
MAX_SIDE, LEAST_CROP = 1024, 0.5
#: What a mean stays below, and what a standard deviation lies between; images of 0..255 included.
MAX_MEAN, STD = 1e3, (1e-4, 1e3)
#: Longest name of an architecture or a class.
MAX_NAME = 200


def descriptions(source: Source, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Every readable description by the name of its file; the file's own metadata last, as "metadata"."""
    found = {name: _object(content) for name, content in source.sidecars.items()}
    found["metadata"] = {key: _decoded(value) for key, value in manifest.metadata.items()}
    return {name: content for name, content in found.items() if content}


def architecture_hint(source: Source, manifest: Manifest) -> tuple[str, str] | None:
    """(name of an architecture, where it stands), e.g. ("timm/resnet50" or "transformers/ViTForImageClassification",
    "config.json")."""
    for place, content in descriptions(source, manifest).items():
        name = content.get("architecture", content.get("arch"))
        if isinstance(name, str) and 0 < len(name) <= MAX_NAME:
            is_timm = "pretrained_cfg" in content and "/" not in name
            return ("timm/" + name if is_timm else name), place
        classes = content.get("architectures")
        if isinstance(classes, list) and len(classes) == 1 and _is_name(classes[0]):
            return f"transformers/{classes[0]}", place
    return None


def preprocessing_hint(source: Source, manifest: Manifest) -> Preprocessing | None:
    """Mean, standard deviation and size as a description gives them; ``None`` when none does."""
    found = (preprocessing_in(content, place) for place, content in descriptions(source, manifest).items())
    return next((one for one in found if one is not None), None)


def preprocessing_in(content: Mapping[str, Any], place: str) -> Preprocessing | None:
    """What one description says; ``None`` where it gives neither mean and standard deviation nor a size."""
    nested = content.get("pretrained_cfg")
    values = nested if isinstance(nested, dict) else content
    mean = _numbers(values.get("mean", values.get("image_mean")), -MAX_MEAN, MAX_MEAN)
    std = _numbers(values.get("std", values.get("image_std")), *STD)
    size, resize = _size(values)
    if mean is None and std is None and size is None:
        return None
    number = values.get("resample")
    method = values.get("interpolation", _RESAMPLE.get(number) if type(number) is int else None)
    return Preprocessing(
        mean=mean if values.get("do_normalize", True) else None,
        std=std if values.get("do_normalize", True) else None,
        size=size,
        resize=resize,
        interpolation=method if method in [*_RESAMPLE.values()] else None,
        origin=place,
    )


def class_names_hint(source: Source, manifest: Manifest, classes: int) -> tuple[str, ...] | None:
    """Names of the ``classes`` classes, when a description gives that many."""
    for content in descriptions(source, manifest).values():
        labels = content.get("id2label")
        if isinstance(labels, dict):
            labels = [labels.get(str(i)) for i in range(len(labels))]
        for names in (labels, content.get("label_names"), content.get("class_names"), content.get("classes")):
            if isinstance(names, list) and len(names) == classes and all(map(_is_name, names)):
                return tuple(names)
    return None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME


def _size(values: Mapping[str, Any]) -> tuple[tuple[int, int] | None, int | None]:
    """((height, width), length of the shorter side before the crop)."""
    shape = values.get("input_size")
    if isinstance(shape, list) and len(shape) == 3 and all(_side(n) > 0 for n in shape):
        crop = values.get("crop_pct")
        whole = isinstance(crop, float) and LEAST_CROP <= crop < 1
        return (shape[1], shape[2]), int(shape[1] / crop) if whole else None
    size, crop = values.get("size"), values.get("crop_size")
    square = crop if isinstance(crop, dict) and values.get("do_center_crop", True) else size
    edge = _side(size.get("shortest_edge")) if isinstance(size, dict) else -1
    if isinstance(square, dict):
        height, width = _side(square.get("height", edge)), _side(square.get("width", edge))
        return ((height, width) if height > 0 and width > 0 else None), (edge if edge > 0 else None)
    number = _side(square)
    return ((number, number) if number > 0 else None), None


def _side(value: Any) -> int:
    return value if type(value) is int and value <= MAX_SIDE else -1


def _numbers(value: Any, least: float, most: float) -> tuple[float, ...] | None:
    if not isinstance(value, list) or not 1 <= len(value) <= 64:
        return None
    if not all(type(n) in (int, float) and least <= n <= most for n in value):
        return None
    return tuple(float(n) for n in value)


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _decoded(text: str) -> Any:
    """Metadata are strings: lists and mappings are spelled as JSON in them."""
    if len(text) <= 1 << 20 and text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text

"""Hints from small files beside a model: architecture, preprocessing, class names. Standard library only.

They come from whoever made the model: whatever is not of the type and size that an honest one has is passed over, and
nothing in them is taken for the name of a file.

Understood: timm's ``config.json``, Hugging Face's ``config.json`` and ``preprocessor_config.json``, and the
same keys in ``<stem>.json`` or, as strings, in the metadata of the model file itself.
"""

from __future__ import annotations

import json
from typing import Any

from formats.model import Manifest, Preprocessing, Source
from formats.processors import preprocessing_in

#: Longest name of an architecture or a class.
MAX_NAME = 200
#: Files beside a model that hold nothing but the names of its classes.
CLASS_FILES = (
    "classes.txt", "labels.txt", "class_names.txt", "class_names.json", "classes.json", "labels.json", "label_map.json",
)  # fmt: skip


def descriptions(source: Source, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Every readable description by the name of its file; the file's own metadata last, as "metadata"."""
    found = {name: _object(content) for name, content in source.sidecars.items() if name not in CLASS_FILES}
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


def class_names_hint(source: Source, manifest: Manifest, classes: int) -> tuple[str, ...] | None:
    """Names of the ``classes`` classes, when a description gives that many."""
    for content in descriptions(source, manifest).values():
        labels = content.get("id2label")
        if isinstance(labels, dict):
            labels = [labels.get(str(i)) for i in range(len(labels))]
        for names in (labels, content.get("label_names"), content.get("class_names"), content.get("classes")):
            if isinstance(names, list) and len(names) == classes and all(map(_is_name, names)):
                return tuple(names)
    found = (names_in(source.sidecars[name], classes) for name in CLASS_FILES if name in source.sidecars)
    return next((names for names in found if names is not None), None)


def names_in(content: bytes, classes: int) -> tuple[str, ...] | None:
    """The ``classes`` names that a file gives: one a line, each after its number or none; or JSON, a list, or a mapping
    from number to name or from name to number, also as ``id2label``. ``None`` for anything else."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = [line.strip() for line in text.splitlines() if line.strip()]
        numbered = [line.partition(" ") for line in value]
        if all(number.rstrip(":,.") == str(i) for i, (number, _, _) in enumerate(numbered)):
            value = [name.strip() for _, _, name in numbered]
    if isinstance(value, dict):
        value = value.get("id2label", value)
    if isinstance(value, dict):
        if all(type(number) is int for number in value.values()):
            value = {str(number): name for name, number in value.items()}
        value = [value.get(str(i)) for i in range(len(value))]
    if (
        not isinstance(value, list)
        or len(value) != classes
        or not all(map(_is_name, value))
        or not all(value)
    ):
        return None
    return tuple(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME


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

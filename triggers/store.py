"""A trigger as a file: parameters and what was fitted, so that an attack can be measured again elsewhere.

The file is safetensors: tensors by field name, and the metadata ``family``, ``parameters`` (JSON) and whatever
facts the writer adds (the model it was fitted to, the target).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from triggers import FAMILIES, find
from triggers.errors import TriggerError, require_file
from triggers.family import Trigger, parameters

FORMAT = "wiper trigger 1"


def dump(trigger: Trigger, facts: Mapping[str, str] | None = None) -> bytes:
    """The file's bytes; the same for the same trigger and facts."""
    from safetensors.torch import save

    tensors = {
        item.name: value.detach().cpu().contiguous()
        for item in fields(trigger)  # type: ignore[arg-type]
        if item.metadata.get("stored") and (value := getattr(trigger, item.name)) is not None
    }
    head = {
        "format": FORMAT,
        "family": trigger.name,
        "parameters": json.dumps(parameters(trigger), sort_keys=True),
    }
    return _sorted(save(tensors, {**(facts or {}), **head}))


def load(path: Path) -> tuple[Trigger, dict[str, str]]:
    """The trigger and the file's metadata. Raises :class:`TriggerError` for anything but such a file."""
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(str(path), "pt") as file:
            facts: dict[str, str] = dict(file.metadata() or {})
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise TriggerError(f"The trigger {str(path)!r} cannot be read: {error}.") from error
    if facts.get("format") != FORMAT or facts.get("family") not in FAMILIES:
        raise TriggerError(f"{str(path)!r} is not a trigger file of a family that exists here.")
    family = find(facts["family"])
    known = {item.name: item for item in fields(family)}  # type: ignore[arg-type]
    try:
        given = {name: _tuples(value) for name, value in json.loads(facts["parameters"]).items()}
        for name, value in given.items():
            if name not in known or known[name].metadata.get("fitted"):
                raise ValueError(f"{family.name} has no parameter {name!r}")
            if not _fits(value, known[name].default):
                raise ValueError(f"{name} cannot be {value!r}")
        for name in tensors:
            if name not in known or not known[name].metadata.get("stored"):
                raise ValueError(f"{family.name} keeps no tensor {name!r}")
        return family(**given, **tensors), facts
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TriggerError(f"The trigger file {str(path)!r} does not fit its family: {error}.") from error


def _sorted(data: bytes) -> bytes:
    """The same safetensors file with its metadata in order; the library's order differs from call to call."""
    end = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:end])
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fits(value: Any, default: Any) -> bool:
    """Whether a parameter may have this value, by the type of its default; anything goes where that is no
    guide (``None``, or no default)."""
    if default is None or default is MISSING:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple) and isinstance(value, tuple) and default:
        return all(_fits(item, default[0]) for item in value)
    return type(value) is type(default)

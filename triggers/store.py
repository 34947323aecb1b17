"""A trigger as a file: parameters and what was fitted, so that an attack can be measured again elsewhere.

The file is safetensors: tensors by field name, and the metadata ``family``, ``parameters`` (JSON) and whatever
facts the writer adds (the model it was fitted to, the target).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from triggers import FAMILIES, find
from triggers.family import Trigger, TriggerError, parameters

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
    data: bytes = save(tensors, {**(facts or {}), **head})
    return data


def load(path: Path) -> tuple[Trigger, dict[str, str]]:
    """The trigger and the file's metadata. Raises :class:`TriggerError` for anything but such a file."""
    from safetensors import SafetensorError, safe_open

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
        given = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(facts["parameters"]).items()
        }
        if not set(given) | set(tensors) <= set(known) or any(
            not known[name].metadata.get("stored") for name in tensors
        ):
            raise ValueError("unknown fields")
        return family(**given, **tensors), facts
    except (ValueError, TypeError, KeyError) as error:
        raise TriggerError(f"The trigger file {str(path)!r} does not fit its family: {error}.") from error

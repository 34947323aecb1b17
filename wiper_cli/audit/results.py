"""What was found, as the sections of a report. Reads results, decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from formats import Edit, Model, NewTensor, stored_bytes
from formats.tensors import from_bytes, to_bytes
from wiper_cli import perturbations
from wiper_cli.audit.canaries import Canary
from wiper_cli.audit.environment import reported
from wiper_cli.audit.judgement import alarms
from wiper_cli.audit.known_rates import KnownRate
from wiper_cli.audit.measure import Measurement, der
from wiper_cli.audit.planning import Planned
from wiper_cli.audit.rounds import Round
from wiper_cli.audit.subject import Notes, Subject
from wiper_cli.classifier import Classifier
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.images.thumbnails import triple
from wiper_cli.perturbations import Recovered
from wiper_cli.rates import Rate
from wiper_cli.reports.plain import finite

#: Images whose logits are compared after saving.
CHECKED = 16


def described(model: Model) -> dict[str, Any]:
    """The report's ``model`` mapping, less what the bytes told."""
    head = model.head
    return {
        "architecture": asdict(model.architecture),
        "opened": "head-only" if model.head_only else "full",
        "classes": list(model.class_names or map(str, range(model.classes))),
        "parameters": sum(address.elements for address in model.manifest.tensors.values()),
        "input": asdict(model.input),
        "head": None
        if head is None
        else {
            "weight": head.weight,
            "bias": head.bias,
            "units": head.units,
            "classes": head.classes,
            "linear": head.linear,
        },
        "notes": list(model.notes),
    }


def remarks(notes: Notes) -> dict[str, Any]:
    """What every answer says of its making."""
    return {"timing": notes.timing, "not_done": tuple(notes.not_done), "environment": reported()}


def examined(subject: Subject, notes: Notes) -> dict[str, Any]:
    """What every examination says of the model, its images, its units, and of its making."""
    found = subject.salience
    return {
        **remarks(notes),
        "model": {**described(subject.model), "classes": subject.class_names},
        "clean": {**subject.folder.describe(), "accuracy": subject.accuracy},
        "preprocessing": subject.preprocessing.as_dict(),
        "salience": None
        if found is None
        else {
            "metric": "BS",
            "images": found.images,
            "units": found.bs.tolist(),
            "mbs": found.mbs.tolist(),
            "am": found.am.tolist(),
            "stability": asdict(found.stability["bs"]),
        },
    }


def shown_detection(
    subject: Subject,
    evidence: Sequence[Evidence],
    suspects: Sequence[int],
    plan: Planned | None = None,
    canaries: Sequence[Canary] | None = None,
) -> dict[str, Any]:
    """The report's ``detection`` mapping."""
    return {
        "suspects": list(suspects),
        "calibrated": False,
        "false_alarms": plan.rate.as_dict() if plan and plan.rate else None,
        "plan": plan and plan.as_dict(),
        "canaries": None if canaries is None else [jsonable(one.as_dict()) for one in canaries],
        "detectors": [shown_detector(subject, piece, plan.rate if plan else None) for piece in evidence],
    }


def shown_detector(subject: Subject, piece: Evidence, known: KnownRate | None = None) -> dict[str, Any]:
    """One detector's evidence; what it recovered is shown where it fired, since elsewhere it did not work. ``known``:
    of honest networks like this one."""
    works = [one for one in piece.recovered if piece.fired and (piece.mapping or one.target == piece.target)]
    trigger = works[0] if works else None
    return {
        "name": piece.name,
        "title": piece.title,
        "ran": piece.ran,
        "reason": piece.reason,
        "statistic": finite(piece.statistic),
        "threshold": piece.threshold,
        "threshold_origin": piece.threshold_origin,
        "false_alarm_rate": alarms(piece, known),
        "fired": piece.fired,
        "target": piece.target,
        "suspects": list(piece.suspects),
        "p_value": known.p_value(piece.name, finite(piece.statistic)) if known else None,
        "per_class": [finite(value) for value in piece.per_class],
        "facts": jsonable(piece.facts),
        "seconds": round(piece.seconds, 3),
        "trigger": None
        if trigger is None
        else {
            "family": trigger.family,
            "target": piece.target,
            "facts": jsonable(trigger.facts),
            "pictures": pictures(subject, trigger),
        },
    }


def pictures(subject: Subject, trigger: Recovered) -> dict[str, str]:
    """Clean, triggered and difference of the first image of another class."""
    part = subject.clean.select
    other = (part.labels != trigger.target).nonzero().flatten()
    image = part.images[int(other[0]) if len(other) else 0].float() / 255
    stamped = perturbations.stamp(trigger, image.unsqueeze(0))[0]
    return triple(image, stamped)


def changed(model: Model, edit: Edit) -> list[dict[str, Any]]:
    """Every edited tensor: how many of its values changed, by how much at most, in the units of the file; for
    the head also which units, where not all of them did."""
    found: list[dict[str, Any]] = []
    for name, new in edit.tensors.items():
        before = from_bytes(stored_bytes(model.source, model.manifest.tensors[name]), new.dtype)
        change = (from_bytes(new.data, new.dtype).double() - before.double()).reshape(new.shape)
        row: dict[str, Any] = {
            "address": name,
            "elements": int((change != 0).sum()),
            "max_change": float(change.abs().max()) if change.numel() else 0.0,
        }
        head = model.head
        if head is not None and name == head.weight:
            matrix = change.T if head.layout == "in_out" else change.reshape(head.classes, head.units)
            touched = (matrix != 0).any(0).nonzero().flatten().tolist()
            row["units"] = touched if len(touched) < head.units else None
        found.append(row)
    return found


def verification(
    before: Measurement,
    after: Measurement | None,
    probes: Sequence[dict[str, Any]] = (),
    accepted: bool | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """The report's ``verification`` mapping; ``probes``: as of :func:`shown_detector`."""
    return {
        "before": jsonable(before),
        "after": jsonable(after),
        "der": der(before, after) if after else None,
        "probes": list(probes),
        "accepted": accepted,
        "reason": reason,
    }


def purification(
    model: Model, settings: Any, kept: Round, rounds: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report's ``purification`` mapping; ``settings``: the method's, ``rounds``: all, as shown."""
    return {
        "method": settings.name,
        "settings": asdict(settings),
        "history": [asdict(epoch) for epoch in kept.purified.history],
        "changed": changed(model, kept.edit),
        "rounds": jsonable(rounds),
        "accepted": kept.accepted,
        "reason": kept.reason,
        "output": None,
        "notes": list(kept.purified.notes),
    }


def expectation(classifier: Classifier, images: Tensor) -> dict[str, NewTensor]:
    """Normalised ``inputs`` and the ``outputs`` that the purified file has to give for them, of the first images."""
    images = images[:CHECKED]
    x = classifier.as_float(images).cpu()
    x = x.flip(1) if classifier.model.bgr else x
    mean = torch.tensor(classifier.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(classifier.std).reshape(1, -1, 1, 1)
    outputs = classifier.model.ending.output(classifier.logits(images).cpu())
    expected = {"inputs": (x - mean) / std, "outputs": outputs}
    return {name: NewTensor("F32", tuple(value.shape), to_bytes(value)) for name, value in expected.items()}


def jsonable(value: Any) -> Any:
    """Dataclasses as mappings, tensors and tuples as lists, numbers as they are if finite, all else as text."""
    if isinstance(value, Rate):
        return value.as_dict()
    if isinstance(value, Tensor):
        return jsonable(value.tolist())
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return finite(value) if value is None or isinstance(value, (bool, int, float, str)) else str(value)

"""What images that carry a trigger do to the units of the head, for a person to read. No verdict is made of it.

WIPER, section 5.6 (the figure of BS, AM and attention): the values of every unit on clean and on triggered
images, and where the lowest tenth of the units and all others look on a triggered image.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wiper_cli.audit.subject import Notes, Subject
from wiper_cli.classifier import Classifier
from wiper_cli.images.folder import printable
from wiper_cli.images.preprocessing import require_finite
from wiper_cli.images.splits import Part
from wiper_cli.images.thumbnails import overlay, uri
from wiper_cli.rates import count
from wiper_cli.salience import METRICS
from wiper_cli.salience.oracle import activation_change, precision, target_contribution
from wiper_cli.salience.stream import correlation, lowest

#: Share of the units that the paper's figure calls bad.
SHARE = 0.1
#: Triggered images whose attention is shown.
SHOWN = 3


def explain(subject: Subject, path: str, part: Part, notes: Notes) -> dict[str, Any] | None:
    """The report's ``explanation`` mapping. ``part``: triggered images with their true labels, -1 where unknown.

    BS on them is taken with the model's own answers as labels: those that the trigger brings about. What moves
    a unit is the difference of two means, since nobody has the same images without the trigger.
    """
    if subject.salience is None:
        notes.omit("explanation", "The model has no linear head whose units could be looked at.")
        return None
    classifier, clean = subject.classifier, subject.everything()
    weight = classifier.head()[0]
    features, logits = classifier.features(part.images)
    require_finite(logits)
    answers = logits.argmax(1)
    untriggered, untriggered_logits = classifier.features(clean.images)
    labelled = bool((part.labels >= 0).all())
    share = counterparts(clean.labels, part.labels if labelled else None).to(untriggered.device)
    target = int(answers.mode().values)
    before, after = share @ untriggered.double(), features.double().mean(0)
    change = activation_change(before[None], after[None]).cpu()
    adds = target_contribution(before[None], after[None], weight, target).cpu()
    true = {"change": change, "contribution": adds}
    values = {name: METRICS[name](features, logits, answers, weight).cpu() for name in ("bs", "am")}
    known = {"bs": subject.salience.bs, "am": subject.salience.am}
    answers = answers.cpu()
    shown = _examples(answers == target, part.labels, target)
    low, moved = (lowest(values, how_many(change)) for values in (known["bs"], -change))
    maps = saliency_maps(classifier, part.images[shown], {"moved": moved, "lowest": low, "others": ~low})
    if maps is None:
        notes.omit("attention maps", "The file was opened head-only: no gradient reaches the pixels.")
    return {
        "path": printable(path),
        "labelled": labelled,
        "compared_with": "clean images of the same classes, in the same proportions"
        if labelled
        else "all clean images, since the true classes of the triggered ones are not known",
        "target": target,
        "success": count(answers, target).as_dict(),
        "base_rate": float(share @ (untriggered_logits.argmax(1) == target).double()),
        "recovered": count(answers, part.labels).as_dict() if labelled else None,
        **{name: found.tolist() for name, found in values.items()},
        **{name: found.tolist() for name, found in true.items()},
        "moved": change.argsort(descending=True, stable=True)[: int(moved.sum())].tolist(),
        "agreement": [
            {
                "metric": name.upper(),
                "rank_correlation": correlation(found, -change),
                "precision": precisions(found, true),
            }
            for name, found in known.items()
        ],
        "chance": int(low.sum()) / len(low),
        "pictures": None if maps is None else _pictures(part.images[shown].float() / 255, maps),
    }


def counterparts(clean: Tensor, triggered: Tensor | None) -> Tensor:
    """Weights float64 [N], sum 1, that give clean images with labels ``clean`` int64 [N] the classes of the
    ``triggered`` ones int64 [M]; equal ones where these are unknown (``None``) or share no class."""
    weights = torch.ones(len(clean), dtype=torch.float64)
    if triggered is not None:
        classes = int(max(clean.max(), triggered.max())) + 1
        have, want = (labels.bincount(minlength=classes).double() for labels in (clean, triggered))
        matched = (want / have.clamp_min(1))[clean]
        weights = matched if matched.any() else weights
    return weights / weights.sum()


def how_many(values: Tensor, share: float = SHARE) -> int:
    """A share of the units of ``values`` [D]: at least one."""
    return max(1, round(share * len(values)))


def precisions(values: Tensor, true: Mapping[str, Tensor], share: float = SHARE) -> dict[str, float]:
    """For each of ``true`` [D]: the share of the lowest units by ``values`` [D] that are among its highest."""
    return {name: precision(values, one, how_many(values, share)) for name, one in true.items()}


def saliency_maps(
    classifier: Classifier, images: Tensor, groups: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Where each of ``groups`` of units, bool [D], looks on ``images`` [N,C,H,W]: the size of the gradient of their
    summed activations by the pixels, float32 [N,H,W] on the CPU, largest of an image 1. ``None`` without gradients."""
    maps = {}
    with classifier.tap() as tap:
        if tap is None:
            return None
        for name, units in groups.items():
            x = classifier.as_float(images).requires_grad_(True)
            h, _ = tap(x)
            (gradient,) = torch.autograd.grad(h[:, units.to(h.device)].sum(), x)
            size = gradient.abs().sum(1)
            maps[name] = (size / size.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu()
    return maps


def _examples(goes: Tensor, labels: Tensor, target: int) -> Tensor:
    """Up to :data:`SHOWN` places, spread over the images that the trigger carried to another class, else over those
    that it sent to the target at all."""
    places = (goes & (labels != target)).nonzero().flatten()
    places = places if len(places) else goes.nonzero().flatten()
    return places[torch.linspace(0, len(places) - 1, min(SHOWN, len(places))).round().long()]


def _pictures(images: Tensor, maps: Mapping[str, Tensor]) -> list[dict[str, str]]:
    return [
        {"triggered": uri(image)} | {name: uri(overlay(image, found[i])) for name, found in maps.items()}
        for i, image in enumerate(images)
    ]

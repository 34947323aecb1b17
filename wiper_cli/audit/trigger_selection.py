"""Which triggers a verification stamps: built-in families, a user's picture or trigger file, fitted ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

import triggers
from triggers.errors import TriggerError
from triggers.families.known import Known
from triggers.family import Trigger, Victim
from triggers.store import load
from wiper_cli.audit.measure import Stamper
from wiper_cli.audit.requests import VerifyRequest
from wiper_cli.audit.subject import Notes, Reporter, Subject
from wiper_cli.classifier import Classifier
from wiper_cli.nearest import nearest
from wiper_cli.verdict import ExitCode, Problem

#: Triggers are fitted to at most so many images of the fit part.
FIT_IMAGES = 1000


def stampers(request: VerifyRequest, subject: Subject, notes: Notes, report: Reporter) -> list[Stamper]:
    """The triggers that were asked for; of all families those that cannot be stamped are named as left out.

    Raises :class:`Problem` for names that do not exist, files that are no triggers, and when nothing is left.
    """
    found: list[Stamper] = []
    target, seed, known = request.target, request.seed, request.known
    if known is not None:
        mask = "" if known.mask is None else str(known.mask)
        trigger = Known(str(known.image), mask, known.alpha, known.position)
        found.append(Stamper.of(trigger, target, origin="known"))
    for path in request.trigger_files:
        found.append(_stored(path, target, seed, subject.classifier.classes))
    unfitted = []
    for name in _names(request.triggers):
        family: Trigger = triggers.find(name)()
        if family.needs == "nothing":
            found.append(Stamper.of(family, target, seed))
        elif request.fit:
            found.append(Stamper.of(_fitted(family, request, subject, report), target, seed, "fitted"))
        elif request.triggers is None:
            unfitted.append(name)
        else:
            raise Problem(
                f"The family {name} is fitted to a model: add --fit, or give its file with --trigger-file."
            )
    if unfitted:
        notes.omit(f"the families {', '.join(unfitted)}", "they are fitted to a model; --fit does that")
    if not found and request.poisoned is None:
        raise Problem(
            "No trigger to measure: name families with --triggers, or give --trigger-image, --trigger-file or "
            "--poisoned."
        )
    return found


def _names(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    offered = tuple(name for name in triggers.names() if name != Known.name)
    for name in asked or ():
        if name not in offered:
            raise Problem(
                f"There is no trigger family {name!r}{nearest(name, offered)}; 'wiper triggers' lists them."
            )
    return offered if asked is None else asked


def _stored(path: Path, target: int | None, seed: int, classes: int) -> Stamper:
    try:
        trigger, facts = load(path)
    except TriggerError as error:
        raise Problem(str(error)) from error
    if target is None and facts.get("labelling") == "all-to-all":
        following = {k: (k + 1) % classes for k in range(classes)}
        return replace(
            Stamper.of(trigger, None, seed, "known"), mapping=following, chosen_by="the trigger file"
        )
    if target is None and facts.get("target", "").isdigit():
        target = int(facts["target"])
    return Stamper.of(trigger, target, seed, "known")


def _fitted(family: Trigger, request: VerifyRequest, subject: Subject, report: Reporter) -> Trigger:
    assert request.target is not None
    part = subject.clean.fit
    some = torch.randperm(len(part), generator=torch.Generator().manual_seed(request.seed))[:FIT_IMAGES]
    images = part.images[some].to(subject.classifier.device)
    labels = part.labels[some].to(subject.classifier.device)
    with victim(subject.classifier) as model:
        generator = torch.Generator().manual_seed(request.seed)
        try:
            return family.fit(model, images, labels, request.target, generator, report)
        except TriggerError as error:
            raise Problem(f"The trigger {family.name} cannot be fitted: {error}") from error


@contextmanager
def victim(classifier: Classifier) -> Iterator[Victim]:
    """The model as an attack sees it. Raises :class:`Problem` when it has no gradients or no linear head."""
    network = classifier.network
    if network is None or classifier.model.head is None:
        raise Problem(
            "Triggers cannot be fitted to this model: it gives no gradients, or has no linear head.",
            ExitCode.NO_VERDICT,
        )
    with classifier.tap() as tap:
        assert tap is not None
        yield Victim(network, tap, lambda: classifier.head()[0])

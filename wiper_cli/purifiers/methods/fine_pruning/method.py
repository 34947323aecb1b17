"""Fine-Pruning: units of the head that clean images leave at rest are removed, then the rest is fine-tuned.

Source: Liu et al. 2018 (arXiv 1805.12185), who prune channels of the last convolution by mean activation; these
are the units of the head wherever it stands behind a pooling. WIPER, A.4: rate 0.1. ``metric`` "bs" is
"Fine-Pruning + BS" of WIPER's Table 4. With ``tolerance`` units go in steps of 1 % while accuracy on the *select*
part holds, and the step that breaks it is not taken.

Departs: unless asked for live, batch norm stays frozen while fine-tuning. Removed columns of
the head stay 0. Needs labels and a linear head. Cost for each image: 1 forward pass, then as fine-tuning.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.pruning import keep, over_units, unit_scores
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import HeadStudent, student_of
from wiper_cli.purifiers.methods.fine_pruning import FinePruning
from wiper_cli.salience.bs import require_linear


def purify(settings: FinePruning, task: Task) -> Purified:
    """Ranks on ``clean.fit``, stops by ``clean.select``, trains on ``clean.fit``."""
    head = require_linear(task.classifier.model.head)
    scores = unit_scores(task.classifier, task.clean.fit, settings.metric)
    share = settings.share
    if settings.tolerance:
        share = tolerated(task.classifier, scores, task.clean.select, share, settings.tolerance)
    student = student_of(task.classifier, settings.train, task.live)
    weight = student.weights[head.weight]
    mask = keep(scores, share).to(weight)
    kept = mask[None] if isinstance(student, HeadStudent) else over_units(head, mask, weight)

    @torch.no_grad()
    def prune() -> None:
        weight.mul_(kept)

    def loss(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(student.logits(inputs), labels)}

    prune()
    history = descend(student, task, settings, loss, after=prune)
    note = f"{int((mask == 0).sum())} of {head.units} units were removed, least {settings.metric} first."
    return Purified(student.edit(), history, (note,))


def tolerated(classifier: Classifier, scores: Tensor, part: Part, most: float, tolerance: float) -> float:
    """The largest share in steps of 1 % up to ``most`` with which, and below which, accuracy on ``part`` stays
    at least 1 - ``tolerance`` of what it was; 0 where ``part`` is empty."""
    if not len(part):
        return 0.0
    features, _ = classifier.features(part.images)
    weight, bias = (value.to(features.device) for value in classifier.head())

    def accuracy(share: float) -> float:
        logits = (features * keep(scores, share).to(features)) @ weight.T + bias
        return float((logits.argmax(1).cpu() == part.labels).float().mean())

    floor = (1 - tolerance) * accuracy(0.0)
    reached = 0.0
    for percent in range(1, round(100 * most) + 1):
        if accuracy(percent / 100) < floor:
            break
        reached = percent / 100
    return reached

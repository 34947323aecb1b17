"""LMR: find the target class by unlearning, push its logit down, cut the units of the head that carry it.

Source: LMR (CVPR 2026), read in the digests of papernotes.org, English and Chinese, and in an independent
implementation, mithridatium's ``repair/lmr.py``; neither the paper nor its own code could be had. With logits z,
labels y and the margins a = ``suppression_margin``, b = ``retention_margin``:

1. A copy maximises cross-entropy on clean images to near chance; the target is c = argmax_c mean log p(c|x).
2. From the weights as found, without knowing a trigger, until the clean accuracy of class c is at chance, minimise

       [y != c] CE  +  ``suppression`` [y != c] relu(z_c - max_{j != c} z_j + a)
                    +  ``retention`` relu(max_{j != y} z_j - z_y + b).

3. Units j of the head with the largest |dW_cj| are cut (their columns are 0 and stay 0), and cross-entropy recovers
   accuracy, from the weights of 2.

The digests leave open which weights train and how batch norm works; the implementation trains all of them by
Adam, live, for a handful of steps. The digests take a = 3, yet their ablation on BadNets leaves 42.77 % ASR at 2
and 4.84 % at 10: our default is 10, chosen with badnet's ASR in sight (57 % at 3, 4 % at 10, live). Cut is
the implementation's tenth of the units, since the digests name no share.
Ours: SGD; every term is a mean over its own images and the third too leaves class c out; the learning rate of 1
doubles after every pass; the copy of 1 is live wherever the file has statistics, and is of the head alone elsewhere;
batch norm of what is written is live only if asked for. With ``share`` 0 the most units are cut that keep the
accuracy on the select part within ``budget``. Assumes one target class.

Measured on the zoo's tiny badnet, blend and wanet (1,500 clean images; ACC before is 73.5, 74.6 and 70.9, ASR 99, 99
and 96; step 1 named the target each time): frozen, ACC 71.2, 70.2, 69.2 and ASR 29, 49, 12; live, ACC 70.3, 72.2, 68.7
and ASR 21, 14, 5. The select part loses 3 to 4 points frozen and 1 to 6 live; more passes of recovery keep more and
bring more of the backdoor back.
With the head alone and a = 3 nothing was removed, and step 1 named a wrong class in blend.
Needs labels and a linear head. Cost: 1 forward and 1 backward pass for each image and epoch of each stage; with
``train`` = "head", which also serves a file opened head-only, one forward pass altogether.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Epoch, Purified, Task
from wiper_cli.purifiers.machinery.clean_unlearning import accuracy, norms_of, unlearn
from wiper_cli.purifiers.machinery.pruning import keep, over_units
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import Batches, HeadStudent, NetworkStudent, student_of, switch
from wiper_cli.purifiers.methods.lmr import LMR
from wiper_cli.salience.bs import require_linear

#: Shares of the head's units that are tried, the largest first.
SHARES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


class CachedHead(HeadStudent):
    """A head whose features are computed once for all students that share ``cache`` (by identity of the part)."""

    def __init__(self, classifier: Classifier, cache: dict[int, Tensor]) -> None:
        super().__init__(classifier)
        self.cache = cache

    def inputs(self, part: Part) -> Tensor:
        if id(part) not in self.cache:
            self.cache[id(part)] = super().inputs(part)
        return self.cache[id(part)]


def purify(settings: LMR, task: Task) -> Purified:
    """Trains on ``clean.fit``, chooses the share on ``clean.select``."""
    head = require_linear(task.classifier.model.head)
    cache: dict[int, Tensor] = {}
    goal = (1 - settings.budget) * accuracy(task.classifier, task.clean.select)
    if settings.aim == "suspect" and task.suspects:
        target, note = task.suspects[0], f"Class {task.suspects[0]} was suspected by the scan."
    else:
        # A copy that is thrown away, so its batch norm may work on the batch wherever the file has statistics.
        live = settings.train == "all" and bool(task.classifier.model.statistics())
        copy = NetworkStudent(task.classifier, live=True) if live else CachedHead(task.classifier, cache)
        target, note = find_target(settings, task, copy)
    student = student_of(task.classifier, settings.train, task.live)
    if isinstance(student, HeadStudent):
        student = CachedHead(task.classifier, cache)
    before = head_matrix(student).clone()
    note += " " + suppress(settings, task, student, target)
    score = (head_matrix(student) - before)[target].abs().cpu()
    statistics = [buffer for norm in norms_of(student) for buffer in norm.buffers()]
    start = [(value, value.detach().clone()) for value in (*student.weights.values(), *statistics)]
    weight = student.weights[head.weight]
    mask, history = weight, list[Epoch]()
    for share in (settings.share,) if settings.share else SHARES:
        mask = keep(-score, share).to(weight)
        kept = mask[None] if isinstance(student, HeadStudent) else over_units(head, mask, weight)
        with torch.no_grad():
            for value, found in start:
                value.copy_(found)
        history = recover(settings, task, student, weight, kept)
        if history[-1].select_accuracy >= goal:
            break
    cut = int((mask == 0).sum())
    reached = (
        f"{cut} of {head.units} units were cut; accuracy on the select part is "
        f"{100 * history[-1].select_accuracy:.2f} %, {100 * goal:.2f} % was the goal."
    )
    return Purified(student.edit(), history, (note, reached))


def find_target(settings: LMR, task: Task, student: NetworkStudent | HeadStudent) -> tuple[int, str]:
    """Step 1: the class that ``student``, a copy, answers with once it has unlearned, and a sentence."""
    batches = _batches(settings, task, student)
    steps, reached = unlearn(student, batches, settings, task.clean.fit)
    total = torch.zeros(task.classifier.classes, dtype=torch.float64)
    with torch.no_grad():
        for x in student.inputs(task.clean.fit).split(256):
            x = x.to(student.device)
            x = x.float() / 255 if x.dtype == torch.uint8 else x
            total += student.logits(x).double().log_softmax(1).sum(0).cpu()
    target = int(total.argmax())
    return target, (
        f"Unlearning took {steps} steps, to an accuracy of {100 * reached:.1f} %; it points at class {target}."
    )


def suppress(settings: LMR, task: Task, student: NetworkStudent | HeadStudent, target: int) -> str:
    """Step 2, in place; a sentence about how far it went."""
    part = task.clean.fit
    batches = _batches(settings, task, student)
    weights = list(student.weights.values())
    optimiser = torch.optim.SGD(weights, lr=settings.lr, momentum=settings.momentum)
    chance, rate = 1 / task.classifier.classes, 1.0
    own = int((part.labels == target).sum())
    for _ in range(settings.unlearn_epochs):
        hit = seen = 0
        for x, y in batches:
            switch(norms_of(student), True)
            logits = student.logits(x)
            switch(norms_of(student), False)
            here = y == target
            hit, seen = hit + int((logits.argmax(1) == y)[here].sum()), seen + int(here.sum())
            loss = torch.stack(list(losses(logits, y, target, settings).values())).sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, settings.clip)
            optimiser.step()
        rate = hit / max(1, seen)
        if rate <= chance:
            break
    if not own:
        return f"No clean image of class {target} was there to measure its suppression."
    return f"Its clean accuracy was pushed down to {100 * rate:.1f} %."


def losses(logits: Tensor, labels: Tensor, target: int, settings: LMR) -> dict[str, Tensor]:
    """The three terms of step 2, weighted: logits float32 [N,K], labels int64 [N]. Each is the mean over the images
    that it speaks of, 0 where there are none."""
    others = labels != target
    z, y = logits[others], labels[others]
    if not len(y):
        zero = logits.sum() * 0
        return {"cross_entropy": zero, "suppression": zero, "retention": zero}
    not_target = torch.arange(logits.shape[1], device=z.device) != target
    rise = z[:, target] - z[:, not_target].amax(1) + settings.suppression_margin
    runner_up = z.scatter(1, y[:, None], -torch.inf).amax(1)
    lack = runner_up - z.gather(1, y[:, None])[:, 0] + settings.retention_margin
    return {
        "cross_entropy": F.cross_entropy(z, y),
        "suppression": settings.suppression * F.relu(rise).mean(),
        "retention": settings.retention * F.relu(lack).mean(),
    }


def recover(
    settings: LMR, task: Task, student: NetworkStudent | HeadStudent, weight: Tensor, kept: Tensor
) -> list[Epoch]:
    """Step 3: cross-entropy with the cut columns of ``weight`` at 0; ``kept`` multiplies it."""

    @torch.no_grad()
    def cut() -> None:
        weight.mul_(kept)

    def loss(inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(student.logits(inputs), labels)}

    cut()
    return descend(student, task, settings, loss, after=cut)


def head_matrix(student: NetworkStudent | HeadStudent) -> Tensor:
    """The head's weight as it is now, [K,D], detached."""
    return student.weight.detach() if isinstance(student, HeadStudent) else student.classifier.head()[0]


def _batches(settings: LMR, task: Task, student: NetworkStudent | HeadStudent) -> Batches:
    return Batches.of(
        settings, student.inputs(task.clean.fit), task.clean.fit.labels, student.device, task.seed
    )

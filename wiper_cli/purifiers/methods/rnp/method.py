"""RNP: reconstructive neuron pruning. Unlearn the clean task, let masks recover it, prune what they switch off.

Source: Li et al. 2023 (arXiv 2305.14876). (1) Cross-entropy on clean images is maximised until the accuracy on
them has fallen to ``unlearn_until``; (2) the weights of that network are fixed and masks m in 0..1 on its channels
minimise cross-entropy; (3) channels with small masks are removed from the network as it was found.

Departs: batch norm stays frozen or folded unless asked for live (then it works on the batch in (1) and (2), as
published; the network that is pruned keeps its statistics). Masks act on the pre-activation of every convolution
(see :mod:`..machinery.masks`), which is the original's mask on the scale of a live batch norm. Frozen, at the
original's rate of 0.01 masks could not recover the bundled digits, hence a default of 1e-4. On the select part of
tiny's BadNet masks recovered 54 % of 73 % from a stop at 0.2 at a rate of 0.01, 71 % from 0.5 at 0.04, hence these
two defaults. Gradients are clipped after they are computed (public code clips those it has just cleared, so never),
the rate of (1) is constant (public code divides it by 10 after 10 epochs), and unlearning stops as the original does,
after an epoch, only if live: frozen, also at the first single batch that meets its bound. The original's factor 0.2 on
the loss of (2) is part of ``lr`` here. The threshold rises for as long as the accuracy on the select part
keeps to the budget; the original leaves it to the user.

Measured on tiny with 500 clean images, masks of the original's own recipe, live: those at 0, its smallest threshold,
take the ASR of BadNet from 98.9 to 2.0 % (another seed: 10.6), of BA from 99.2 to 0.0, of SIG with changed labels
from 99.4 to 0.0, but 23 (31), 30 and 24 points of accuracy, since some of them stand on early layers of 16 channels:
no threshold works within ``budget``, nor, reliably, does leaving out single channels. Stopped in the middle of an
epoch, live masks at 0 left 99.3 %. Frozen ones did too, for 21 points: they miss the backdoor.

Needs labels. Cost for each image and epoch: 1 forward and 1 backward pass.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.masks import MaskStudent, clamp, prune
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent, switch, train
from wiper_cli.purifiers.methods.rnp import RNP


def purify(settings: RNP, task: Task) -> Purified:
    """Works on ``clean.fit``, chooses the threshold on ``clean.select``. The history is that of the recovery.
    Raises :class:`Problem` without convolutions."""
    clean = task.clean
    whole = MaskStudent(task.classifier, clean.fit, settings.ablation)
    batches = Batches.of(settings, clean.fit.images, clean.fit.labels, whole.device, task.seed)
    unlearned, sentence = unlearn(settings, task.classifier, batches, task.live)
    student = MaskStudent(unlearned, clean.fit, settings.ablation, task.live)
    optimiser = torch.optim.SGD(student.masks, lr=settings.lr, momentum=settings.momentum)

    def step(_: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        switch(student.norms, True)
        loss = F.cross_entropy(student.logits(x), y)
        switch(student.norms, False)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        clamp(student.masks)
        return {"cross_entropy": loss}

    history = train(student, batches, settings.epochs, step, clean.select, task.progress)
    masks, note = prune(whole, student.masks, clean.select, settings.budget)
    return Purified(whole.pruned(masks), history, (sentence, note))


def unlearn(
    settings: RNP, classifier: Classifier, batches: Batches, live: bool = False
) -> tuple[Classifier, str]:
    """A copy of ``classifier`` that has lost the clean task, and a sentence about how far it went. ``live``: batch
    norm works on the batch, learns its statistics, and the accuracy is that of a whole epoch."""
    student = NetworkStudent(classifier, live)
    weights = list(student.weights.values())
    optimiser = torch.optim.SGD(
        weights, lr=settings.unlearn_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    right: list[Tensor] = []
    steps, accuracy = 0, 1.0
    for _ in range(settings.unlearn_epochs):
        for x, y in batches:
            switch(student.norms, True)
            logits = student.logits(x)
            switch(student.norms, False)
            right = [*right, (logits.argmax(1) == y).float().mean()][-len(batches) :]
            accuracy = float(torch.stack(right).mean())
            if not live and min(accuracy, float(right[-1])) <= settings.unlearn_until:
                break
            optimiser.zero_grad()
            torch.autograd.backward(-F.cross_entropy(logits, y))
            if settings.clip:
                torch.nn.utils.clip_grad_norm_(weights, settings.clip)
            optimiser.step()
            steps += 1
        else:
            if not live or accuracy > settings.unlearn_until:
                continue
        break
    for weight in weights:
        weight.requires_grad_(False)
    return student.classifier, (
        f"Unlearning took {steps} steps, to an accuracy of {100 * float(right[-1]):.1f} % on the last batch."
    )

"""AI-Lancet: finds the units that a known trigger moves, and repairs those alone.

Source: Zhao et al. 2021 (CCS); its published description leaves much open, and what follows is ours.

1. Region: for each triggered image x a mask m [H,W] is sought so that x (1-m) + c m, with c a clean image of another
   class, is no longer called what x was: minimise relu(z[class of x] - largest other logit + 1) + 10 mean(m) by
   Adam, from m near 1. Triggers over the whole image leave no small region; the notes say how large it is.
2. Units: d_j = |E[a_j(x) - a_j(restored x)]| / (std of a_j on clean images + 1e-6), for the head's inputs and, averaged
   over space, for pre-activations of the last convolutions; the ``share`` with the largest d_j of each layer.
3. Repair: ``fine-tune`` trains the weights of these units alone (columns of the head; kernels and biases, or weights
   and biases of a live norm, of channels) on clean images and on triggered ones, the latter towards the class of the
   restored image; ``flip`` turns the sign of those weights instead.

Needs ``triggered`` images, labels and a linear head. Batch norm stays frozen. Cost: 100 forward and backward passes
a triggered image, at most 256 of them; then as fine-tuning with twice the images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.layers import Layer, taps
from wiper_cli.purifiers.machinery.pruning import last_convolutions, over_units
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import NetworkStudent
from wiper_cli.purifiers.methods.ai_lancet import AILancet
from wiper_cli.salience.bs import require_linear
from wiper_cli.verdict import Problem

MOST_IMAGES = 256
STEPS = 100
SIZE_WEIGHT = 10.0


def purify(settings: AILancet, task: Task) -> Purified:
    """Locates on ``triggered`` and ``clean.fit``, trains on both; ``clean.select`` is only measured."""
    assert task.triggered is not None
    classifier, fit = task.classifier, task.clean.fit
    head = require_linear(classifier.model.head)
    generator = torch.Generator().manual_seed(task.seed)
    x = classifier.as_float(task.triggered.images[:MOST_IMAGES])
    reached = classifier.logits(x).argmax(1).to(x.device)
    fillers = classifier.as_float(filler(fit, reached.cpu(), generator))
    mask = region(classifier, x, fillers, reached)
    restored = x * (1 - mask) + fillers * mask
    labels = classifier.logits(restored).argmax(1).to(x.device)
    freed = labels != reached
    notes = [
        f"{int(freed.sum())} of {len(x)} triggered images were called otherwise once the located region "
        f"({100 * float(mask.mean()):.0f} % of the image on average) was covered."
    ]
    if not bool(freed.any()):
        raise Problem("No region of the triggered images could be found whose cover takes their class away.")
    x, restored, labels = x[freed], restored[freed], labels[freed]

    layers = last_convolutions(classifier, settings.last_layers - 1)
    clean = classifier.as_float(fit.images[:MOST_IMAGES])
    chosen = [
        largest(score, settings.share)
        for score in differences(*(unit_means(classifier, layers, part) for part in (x, restored, clean)))
    ]
    student = NetworkStudent(classifier)
    weight = student.weights[head.weight]
    masks = {head.weight: over_units(head, chosen[0].to(weight), weight)}
    for layer, found in zip(layers, chosen[1:], strict=True):
        for name in layer.scaled:
            if name is not None:
                value = student.weights[name]
                masks[name] = found.to(value).reshape(-1, *[1] * (value.dim() - 1))
    notes.append(f"{sum(int(found.sum()) for found in chosen)} units were repaired.")
    if settings.repair == "flip":
        with torch.no_grad():
            for name, located in masks.items():
                student.weights[name].mul_(1 - 2 * located)
        return Purified(student.edit(), (), notes)

    for name, value in student.weights.items():
        value.requires_grad_(name in masks)
    student.weights = {name: student.weights[name] for name in masks}
    found_at = {name: value.detach().clone() for name, value in student.weights.items()}

    @torch.no_grad()
    def hold() -> None:
        for name, value in student.weights.items():
            value.copy_(torch.where(masks[name] > 0, value, found_at[name]))

    def loss(images: Tensor, y: Tensor) -> dict[str, Tensor]:
        rows = torch.randint(len(x), (len(images),), generator=generator).to(x.device)
        logits = student.logits(torch.cat([images, x[rows]]))
        return {
            "cross_entropy": F.cross_entropy(logits[: len(images)], y),
            "triggered": F.cross_entropy(logits[len(images) :], labels[rows]),
        }

    history = descend(student, task, settings, loss, after=hold)
    return Purified(student.edit(), history, notes)


def filler(fit: Part, reached: Tensor, generator: torch.Generator) -> Tensor:
    """For each class in ``reached`` [N] a clean image that is not of it: uint8 [N,C,H,W]. Raises Problem where all
    clean images are of one class."""
    rows = []
    for target in reached.tolist():
        others = (fit.labels != target).nonzero()[:, 0]
        if not len(others):
            raise Problem(
                "All clean images are of one class; ai-lancet needs others to cover a trigger with."
            )
        rows.append(others[int(torch.randint(len(others), (1,), generator=generator))])
    return fit.images[torch.stack(rows)]


def region(classifier: Classifier, x: Tensor, fillers: Tensor, reached: Tensor) -> Tensor:
    """The smallest masks met [N,1,H,W], each 0 or 1, whose cover by ``fillers`` takes the class ``reached`` away from
    ``x``; all ones where none did. Gradients pass the threshold as if it were a sigmoid."""
    assert classifier.network is not None
    masks = []
    for image, cover, target in zip(x.split(128), fillers.split(128), reached.split(128), strict=True):
        free = torch.full((len(image), 1, *image.shape[2:]), 2.0, device=x.device, requires_grad=True)
        best = torch.ones_like(free)
        optimiser = torch.optim.Adam([free], lr=0.2)
        for _ in range(STEPS):
            soft, hard = free.sigmoid(), (free.detach() > 0).float()
            mask = hard + soft - soft.detach()
            logits = classifier.network(image * (1 - mask) + cover * mask)
            own = logits.gather(1, target[:, None])[:, 0]
            other = logits.scatter(1, target[:, None], -torch.inf).amax(1)
            better = (own < other) & (hard.sum((1, 2, 3)) < best.sum((1, 2, 3)))
            best = torch.where(better[:, None, None, None], hard, best)
            optimiser.zero_grad()
            torch.autograd.backward((own - other + 1).relu().sum() + SIZE_WEIGHT * mask.mean((1, 2, 3)).sum())
            optimiser.step()
        masks.append(best)
    return torch.cat(masks)


def unit_means(classifier: Classifier, layers: tuple[Layer, ...], x: Tensor) -> list[Tensor]:
    """The head's units [N,D] and, averaged over space, pre-activations [N,C] of ``layers``, detached."""
    pieces = []
    for part in x.split(128):
        with taps(classifier, layers) as tap:
            tapped = tap(part)
            assert tapped.features is not None
            outputs = [tapped.output(n).mean((2, 3)) for n in range(len(layers))]
            pieces.append([value.detach() for value in (tapped.features, *outputs)])
    return [torch.cat(values) for values in zip(*pieces, strict=True)]


def differences(with_trigger: list[Tensor], without: list[Tensor], clean: list[Tensor]) -> list[Tensor]:
    """|mean difference| in clean standard deviations for every unit; each list: [N, units] a layer."""
    return [
        (a - b).mean(0).abs() / (c.std(0) + 1e-6)
        for a, b, c in zip(with_trigger, without, clean, strict=True)
    ]


def largest(score: Tensor, share: float) -> Tensor:
    """1.0 at the ``share`` of the entries with the largest score, at least one; else 0.0."""
    mask = torch.zeros_like(score)
    mask[score.topk(max(1, round(share * len(score)))).indices] = 1
    return mask

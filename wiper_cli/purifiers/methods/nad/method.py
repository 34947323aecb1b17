"""Neural attention distillation: the network learns the attention maps of a copy fine-tuned on clean images.

    L = CE(p(x), y) + sum_l beta_l mean((A(F_l) - A(F_l of the teacher))^2)
    A(F) = a / |a|_2 with a = sum over channels of F^2, flattened: [N, H W]

Source: Li et al. 2021 (arXiv 2101.05930), beta 500, 1000, 1000; WIPER, A.4: 10 epochs, lr 0.1 divided by 10 after
every 2 epochs. The places F_l are what the last convolution at each of the three smallest map sizes above 1x1
reads: rectified activations in all three kinds of file, in residual nets inside the last block of a stage. (Behind a
pooling to 1x1, where a public version puts its third tap, A is 1 and the term 0.)

Departs: unless asked for live, batch norm stays frozen in teacher and student. Needs labels. Cost
for each image: 1 forward and 1 backward pass an epoch of the teacher, then 2 forward and 1 backward passes an epoch.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.layers import Layer, require_convolutions, taps
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import NetworkStudent, precision
from wiper_cli.purifiers.methods.nad import NAD

#: How many maps are distilled.
PLACES = 3


def purify(settings: NAD, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured. The history is the student's."""
    teacher, student = (NetworkStudent(task.classifier, task.live) for _ in range(2))

    def plain(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(teacher.logits(x), y)}

    descend(teacher, task, replace(settings, epochs=settings.teacher_epochs), plain)
    for weight in teacher.weights.values():
        weight.requires_grad_(False)
    layers = places(task.classifier, task.clean.fit.images[:2])
    weights = [settings.attention if n else settings.attention / 2 for n in range(len(layers))][-PLACES:]

    with taps(teacher.classifier, layers) as taught, taps(student.classifier, layers) as learnt:

        def loss(x: Tensor, y: Tensor) -> dict[str, Tensor]:
            with precision(student.device):
                goals = [maps.detach() for maps in taught(x).inputs]
                tapped = learnt(x)
            parts = {"cross_entropy": F.cross_entropy(tapped.logits, y)}
            for n, (beta, goal, found) in enumerate(zip(weights, goals, tapped.inputs, strict=True)):
                parts[f"attention_{n + 1}"] = beta * F.mse_loss(attention(found), attention(goal))
            return parts

        history = descend(student, task, settings, loss)
    read = ", ".join(layer.weight for layer in layers)
    return Purified(student.edit(), history, (f"Attention was distilled at the inputs of {read}.",))


def attention(maps: Tensor) -> Tensor:
    """Activations [N,C,H,W] → attention [N,H*W] of l2 norm 1."""
    return F.normalize(maps.float().square().sum(1).flatten(1), dim=1)


def places(classifier: Classifier, images: Tensor) -> Sequence[Layer]:
    """The last convolution that reads maps of each size above 1x1, of the :data:`PLACES` smallest sizes, in forward
    order. ``images`` [N,C,H,W]."""
    x = classifier.as_float(images)
    layers = require_convolutions(classifier, x)
    with taps(classifier, layers) as tap:
        sizes = [maps.shape[2] * maps.shape[3] for maps in tap(x).inputs]
    last = {size: n for n, size in enumerate(sizes) if size > 1}
    return [layers[last[size]] for size in sorted(sorted(last)[:PLACES], reverse=True)]

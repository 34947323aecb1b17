"""NPD: a neural polarizer, a linear map of channels in front of a late convolution, learned to hold adversarial
images back.

Source: Zhu et al. 2023 (Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned
Features). All weights stay; a matrix A [C,C], first the identity, is applied to the channels that the convolution
``place`` reads. The adversary makes x' = x + d, ||d||_2 <= radius, by sign steps of 0.1 towards t, the second
answer of the found network. A is trained by

    CE(x, y) + w (CE(x', a) - log(1 - p_o(x')) - log(1 - p_t(x')))

with a the current answer to x and o the largest class of x' other than y.

Departs: a file cannot take a new layer, so A is merged into the kernel, K'[o,i] = sum_m K[o,m] A[m,i] at every
place of the kernel: exactly the 1x1 convolution without bias in front of it. The batch norm of the original's layer
is left out: its shift cannot cross the zero padding of the convolution. What it does to training is kept: dividing a
channel by its deviation s makes a step of rate r move the whole map by r / s^2. Where s^2 is about 0.1, as in the
zoo's tiny suite, 0.01 in front of batch norm is 0.1 here, and so the weight decay a tenth. The warm-up, which set its
statistics, goes. The rate falls as a cosine: constant, accuracy swings by points from epoch to epoch. Lacks:
convolutions in groups.

Measured on BadNet, Blend and WaNet of the zoo's tiny suite, ASR left and points of accuracy lost on test images: 3.5 %
and 3.4, 5.5 % and 1.4, 16.5 % and 2.7. At rate 0.01 without batch norm 78 % of BadNet are left after 16 epochs, with
the layer's batch norm 31 %. The rate follows from s^2, but ASR was looked at; batch, radius and weights are the
original's, epochs fewer. On the select part BadNet loses 6 points; half the weight of the adversary would lose 3.6
there and leave 20 % ASR.

Needs labels. Cost for each image and epoch: with k inner steps, k + 3 forward and k + 2 backward passes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from formats import Edit, edit_of
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.layers import Layer, bake, convolutions, substituted
from wiper_cli.purifiers.machinery.training import Batches, cosine, precision, train
from wiper_cli.purifiers.methods.npd import NPD
from wiper_cli.verdict import ExitCode, Problem

#: Length of a sign step, on images in 0..1.
STEP = 0.1
#: The adversary stops when this share of a batch is answered as it wants.
ENOUGH = 0.6


class Polarizer:
    """``weights``: the matrix A [C,C] in front of ``layer``, under the name of its kernel."""

    def __init__(self, classifier: Classifier, layer: Layer) -> None:
        self.classifier, self.layer = classifier.copy(), layer
        assert self.classifier.network is not None
        self.device = classifier.device
        self.kernel = self.classifier.model.named(self.classifier.network.network)[layer.weight]
        self.matrix = torch.eye(self.kernel.shape[1], device=self.device).requires_grad_(True)
        self.weights = {layer.weight: self.matrix}

    def inputs(self, part: Part) -> Tensor:
        return part.images

    def logits(self, inputs: Tensor) -> Tensor:
        return self.through(self.matrix, inputs)

    def through(self, matrix: Tensor, inputs: Tensor) -> Tensor:
        """Logits float32 [N,K] of images in 0..1 with ``matrix`` [C,C] in front of the convolution."""
        with precision(self.device):
            return substituted(self.classifier, {self.layer.weight: merged(self.kernel, matrix)}, inputs)

    def edit(self) -> Edit:
        copy = self.classifier.copy()
        assert copy.network is not None
        with torch.no_grad():
            bake(copy, {self.layer.weight: merged(self.kernel, self.matrix)})
        return edit_of(copy.model, copy.network.network)


def purify(settings: NPD, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured. Raises :class:`Problem` when head-only or
    where no convolution without groups stands at that place."""
    clean = task.clean
    polarizer = Polarizer(task.classifier, layer_at(convolutions(task.classifier), settings.place))
    batches = Batches.of(settings, clean.fit.images, clean.fit.labels, polarizer.device, task.seed)
    optimiser = torch.optim.SGD(
        [polarizer.matrix], lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )

    schedule = cosine(settings.epochs * len(batches))

    def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimiser.param_groups[0]["lr"] = settings.lr * schedule(i)
        with torch.no_grad():
            now = polarizer.logits(x)
        answer, target = now.argmax(1), second(now, y)
        z = adversary(polarizer, x, target, settings.radius, settings.inner_steps)
        logits, perturbed = polarizer.logits(torch.cat([x, z])).split(len(x))
        weight = settings.adverse_weight
        parts = {
            "cross_entropy": F.cross_entropy(logits, y),
            "perturbed_cross_entropy": weight * F.cross_entropy(perturbed, answer),
            "largest_other": weight * avoid(perturbed, second(perturbed.detach(), y)),
            "target": weight * avoid(perturbed, target),
        }
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        optimiser.step()
        return parts

    history = train(polarizer, batches, settings.epochs, step, clean.select, task.progress)
    note = f"The polarizer was merged into {polarizer.layer.weight}."
    return Purified(polarizer.edit(), history, (note,))


def layer_at(layers: Sequence[Layer], place: int) -> Layer:
    """The convolution ``place``, counted from the last."""
    if place > len(layers) or layers[-place].groups != 1:
        which = "is none" if place > len(layers) else "works in groups, which a polarizer cannot stand before"
        raise Problem(
            f"The convolution at place {place} from the last {which}; try another --place.",
            ExitCode.NO_VERDICT,
        )
    return layers[-place]


def merged(kernel: Tensor, matrix: Tensor) -> Tensor:
    """The kernel [O,C,h,w] that does to x what ``kernel`` does to ``matrix`` [C,C] times x, channels of x."""
    return torch.einsum("omhw,mi->oihw", kernel, matrix.to(kernel))


def second(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest class other than the label: logits [N,K], labels int64 [N] → int64 [N]."""
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)


def avoid(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean of -log(1.0001 - p[class]): logits [N,K], classes int64 [N]."""
    p = logits.softmax(1).gather(1, classes[:, None])[:, 0]
    return -(1.0001 - p).log().mean()


def adversary(polarizer: Polarizer, x: Tensor, target: Tensor, radius: float, steps: int) -> Tensor:
    """Images x' in 0..1 near ``x`` that the polarized network shall call ``target`` [N]; constants."""
    matrix = polarizer.matrix.detach()
    d = torch.zeros_like(x)
    for n in range(steps):
        d.requires_grad_(True)
        logits = polarizer.through(matrix, (x + d).clamp(0, 1))
        if n and float((logits.argmax(1) == target).float().mean()) > ENOUGH:
            break
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target), d)
        d = d.detach() - STEP * gradient.sign()
        if radius:
            d = d * (radius / d.flatten(1).norm(dim=1).clamp_min(radius))[:, None, None, None]
    return (x + d.detach()).clamp(0, 1)

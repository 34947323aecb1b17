"""BTI-DBF(U): decouple benign features, let a generator invert the rest into images, unlearn these images.

Source: Xu et al. 2024 (Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign Features). In
every round, on the network as it is by then:

1. a mask m on the features h of the head minimises CE(m h) - CE((1 - m) h);
2. a U-Net G maximises ||(1 - m)(h(G(x)) - h(x))||^2 and keeps m h, as long as mean (G(x) - x)^2 is at most
   ``image_bound``, else it reduces that; from the second round on it also minimises CE(f(G(x)), t), where t is the
   class that most generated images of the first round were taken for;
3. a share ``stamped`` of each batch is replaced by G(x), and Adam minimises CE + MSE(h(x), h(x')).

Departs: features are the inputs of the head (pooled), their errors are divided by their mean square, so that weights
mean the same in every network; G adds to the image and starts near 0, so it needs no training beforehand, and it
normalises by groups, since batch norm stands still in the network, too. ``image_bound`` 0.02 is the original's 0.3 on
images that were divided by a standard deviation of 1/4.

Default: the one setting tried that suits a small machine; it cost 3 points of accuracy on the select part of the zoo's
tiny badnet and wanet, but 4 on blend. There the mask, without a weight on its size, keeps 96 % or more of the
features as benign, and the generator names a wrong class.

Needs labels, a linear head and gradients through the body.
Cost for each image: a forward pass a round, 2 forward passes and 1 input-backward pass for each epoch of G, 2 forward
and 2 backward passes for each epoch of unlearning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from formats import HeadTap
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.feature_mask import feature_mask
from wiper_cli.purifiers.settings_field import BTIDBF
from wiper_cli.purifiers.training import Batches, NetworkStudent, precision, train
from wiper_cli.salience.bs import require_linear
from wiper_cli.splits import Part

#: Weight of the change of benign features beside that of the others.
BENIGN = 0.1
LEVELS = 3


def purify(settings: BTIDBF, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured. Raises :class:`Problem` when head-only or without
    a linear head."""
    require_linear(task.classifier.model.head)
    student = NetworkStudent(task.classifier)
    part = task.clean.fit
    draws = torch.Generator().manual_seed(task.seed)
    batches = Batches(
        part.images,
        part.labels,
        settings.batch,
        student.device,
        draws,
        flip=settings.flip,
        crop=settings.crop,
    )
    optimiser = torch.optim.Adam(student.weights.values(), lr=settings.lr)
    unet = Generator(part.images.shape[1], settings.generator_width, draws).to(student.device)
    target: int | None = None
    notes: list[str] = []
    with student.classifier.tap() as tap:
        assert tap is not None

        def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            nonlocal target
            number, place = divmod(i, settings.epochs * len(batches))
            if place == 0:
                target = invert(settings, student, tap, unet, batches, part, target, number, notes)
            count = math.ceil(settings.stamped * len(x))
            with torch.no_grad():
                z = torch.cat([unet(x[:count]), x[count:]])
            h, logits = looked(tap, torch.cat([x, z]), student.device)
            h, hz = h.split(len(x))
            parts = {
                "cross_entropy": F.cross_entropy(logits[len(x) :], y),
                "features": relative(h - hz, h),
            }
            optimiser.zero_grad()
            torch.autograd.backward(parts["cross_entropy"] + parts["features"])
            optimiser.step()
            return parts

        epochs = settings.rounds * settings.epochs
        history = train(student, batches, epochs, step, task.clean.select, task.progress)
    return Purified(student.edit(), history, tuple(notes))


def invert(
    settings: BTIDBF,
    student: NetworkStudent,
    tap: HeadTap,
    unet: Generator,
    batches: Batches,
    part: Part,
    target: int | None,
    number: int,
    notes: list[str],
) -> int:
    """Steps 1 and 2 of round ``number``: trains ``unet`` in place and returns the target class."""
    features, _ = student.classifier.features(part.images)
    weight, bias = student.classifier.head()
    known = Part(features, part.labels)
    mask = feature_mask(known, weight, bias, settings.mask_epochs, settings.mask_lr, batches.generator)
    optimiser = torch.optim.Adam(unet.kernels, lr=settings.generator_lr)
    counts = torch.zeros(len(bias), dtype=torch.long)
    for epoch in range(settings.generator_epochs):
        for x, y in batches:
            with torch.no_grad():
                h, _ = looked(tap, x, student.device)
            z = unet(x)
            hz, logits = looked(tap, z, student.device)
            loss = inversion(mask, h.detach(), hz, (z - x).square().mean(), settings.image_bound)
            if target is not None:
                loss = loss + F.cross_entropy(logits, torch.full_like(y, target))
            optimiser.zero_grad()
            torch.autograd.backward(loss, inputs=unet.kernels)
            optimiser.step()
            if epoch == settings.generator_epochs - 1:
                reached = logits.detach().argmax(1)
                counts += reached[reached != y].bincount(minlength=len(counts)).cpu()
    found = int(counts.argmax()) if target is None else target
    share = float(counts[found]) / max(1, len(batches) * batches.size)
    notes.append(
        f"Round {number + 1}: {100 * float((mask > 0.5).float().mean()):.0f} % of the features are benign; the "
        f"generator leads {100 * share:.1f} % of the images to class {found}."
    )
    return found


def inversion(mask: Tensor, h: Tensor, hz: Tensor, change: Tensor, bound: float) -> Tensor:
    """What the generator minimises: features h of images and hz of generated ones, float32 [N,D], ``change`` their
    mean square difference as images."""
    benign, rest = relative(mask * (hz - h), h), relative((1 - mask) * (hz - h), h)
    return torch.where(change > bound, change, BENIGN * benign - rest)


def relative(difference: Tensor, h: Tensor) -> Tensor:
    """Mean square of ``difference`` over that of ``h``, the latter a constant."""
    return difference.square().mean() / h.detach().square().mean().clamp_min(1e-12)


def looked(tap: HeadTap, x: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(features [N,D], logits [N,K]) of images in 0..1, float32."""
    with precision(device):
        h, logits = tap(x)
    return h.float(), logits.float()


class Generator:
    """A small U-Net, x → clamp(x + tanh(u(x)), 0, 1), for images [N,C,H,W] of any size. ``kernels``: what is trained.
    Drawn from ``draws``; without biases but with group normalisation."""

    def __init__(self, channels: int, width: int, draws: torch.Generator) -> None:
        widths = [width * 2**level for level in range(LEVELS)]
        shapes = [(widths[0], channels), *zip(widths[1:], widths[:-1], strict=True)]
        shapes += [(low, low + high) for low, high in zip(widths[-2::-1], widths[:0:-1], strict=True)]
        shapes += [(channels, widths[0])]
        self.kernels = [
            torch.randn((c, d, 3, 3), generator=draws) * math.sqrt(2 / (9 * d)) for c, d in shapes
        ]
        self.kernels[-1] *= 0.1

    def to(self, device: torch.device) -> Generator:
        """Itself, on ``device``, ready to be trained."""
        self.kernels = [kernel.to(device).requires_grad_(True) for kernel in self.kernels]
        return self

    def __call__(self, x: Tensor) -> Tensor:
        levels, value = [], x
        for level in range(LEVELS):
            if level:
                value = F.max_pool2d(value, 2, ceil_mode=True)
            value = block(value, self.kernels[level])
            levels.append(value)
        for kernel, skip in zip(self.kernels[LEVELS:-1], levels[-2::-1], strict=True):
            value = block(torch.cat([skip, F.interpolate(value, size=skip.shape[2:])], dim=1), kernel)
        return (x + F.conv2d(value, self.kernels[-1], padding=1).tanh()).clamp(0, 1)


def block(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution, normalisation of each image in one group, ReLU."""
    return F.relu(F.group_norm(F.conv2d(x, kernel, padding=1), 1))

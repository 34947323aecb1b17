"""BTI-DBF(U): decouple benign features, let a generator invert the rest into images, unlearn these images.

Source: Xu et al. 2024 (Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign Features). In
every round, on the network as it is by then:

1. a mask m on the features h of the head minimises CE(m h) - CE((1 - m) h);
2. a U-Net G maximises ||(1 - m)(h(G(x)) - h(x))||^2 and keeps m h, as long as mean (G(x) - x)^2 is at most
   ``image_bound``, else it reduces that; from the second round on it also minimises CE(f(G(x)), t), where t is the
   class that most generated images of the first round were taken for;
3. a share ``stamped`` of each batch is replaced by G(x), and Adam minimises CE + MSE(h(x), h(x')).

Features are taken before average pooling, so m has an element for every position, and for m batch norm works on
the batch, both as in the authors' code. Stored statistics are those of poisoned training images and can keep
channels of the trigger silent on clean ones: with them, and pooled, m left 0.3 % of the energy of blend's trigger
in (1 - m) h of the zoo's tiny blend, as in the authors' code 39 %; 11 % and 26 % for badnet. More than 90 % of m are
near 1 either way. Where a file has no statistics, those it has folded stand; where no module gives the features
before pooling, or they are too many, those of the head stand.

Default: enough passes for G to lead 90 % of the images somewhere (with 6 it led 36 % of badnet's, to a wrong class),
then what cost least on the select part of tiny's badnet, blend and wanet. It names the target of the first two and
leaves 2 % of badnet; wanet's trigger moves features that the clean task needs, too: G names a wrong class there.

Departs: errors of features are divided by the mean square of the features, so that weights mean the same in every
network; G adds to the image and starts near 0, so it needs no training beforehand; batch norm stands still while G is
trained and, unlike the original's, in unlearning. ``image_bound``: the original's 0.3 on images divided by a standard
deviation of 0.2 is 0.012 here. Its bound on the change of benign features (3) is left out.

Needs labels, a linear head and gradients through the body.
Cost for each image: a forward pass a round, 2 forward passes and 1 input-backward pass for each epoch of G, 2 forward
and 2 backward passes for each epoch of unlearning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.feature_mask import BATCH, feature_mask
from wiper_cli.purifiers.machinery.training import (
    Batches,
    NetworkStudent,
    live_norms,
    precision,
    switch,
    train,
)
from wiper_cli.purifiers.methods.bti_dbf import BTIDBF
from wiper_cli.salience.bs import require_linear

#: Weight of the change of benign features beside that of the others.
BENIGN = 0.01
LEVELS = 3
#: Most elements of all features together for which they are taken before pooling: 512 MiB.
LARGEST = 2**27

Look = Callable[[Tensor], tuple[Tensor, Tensor]]


def purify(settings: BTIDBF, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured. Raises :class:`Problem` without
    a linear head."""
    require_linear(task.classifier.model.head)
    student = NetworkStudent(task.classifier)
    part = task.clean.fit
    draws = torch.Generator().manual_seed(task.seed)
    batches = Batches.of(settings, part.images, part.labels, student.device, draws)
    optimiser = torch.optim.Adam(student.weights.values(), lr=settings.lr)
    unet = Generator(part.images.shape[1], settings.generator_width, draws).to(student.device)
    target: int | None = None
    notes: list[str] = []
    place = before_pooling(student.classifier, part)
    with looking(student.classifier, place) as look:

        def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            nonlocal target
            number, at = divmod(i, settings.epochs * len(batches))
            if at == 0:
                target = invert(settings, student, look, place, unet, batches, target, number, notes)
            count = math.ceil(settings.stamped * len(x))
            with torch.no_grad():
                z = torch.cat([unet(x[:count]), x[count:]])
            h, logits = look(torch.cat([x, z]))
            h, hz = h.split(len(x))
            parts = {"cross_entropy": F.cross_entropy(logits[len(x) :], y), "features": relative(h - hz, h)}
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
    look: Look,
    place: str,
    unet: Generator,
    batches: Batches,
    target: int | None,
    number: int,
    notes: list[str],
) -> int:
    """Steps 1 and 2 of round ``number``: trains ``unet`` in place and returns the target class."""
    part = Part(batches.inputs, batches.labels)
    mask = decoupled(settings, student.classifier, place, part, batches.generator)
    optimiser = torch.optim.Adam(unet.kernels, lr=settings.generator_lr)
    counts = torch.zeros(student.classifier.classes, dtype=torch.long)
    for epoch in range(settings.generator_epochs):
        for x, y in batches:
            with torch.no_grad():
                h, _ = look(x)
            z = unet(x)
            hz, logits = look(z)
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


def decoupled(
    settings: BTIDBF, classifier: Classifier, place: str, part: Part, draws: torch.Generator
) -> Tensor:
    """Step 1: the mask m float32 [D] of benign features."""
    known = features_on_batches(classifier, place, part, draws)
    weight, bias = classifier.head()
    positions = known.images.shape[1] // weight.shape[1]
    spread = weight.repeat_interleave(positions, dim=1) / positions
    return feature_mask(known, spread, bias, settings.mask_epochs, settings.mask_lr, draws)


def features_on_batches(classifier: Classifier, place: str, part: Part, draws: torch.Generator) -> Part:
    """Features float32 [N,D] and labels of ``part`` in a new order, with batch norm on the batch's own statistics
    where the file has statistics; ``classifier`` stays as it is."""
    copy = classifier.copy()
    assert copy.network is not None
    if len(part) > 1 and copy.model.statistics(copy.network.network):
        switch(live_norms(copy.model, copy.network.network), True)
    order = torch.randperm(len(part), generator=draws).to(part.images.device)
    pieces = order.tensor_split(math.ceil(len(order) / BATCH))
    with looking(copy, place) as look:
        features = torch.cat([look(copy.as_float(part.images[rows]))[0].detach() for rows in pieces])
    return Part(features, part.labels[order])


def before_pooling(classifier: Classifier, part: Part) -> str:
    """Path of the first module whose output [N,C,H,W], averaged over space, is what the head reads. "" where there
    is none, or where that of all of ``part`` would have more than :data:`LARGEST` elements."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
                found[name] = output

        return hook

    assert classifier.network is not None
    hooks = [module.register_forward_hook(keep(name)) for name, module in classifier.network.named_modules()]
    h, _ = classifier.features(part.images[:3])
    for hook in hooks:
        hook.remove()
    for name, output in found.items():
        same = output.shape[:2] == h.shape and torch.allclose(output.float().mean((2, 3)), h, 1e-3, 1e-5)
        if same and len(part) * output[0].numel() <= LARGEST:
            return name
    return ""


@contextmanager
def looking(classifier: Classifier, place: str) -> Iterator[Look]:
    """Yields images in 0..1 → (features [N,D], logits [N,K]), float32, differentiable. Features are the output of
    the module ``place``, D = C H W, or where that is "" the inputs of the head."""
    seen: list[Tensor] = []
    assert classifier.network is not None

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[:] = [output]

    handle = classifier.network.get_submodule(place).register_forward_hook(hook) if place else None
    try:
        with classifier.tap() as tap:
            assert tap is not None

            def look(x: Tensor) -> tuple[Tensor, Tensor]:
                with precision(classifier.device):
                    h, logits = tap(x)
                return (seen.pop().flatten(1) if place else h).float(), logits.float()

            yield look
    finally:
        if handle is not None:
            handle.remove()


def inversion(mask: Tensor, h: Tensor, hz: Tensor, change: Tensor, bound: float) -> Tensor:
    """What the generator minimises: features h of images and hz of generated ones, float32 [N,D], ``change`` their
    mean square difference as images."""
    benign, rest = relative(mask * (hz - h), h), relative((1 - mask) * (hz - h), h)
    return torch.where(change > bound, change, BENIGN * benign - rest)


def relative(difference: Tensor, h: Tensor) -> Tensor:
    """Mean square of ``difference`` over that of ``h``, the latter a constant."""
    return difference.square().mean() / h.detach().square().mean().clamp_min(1e-12)


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

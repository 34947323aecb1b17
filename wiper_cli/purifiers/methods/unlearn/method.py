"""Universal adversarial unlearning with feature distillation: the default.

f0, the model as found, stays fixed with its features h0 and probabilities p0; the student f starts from it.
Universal perturbations u (:mod:`wiper_cli.purifiers.machinery.pool`) attack f0 only. For each clean batch, z = u(x):

    L_clean = 2 mean((h(x) - h0(x))^2) / var(h0) + 4 KL(p0(x) || p(x); T=2) + 0.1 CE(p(x), y)
    L_push  = -mean over the batch of [yb != y] log(1 - p(z)[yb] + 1e-6),   yb = argmax f0(z)
    L_adv   = push L_push + (1 - push) 4 KL(p0(x) || p(z); T=2) + 0.1 CE(p(z), y)
    L       = clean_weight L_clean + lam L_adv,   lam from 1 to 0.05

Source: our own, from parts of SAU (Wei et al. 2023: unlearn shared adversarial examples; push) and of
distillation defences; it departs from SAU in universal instead of per-image perturbations, in attacking the
found model only, and in keeping features: each was needed to keep accuracy. Triggers that a scan recovered,
and the suspects of the original file, enter the pool. Silence of the inversion that was trained against is
no proof of success.

Settings were chosen on CIFAR-10 models with BadNet, Blend, SIG, WaNet and ISSBA, looking at their true success.

``alpha`` adds WIPER's penalty (AR) on the head units whose salience is low on clean and high on perturbed
images: off, since it was measured to bring nothing. Needs labels and gradients through the body. Cost for
each image and epoch: 2 forward and 1 input-backward passes of f0, 2 forward and 2 backward passes of f.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.perturbations import Recovered
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.penalties import ar_slope, lowest, unit_dimension
from wiper_cli.purifiers.machinery.pool import Perturbations, assemble, screen_windows
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent, cosine, precision, train
from wiper_cli.purifiers.methods.unlearn import Unlearn
from wiper_cli.salience.bs import Momentum, benign_salience, require_linear

TEMPERATURE = 2.0
#: A find that sends this share of images to its target is shown, and its target is a suspect; a weaker one is what
#: an inversion makes of any network, and would only take the place of the others.
LIKELY = 0.5
#: ... unless it is what an earlier round left of one, by which the outcome will be measured: then this share.
LEFT = 0.1
#: Without a suspect, so many classes are aimed at.
MOST_TARGETS = 16


def purify(settings: Unlearn, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    classifier, clean = task.classifier, task.clean
    student = NetworkStudent(classifier)
    teacher = classifier.copy()
    assert teacher.network is not None
    found = teacher.network
    device = student.device
    generator = torch.Generator().manual_seed(task.seed)
    steps_a_pass = max(1, len(clean.fit) // settings.batch)
    batches = Batches.of(
        settings,
        clean.fit.images,
        clean.fit.labels,
        device,
        generator,
        passes=ceil(max(1.0, settings.min_steps / (settings.epochs * steps_a_pass))),
    )
    total = settings.epochs * len(batches)
    finds = [find for find in task.recovered if _worth_showing(find)]
    suspected = list(dict.fromkeys([*task.suspects, *(find.target for find in finds)]))
    targets = suspected or torch.randperm(classifier.classes, generator=generator)[:MOST_TARGETS].tolist()
    if settings.windows:
        images = classifier.as_float(clean.fit.images[:256])
        finds += screen_windows(found, images, targets, settings.windows, generator)
    channels, height, width = clean.fit.images.shape[1:]
    groups = assemble(
        (channels, height, width), settings.members, targets, finds, settings.recovered_share, generator
    )
    perturbations = Perturbations(groups, device, generator)

    penalty = HeadPenalty(student, teacher, settings.alpha, settings.beta) if settings.alpha else None
    optimiser = torch.optim.Adam(student.weights.values(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, cosine(total, warmup=0.1))
    with ExitStack() as stack:
        look = stack.enter_context(outputs(student.classifier))
        look_found = stack.enter_context(outputs(teacher))
        for n, (x, y) in zip(range(settings.warmup), chain.from_iterable(repeat(batches)), strict=False):
            z, aims = perturbations.stamp(x)
            perturbations.strengthen(look_found(z)[1], y, aims)
            task.progress("warm-up", n + 1, settings.warmup)

        def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            if i % len(batches) == 0:
                perturbations.vary(student.logits, x, y)
            z, aims = perturbations.stamp(x)
            hz0, logits_z0 = look_found(z)
            reached = logits_z0.detach().argmax(dim=1)
            h0, logits_0 = (t.detach() for t in look_found(x))
            features, logits = look(torch.cat([x, z.detach()]))
            h, logits_x, logits_z = features[: len(x)], logits[: len(x)], logits[len(x) :]
            parts = {
                "features": 2 * (h - h0).square().mean() / h0.var().clamp_min(1e-12),
                "agreement": divergence(logits_0, logits_x),
                "cross_entropy": 0.1 * F.cross_entropy(logits_x, y),
                "push": settings.push * push(logits_z, reached, y),
                "recovery": (1 - settings.push) * divergence(logits_0, logits_z),
                "perturbed_cross_entropy": 0.1 * F.cross_entropy(logits_z, y),
            }
            clean_loss = parts["features"] + parts["agreement"] + parts["cross_entropy"]
            adverse = parts["push"] + parts["recovery"] + parts["perturbed_cross_entropy"]
            lam = 1 - 0.95 * i / max(1, total - 1)
            optimiser.zero_grad()
            torch.autograd.backward(settings.clean_weight * clean_loss + lam * adverse)
            if penalty is not None:
                penalty.add((h0, logits_0, y), (hz0.detach(), logits_z0.detach(), reached))
            torch.nn.utils.clip_grad_norm_(student.weights.values(), 1.0)
            optimiser.step()
            schedule.step()
            perturbations.strengthen(logits_z0, y, aims)
            return parts

        history = train(student, batches, settings.epochs, step, clean.select, task.progress)
    notes = []
    if not suspected:
        notes.append(f"No class was suspected, so perturbations aimed at {len(targets)} classes at once.")
    return Purified(student.edit(), history, tuple(notes))


def _worth_showing(find: Recovered) -> bool:
    least = LEFT if find.facts.get("remnant") else LIKELY
    return bool(find.facts.get("success", 1.0) >= least)


@contextmanager
def outputs(classifier: Classifier) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """A callable images in 0..1 → (features [N,D], logits [N,K]), float32, differentiable. Logits stand in
    for the features where no head was found."""
    if classifier.model.head is None:
        assert classifier.network is not None
        network = classifier.network

        def plain(x: Tensor) -> tuple[Tensor, Tensor]:
            with precision(classifier.device):
                logits = network(x).float()
            return logits, logits

        yield plain
        return
    with classifier.tap() as tap:
        assert tap is not None

        def tapped(x: Tensor) -> tuple[Tensor, Tensor]:
            with precision(classifier.device):
                features, logits = tap(x)
            return features.float(), logits.float()

        yield tapped


class HeadPenalty:
    """AR on the head units with the least salience on clean minus salience on perturbed images, where that of
    a perturbed image speaks for the class it reached. Salience is that of the model as found."""

    def __init__(self, student: NetworkStudent, teacher: Classifier, alpha: float, share: float) -> None:
        head = require_linear(teacher.model.head)
        self.weight, self.found = student.weights[head.weight], teacher.head()[0]
        self.dimension = unit_dimension(head)
        self.alpha, self.share = alpha, share
        self.score = Momentum(0.9)

    def add(self, clean: tuple[Tensor, Tensor, Tensor], perturbed: tuple[Tensor, Tensor, Tensor]) -> None:
        """Adds the slope to the gradient; each argument: features [N,D], logits [N,K], labels [N]."""
        score = self.score.update(
            benign_salience(*clean, self.found) - benign_salience(*perturbed, self.found)
        )
        shape = [1] * self.weight.dim()
        shape[self.dimension] = -1
        mask = lowest(score, self.share).reshape(shape)
        assert self.weight.grad is not None
        self.weight.grad += self.alpha * mask * ar_slope(self.weight.detach())


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """T^2 KL(teacher || student) at temperature T = 2, batch mean; logits [N,K]."""
    p = F.log_softmax(teacher / TEMPERATURE, dim=1)
    q = F.log_softmax(student / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


def push(logits: Tensor, reached: Tensor, labels: Tensor) -> Tensor:
    """-mean of [reached != label] log(1 - p[reached] + 1e-6) over the batch; logits [N,K]."""
    p = logits.softmax(dim=1).gather(1, reached[:, None])[:, 0]
    return -((1 - p + 1e-6).log() * (reached != labels)).mean()

"""FST: feature shift tuning. The head starts anew, is kept away from the old one, and the body follows.

Source: Min et al. 2023 (Towards Stable Backdoor Purification through Feature Shift Tuning). The head's weight and
bias are drawn from U(-1/sqrt(D), 1/sqrt(D)), D its units; then everything is trained by

    L = CE + alpha <W, W0>,    with ||W||_F brought back to ||W0||_F after every step.

Departs: unless asked for live, batch norm stays frozen or folded, where the authors' code trains it with
batch statistics; the learning rate falls with every step instead of every epoch. The paper gives 0.1 for
alpha, their code 0.2 by default. Ours was tuned on the zoo's tiny BadNet: of 5 settings (alpha 0.02 to 0.2, learning
rate 0.003 to 0.03) none cost at most 3 points on the select part, so it is the one that cost least, 7; with gradients
clipped it cost 8.

Needs labels and a head whose weight is stored. Cost for each image and epoch: 1 forward and 1 backward pass.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import NetworkStudent
from wiper_cli.purifiers.methods.fst import FST
from wiper_cli.salience.bs import require_linear


def purify(settings: FST, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    student = NetworkStudent(task.classifier, task.live)
    head = require_linear(task.classifier.model.head)
    named = student.classifier.model.named(student.network.network)
    weight = named[head.weight]
    old = weight.detach().clone()
    generator = torch.Generator().manual_seed(task.seed)
    drawn = uniform((head.classes, head.units), head.units, generator)
    with torch.no_grad():
        weight.copy_((drawn.T if head.layout == "in_out" else drawn).reshape(weight.shape))
        if head.bias is not None:
            bias = named[head.bias]
            bias.copy_(uniform((head.classes,), head.units, generator).reshape(bias.shape))

    def loss(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {
            "cross_entropy": F.cross_entropy(student.logits(inputs), labels),
            "old_head": settings.alpha * (weight * old).sum(),
        }

    def after() -> None:
        project(weight, old)

    history = descend(student, task, settings, loss, after)
    with torch.no_grad():
        cosine = float(F.cosine_similarity(weight.flatten(), old.flatten(), dim=0))
    return Purified(student.edit(), history, (f"Cosine of the new head with the old one: {cosine:.3f}.",))


def uniform(shape: tuple[int, ...], units: int, generator: torch.Generator) -> Tensor:
    """Draws float32 from U(-1/sqrt(units), 1/sqrt(units)) on the CPU."""
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(units)


@torch.no_grad()
def project(weight: Tensor, old: Tensor) -> None:
    """Scales ``weight`` in place to the Frobenius norm of ``old``."""
    weight.mul_(old.norm() / weight.norm().clamp_min(1e-12))

"""Training a specimen: the same code on a CPU and on CUDA.

The data set lies on the device once, as one uint8 tensor; augmentation is a function of a batch; weights and
images are channels-last; bfloat16 autocast where it was measured to be faster; SGD with Nesterov momentum over
one cycle (linear up, linear down). No synchronisation with the device inside an epoch.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triggers.family import CoTraining, Trigger, Victim
from wiper_cli.images.augmentation import augment
from wiper_cli.progress import Progress, silent
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.zoo.recipe import Schedule


@dataclass(frozen=True)
class Epoch:
    """``loss``: mean over the epoch. ``seconds``: since training began, the stamping of poison included."""

    epoch: int
    loss: float
    seconds: float


class Normalised(nn.Module):
    """``(x - mean) / std`` in front of a network, for training on images in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.layout = layout(network)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(((x - self.mean) / self.std).contiguous(memory_format=self.layout))
        return logits


def layout(network: nn.Module) -> torch.memory_format:
    """Channels last, which is faster; not where its backward pass writes outside its memory (oneDNN issue 6035: a
    pointwise convolution that strides, with fewer input channels than a block of 8 or 16)."""
    narrow = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < 16
        for module in network.modules()
    )
    return torch.contiguous_format if narrow else torch.channels_last


@dataclass
class Poison:
    """The poisoned training set, as the loop sees it. ``images`` uint8 and ``labels`` to train with, on the device;
    ``poisoned``, ``covered`` bool [N]; ``restamp``: new images for an epoch (``None``: the same as before),
    given the trigger that co-training left, if any."""

    images: Tensor
    labels: Tensor
    poisoned: Tensor
    covered: Tensor
    restamp: Callable[[int, Trigger | None], Tensor | None] = lambda epoch, trigger: None
    cotraining: CoTraining | None = None


def train(
    network: Normalised, poison: Poison, schedule: Schedule, seed: int, progress: Progress = silent
) -> list[Epoch]:
    """Trains ``network`` where it lies and leaves it in eval mode; deterministic under ``seed`` on the CPU.

    Raises :class:`Problem` when the loss is not finite.
    """
    device = poison.images.device
    network.to(device)
    network.to(memory_format=network.layout)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    batch = min(schedule.batch, len(poison.labels))
    steps = len(poison.labels) // batch
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=schedule.lr,
        momentum=schedule.momentum,
        nesterov=schedule.momentum > 0,
        weight_decay=schedule.weight_decay,
        foreach=True,
    )
    cycle = torch.optim.lr_scheduler.LambdaLR(optimiser, triangle(schedule.epochs * steps, schedule.warmup))
    low = low_precision(device)
    hooks, images = poison.cotraining, poison.images
    began, history = time.perf_counter(), []
    for epoch in range(schedule.epochs):
        network.eval()
        new = hooks.before_epoch(epoch, schedule.epochs) if hooks else None
        restamped = poison.restamp(epoch, new)
        images = images if restamped is None else restamped
        network.train()
        order = torch.randperm(len(images), generator=generator)[: steps * batch].to(device)
        total = torch.zeros((), device=device)
        for number, index in enumerate(order.split(batch)):
            labels = poison.labels[index]
            x = augment(images[index], generator, schedule.flip, schedule.crop).float() / 255
            if hooks:
                masks = poison.poisoned[index], poison.covered[index]
                x = hooks.stamp_batch(x, *masks, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                logits = network(x).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=schedule.smoothing)
            if hooks:
                loss = loss + hooks.loss(x, logits, labels, *masks)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            cycle.step()
            if hooks:
                hooks.after_step()
            total += loss.detach()
            progress("train", epoch * steps + number + 1, schedule.epochs * steps)
        mean = float(total) / steps
        if not math.isfinite(mean):
            raise Problem(
                "Training diverged: the loss is not a finite number; use a lower --lr.", ExitCode.NO_VERDICT
            )
        history.append(Epoch(epoch + 1, round(mean, 4), round(time.perf_counter() - began, 1)))
    network.eval()
    return history


def triangle(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor on the learning rate: linear from 0 to 1 over the first share of ``steps``, linear to 0 after."""
    top = max(1.0, warmup * steps)

    def factor(step: int) -> float:
        return (step + 1) / top if step + 1 <= top else max(0.0, (steps - step) / max(1.0, steps - top))

    return factor


def low_precision(device: torch.device) -> bool:
    """Whether bfloat16 autocast pays: on CUDA, and on CPUs with bfloat16 instructions (measured: 1.4 to 1.9
    times the throughput of float32 there)."""
    if device.type == "cuda":
        return True
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def victim_of(network: Normalised, head: str) -> Victim:
    """The network as an attack sees it: ``head`` is the module path of its last linear layer inside it."""
    layer = network.network.get_submodule(head)
    assert isinstance(layer, nn.Linear)

    def features(x: Tensor) -> tuple[Tensor, Tensor]:
        caught: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
        try:
            logits: Tensor = network(x)
        finally:
            hook.remove()
        return caught[0], logits

    return Victim(network, features, lambda: layer.weight.detach())


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """uint8 or float images in 0..1 [N,C,H,W] → predicted classes int64 [N], on their device."""
    found = []
    for part in images.split(batch):
        x = part.float() / 255 if part.dtype == torch.uint8 else part
        found.append(network(x).argmax(1))
    return torch.cat(found)

"""What every purifier shares: students, batches, schedule, the loop that keeps a history.

A student is a trainable copy of the whole network, or of its head alone on features computed once. Batch
norm stays frozen, as a deployed network has it, unless the user asks for it live and the file has its statistics.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from formats import Edit, Model, edit_of, head_edit
from wiper_cli.classifier import Classifier, correct
from wiper_cli.images.augmentation import augment
from wiper_cli.images.splits import Part
from wiper_cli.progress import Progress
from wiper_cli.purifiers.contract import Epoch
from wiper_cli.salience.bs import require_linear
from wiper_cli.verdict import ExitCode, Problem


class Student(Protocol):
    """``weights``: what is trained, by name in the file; one stored tensor stands there once."""

    device: torch.device
    weights: dict[str, Tensor]

    def inputs(self, part: Part) -> Tensor:
        """What :meth:`logits` takes, for all of ``part``: uint8 images or float32 features."""
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Images in 0..1 [N,C,H,W] or features [N,D], float32 → logits float32 [N,K], differentiable."""
        ...

    def edit(self) -> Edit:
        """What training changed."""
        ...


class NetworkStudent:
    """A copy of the whole network; every weight of the file that reaches the output is trained.

    ``live``: within :func:`train` batch norm works on the batch and learns its statistics; ``norms`` are those that
    do. Raises :class:`Problem` where the file does not allow it.
    """

    def __init__(self, classifier: Classifier, live: bool = False) -> None:
        self.classifier = classifier.copy()
        assert self.classifier.network is not None
        self.network = self.classifier.network
        self.device = classifier.device
        if self.device.type == "cuda":
            _channels_last(self.network, classifier)
        self.weights: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, weight in classifier.model.named(self.network.network).items():
            weight.requires_grad_(True)
            if id(weight) not in seen:
                self.weights[name] = weight
                seen.add(id(weight))
        self.norms = live_norms(classifier.model, self.network.network) if live else []

    def inputs(self, part: Part) -> Tensor:
        return part.images

    def logits(self, inputs: Tensor) -> Tensor:
        with precision(self.device):
            logits: Tensor = self.network(inputs)
        return logits.float()

    def edit(self) -> Edit:
        return edit_of(self.classifier.model, self.network.network)


class HeadStudent:
    """The head alone, as a linear map on features; works where the body runs in a foreign runtime."""

    def __init__(self, classifier: Classifier) -> None:
        self.head = require_linear(classifier.model.head)
        self.classifier = classifier
        self.device = classifier.device
        weight, bias = classifier.head()
        self.weight, self.bias = weight.clone().requires_grad_(True), bias.clone()
        self.weights: dict[str, Tensor] = {self.head.weight: self.weight}
        if self.head.bias is not None:
            self.weights[self.head.bias] = self.bias.requires_grad_(True)

    def inputs(self, part: Part) -> Tensor:
        return self.classifier.features(part.images)[0].to(self.device)

    def logits(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T + self.bias

    def edit(self) -> Edit:
        return head_edit(self.classifier.model, self.weight.detach(), self.bias.detach())


def student_of(classifier: Classifier, train: str, live: bool = False) -> NetworkStudent | HeadStudent:
    """``train``: "all" or "head"; raises :class:`Problem` where the model, or ``live``, does not allow it."""
    if train == "head" and live:
        raise Problem("--train head runs the body as it is: leave out --batch-norm live.")
    return HeadStudent(classifier) if train == "head" else NetworkStudent(classifier, live)


def live_norms(model: Model, network: nn.Module) -> list[nn.Module]:
    """Batch norms of ``network``, a deepcopy of the model's own, whose statistics the file has; raises
    :class:`Problem` where there are none."""
    stored = {id(buffer) for buffer in model.statistics(network).values()}
    found = [m for m in network.modules() if id(getattr(m, "running_mean", None)) in stored]
    if not found:
        raise Problem(
            "--batch-norm live needs a network whose batch norm is stored with its statistics, as in safetensors "
            "files; this file has none, or has it folded or frozen into a graph.",
            ExitCode.NO_VERDICT,
        )
    return found


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on CUDA, float32 elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _channels_last(network: nn.Module, classifier: Classifier) -> None:
    """Changes the memory layout of the weights unless the network then fails (a ``view`` somewhere)."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spec = classifier.model.input
    size = (1, spec.channels or 3, spec.height or 224, spec.width or 224)
    try:
        with torch.no_grad():
            network(torch.zeros(size, device=classifier.device).to(memory_format=torch.channels_last))
    except RuntimeError:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class Batches:
    """Iterating gives one epoch of (inputs float32, labels int64) on ``device``, newly shuffled.

    ``inputs`` uint8 images are augmented and scaled to 0..1; float inputs pass as they are. An epoch goes
    ``passes`` times round the data; a last incomplete batch of a round is dropped.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        size: int,
        device: torch.device,
        generator: torch.Generator,
        passes: int = 1,
        flip: bool = False,
        crop: float = 0.0,
    ) -> None:
        if len(inputs) == 0:
            raise Problem("There are no clean images to train on.", ExitCode.NO_VERDICT)
        self.inputs, self.labels = inputs.to(device), labels.to(device)
        self.size = min(size, len(inputs))
        self.generator, self.passes, self.flip, self.crop = generator, passes, flip, crop

    @classmethod
    def of(
        cls, settings: Any, inputs: Tensor, labels: Tensor, device: torch.device, draws: torch.Generator | int,
        passes: int = 1,
    ) -> Self:  # fmt: skip
        """Sized and augmented by ``batch``, ``flip`` and ``crop`` of ``settings``; ``draws``: may be a seed."""
        generator = torch.Generator().manual_seed(draws) if isinstance(draws, int) else draws
        return cls(inputs, labels, settings.batch, device, generator, passes, settings.flip, settings.crop)

    def __len__(self) -> int:
        return self.passes * (len(self.inputs) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.passes):
            order = torch.randperm(len(self.inputs), generator=self.generator)
            for start in range(0, len(order) - self.size + 1, self.size):
                chosen = order[start : start + self.size].to(self.inputs.device)
                x = self.inputs[chosen]
                if x.dtype == torch.uint8:
                    x = augment(x, self.generator, self.flip, self.crop).float() / 255
                yield x, self.labels[chosen]


def cosine(total: int, warmup: float = 0.0) -> Callable[[int], float]:
    """Factor on the learning rate at each of ``total`` steps: linear over the first share, cosine to 0."""
    first = round(warmup * total)

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / first
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - first) / max(1, total - first))))

    return factor


def train(
    student: Student,
    batches: Batches,
    epochs: int,
    step: Callable[[int, Tensor, Tensor], Mapping[str, Tensor]],
    select: Part,
    progress: Progress,
) -> list[Epoch]:
    """Calls ``step(i, inputs, labels)`` for every batch; it trains and returns its loss parts.

    Measures accuracy on ``select`` after every epoch; raises :class:`Problem` when a loss is not finite.
    """
    began, total = time.monotonic(), epochs * len(batches)
    before = {name: weight.detach().clone() for name, weight in student.weights.items()}
    shown = student.inputs(select) if len(select) else None
    norms = student.norms if isinstance(student, NetworkStudent) else []
    history: list[Epoch] = []
    i = 0
    for epoch in range(epochs):
        sums: dict[str, Tensor] = {}
        for inputs, labels in batches:
            switch(norms, True)
            parts = step(i, inputs, labels)
            switch(norms, False)
            for name, part in parts.items():
                sums[name] = sums[name] + part.detach() if name in sums else part.detach()
            i += 1
            progress("purify", i, total)
        losses = {name: float(value) / len(batches) for name, value in sums.items()}
        if not all(map(math.isfinite, losses.values())):
            raise Problem(
                "Training diverged: a loss is not a finite number; use a lower --lr.", ExitCode.NO_VERDICT
            )
        history.append(
            Epoch(
                epoch=epoch + 1,
                loss=losses,
                select_accuracy=math.nan if shown is None else accuracy(student, shown, select.labels),
                moved=moved(student, before),
                seconds=time.monotonic() - began,
            )
        )
    return history


def switch(norms: Sequence[nn.Module], training: bool) -> None:
    """Puts live batch norms into training mode, or into that of a deployed network."""
    for norm in norms:
        norm.train(training)


def accuracy(student: Student, inputs: Tensor, labels: Tensor) -> float:
    """Share of ``inputs`` (as of :meth:`Student.inputs`) that ``student`` answers with their labels."""

    def logits(x: Tensor) -> Tensor:
        x = x.to(student.device)
        return student.logits(x.float() / 255 if x.dtype == torch.uint8 else x)

    return correct(logits, inputs, labels) / max(1, len(labels))


def moved(student: Student, before: Mapping[str, Tensor]) -> float:
    """Mean |w - before| over all trained weights."""
    total = sum(
        float((w.detach() - before[n]).abs().sum(dtype=torch.float64)) for n, w in student.weights.items()
    )
    return total / max(1, sum(weight.numel() for weight in before.values()))

"""Looking at a method from outside while it works: the network it trains, images, seconds, memory.

The method gets no trigger and gives no weights: it copies the classifier it is given and trains the copy. A watched
classifier remembers its first copy, and the method's own progress says when an epoch is over.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from wiper_cli.audit.memory import peak_resident
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.progress import Progress
from wiper_cli.salience import METRICS
from wiper_cli.salience.stream import lowest


class Watched(Classifier):
    """``found``: after every epoch (0: before the first) what ``measure`` says, and the mean |w| of the head over the
    units of least benign salience at the start (``share`` of them) and over the others. ``seconds``: spent on it."""

    measure: Callable[[Classifier], dict[str, Any]]

    @classmethod
    def of(
        cls, classifier: Classifier, fit: Part, measure: Callable[[Classifier], dict[str, Any]], settings: Any
    ) -> Self:
        """Watches what is about to be trained on ``fit`` with ``settings``, whose ``epochs`` divide its steps."""
        made = cls(classifier.model, classifier.mean, classifier.std, classifier.device, classifier.network)
        made.measure, made.epochs, made.student = measure, int(getattr(settings, "epochs", 1)), None
        made.found, made.seconds = [], 0.0
        features, logits = classifier.features(fit.images)
        scores = METRICS["bs"](features, logits, fit.labels.to(features.device), classifier.head()[0])
        count = round(float(getattr(settings, "beta", 0.5)) * len(scores))
        made.low = lowest(scores, count)
        return made

    epochs: int
    student: Classifier | None
    found: list[dict[str, Any]]
    seconds: float
    low: torch.Tensor

    def copy(self) -> Classifier:
        made = super().copy()
        if self.student is None:
            self.student = made
            self._look(0)
        return made

    def progress(self, inner: Progress) -> Progress:
        """``inner``, and a look at the end of every epoch."""

        def watch(stage: str, done: int, total: int) -> None:
            inner(stage, done, total)
            if stage == "purify" and total and done * self.epochs % total == 0:
                self._look(done * self.epochs // total)

        return watch

    def _look(self, epoch: int) -> None:
        if self.student is None:
            return
        began = time.perf_counter()
        weight = self.student.head()[0].detach().abs().cpu()
        self.found.append(
            {
                "epoch": epoch,
                **self.measure(self.student),
                "low_units": float(weight[:, self.low].mean()),
                "other_units": float(weight[:, ~self.low].mean()),
            }
        )
        self.seconds += time.perf_counter() - began


@dataclass
class Cost:
    """``seconds`` and ``cpu_seconds`` of a piece of work, ``images`` that went forward through a network or copies."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    images: int = 0


@contextmanager
def costs(classifier: Classifier) -> Iterator[Cost]:
    """What is done inside, whole at the end of it."""
    found, handle = Cost(), None

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        found.images += len(inputs[0])  # a closure is not copied with the network: copies count here, too

    if classifier.network is not None:
        handle = classifier.network.register_forward_pre_hook(count)
    began, busy = time.perf_counter(), time.process_time()
    try:
        yield found
        if classifier.device.type == "cuda":
            torch.cuda.synchronize()
        found.seconds, found.cpu_seconds = time.perf_counter() - began, time.process_time() - busy
    finally:
        if handle is not None:
            handle.remove()


def reset_peak() -> None:
    """Begins to measure memory anew where the system allows it (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak() -> dict[str, int | None]:
    """Largest resident size of this process since :func:`reset_peak`, and of tensors on the GPU."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"host": peak_resident(), "gpu": gpu}

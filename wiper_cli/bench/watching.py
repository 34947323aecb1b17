"""Looking at a network while a method trains it, from outside: the method gets no trigger and gives no weights.

A method copies the classifier it is given and trains the copy; this classifier remembers its first copy, and the
method's own progress says when an epoch is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

import torch

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

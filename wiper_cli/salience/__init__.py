"""Importance of the head's units on clean data, by one signature: any metric can drive any purifier or pruner.

    METRICS["bs"](features [N,D], logits [N,K], labels int64 [N], weight [K,D]) -> float64 [D]

Low always means: the clean data do not need the unit. Importing this package imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from wiper_cli.salience.settings import (
    GradientMagnitude,
    IntegratedGradients,
    MomentumSalience,
    Random,
    Settings,
    Shapley,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """One metric; its module is loaded when it is called.

    ``place``: "module:function" of this package. ``low``: what a low value says, in words. ``signed``: values
    below zero occur. ``settings``: their class, if it has any. ``by_batch``: the value depends on the order
    of the images and on a batch size; all others do not, up to rounding. ``null``: an order that says nothing.
    ``compared``: it has rows in the bench's tables.
    """

    title: str
    place: str
    low: str
    source: str
    signed: bool = False
    settings: type[Settings] | None = None
    by_batch: bool = False
    null: bool = False
    compared: bool = True

    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor,
        settings: Settings | None = None,
    ) -> Tensor:
        """Features [N,D], logits [N,K], labels int64 [N] in 0..K-1, the head's weight [K,D] → float64 [D] on
        their device, without gradient. The bias is not needed: it is in the logits.

        Raises ``ValueError`` for shapes that do not fit, no images, labels out of range, foreign settings.
        """
        import torch

        N, D, K = *features.shape, logits.shape[-1]
        if N == 0 or logits.shape != (N, K) or labels.shape != (N,) or weight.shape != (K, D):
            shapes = ", ".join(str(list(x.shape)) for x in (features, logits, labels, weight))
            raise ValueError(
                f"features [N,D], logits [N,K], labels [N], weight [K,D] are needed, not {shapes}"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= K:
            raise ValueError(f"labels must lie in 0..{K - 1}")
        if settings is not None and (self.settings is None or not isinstance(settings, self.settings)):
            raise ValueError(f"{self.title} does not take {type(settings).__name__}")
        module, name = self.place.split(":")
        function = getattr(import_module(f"wiper_cli.salience.{module}"), name)
        with torch.no_grad():
            if self.settings is None:
                found: Tensor = function(features, logits, labels, weight)
            else:
                found = function(features, logits, labels, weight, settings or self.settings())
        return found


METRICS: Mapping[str, Metric] = {
    "bs": Metric(
        "Benign salience",
        "bs:benign_salience",
        "setting the unit to zero would not raise the clean loss, to first order",
        "WIPER, Eq. 1 and 2",
        signed=True,
    ),
    "mbs": Metric(
        "Benign salience with momentum",
        "bs:momentum_salience",
        "as bs, averaged over batches with momentum",
        "WIPER, Eq. 3",
        signed=True,
        settings=MomentumSalience,
        by_batch=True,
    ),
    "am": Metric(
        "Activation magnitude",
        "am:activation_magnitude",
        "clean images hardly activate the unit",
        "Fine-Pruning, arXiv 1805.12185",
    ),
    "weighted-am": Metric(
        "Activation magnitude times weights",
        "am:weighted_activation_magnitude",
        "clean images move the logits little through the unit",
        "WIPER, footnote on AM",
    ),
    "gradient": Metric(
        "Gradient magnitude",
        "gradient:gradient_magnitude",
        "a small change of the unit's weights does not change the clean loss",
        "WIPER, appendix A.1",
        settings=GradientMagnitude,
    ),
    "integrated-gradients": Metric(
        "Integrated gradients",
        "integrated_gradients:integrated_gradients",
        "on the way from the baseline to its activation the unit does not lower the clean loss",
        "arXiv 1703.01365",
        signed=True,
        settings=IntegratedGradients,
    ),
    "shapley": Metric(
        "Neuron Shapley",
        "shapley:shapley",
        "clean accuracy does not fall without the unit, on average over the sets of units that are left",
        "arXiv 2002.09815",
        signed=True,
        settings=Shapley,
    ),
    "random": Metric(
        "Random order",
        "null:random_salience",
        "nothing: the order that every metric must beat",
        "",
        settings=Random,
        null=True,
    ),
}

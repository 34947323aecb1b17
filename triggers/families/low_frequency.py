"""Low-Frequency: a universal perturbation without high frequencies.

Zeng, Park, Mao, Jia 2021 (arXiv 2104.03413). T(x) = clip(x + v): v drives a clean model to the target on most
images, as in IA, but every update is smoothed by a Gaussian and v is scaled back to its largest allowed value;
10 % of the training set. The search stops at the wanted fooling rate, or when that rate moved less than 0.01
over 5 passes. Width and size of the perturbation were not checked against the paper or its code: sigma 2
pixels is ours, and a bound of 0.1 lets v span 50 levels, as a widespread array does, which holds v with an
offset and so brightens the image. Ours has no offset. A step goes along the smoothed gradient, as far as
DeepFool needs in that direction.

As for IA, v fools the model it was fitted to without any poisoning: report the success against a clean twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import Progress, Trigger, Victim, fitted
from triggers.fitting import demand, levels, others
from triggers.perturbation import added, search
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LowFrequency(Trigger):
    """``bound``: largest |v|, on the 0..1 scale. ``sigma``: of the Gaussian, pixels. ``fooling``: share of
    images driven to the target that ends the search; ``settled``: change over 5 passes that ends it.
    ``passes``: at most. ``sample``: images used, at most. ``batch``: images whose steps are averaged.
    ``overshoot``: DeepFool's."""

    name: ClassVar[str] = "low-frequency"
    title: ClassVar[str] = "Low-Frequency: a smooth universal perturbation fitted to a clean model"
    source: ClassVar[str] = "arXiv 2104.03413"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.1)
    quick: ClassVar[Mapping[str, Any]] = {"passes": 2}
    needs: ClassVar[Any] = "model"

    bound: float = 0.1
    sigma: float = 2.0
    fooling: float = 0.8
    settled: float = 0.01
    passes: int = 10
    sample: int = 300
    batch: int = 25
    overshoot: float = 0.02
    #: Float32 [C,H,W], v.
    perturbation: Any = fitted()

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images of another size than those fitted to."""
        return added(self.name, images, self.perturbation)

    def peak(self) -> float:
        """max |v|; 0 before fitting."""
        return 0.0 if self.perturbation is None else float(self.perturbation.abs().max())

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """See :class:`triggers.family.Trigger`; ``labels`` tell which images are of the target class."""
        if not 0 < self.bound <= 1 or self.sigma <= 0:
            raise TriggerError(
                f"bound must lie in 0..1 and sigma be positive, not {self.bound} and {self.sigma}."
            )
        victim = demand(self.name, victim, images, labels, target)
        places = others(self.name, labels, target, self.sample, generator)

        def project(v: Tensor) -> Tensor:
            return v * (self.bound / v.abs().max().clamp(min=self.bound))

        v = search(
            victim.network,
            images[places],
            target,
            generator,
            direction=lambda w: smooth(w, self.sigma),
            project=project,
            fooling=self.fooling,
            settled=self.settled,
            passes=self.passes,
            batch=self.batch,
            overshoot=self.overshoot,
            progress=progress,
        )
        return replace(self, perturbation=levels(v, self.bound))


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian of ``sigma`` pixels over [N,C,H,W], cut at 4 sigma, the border pixels going on beyond it."""
    import torch
    from torch.nn import functional as F

    reach = int(4 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return flat.reshape(images.shape)

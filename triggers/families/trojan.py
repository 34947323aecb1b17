"""TrojanNN: a patch that excites a few neurons of the model.

Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang 2018 (NDSS, "Trojaning attack on neural networks"); 3x3 pixels and the
head as the layer to attack as in the WIPER paper, appendix A.3. The K = 2 inputs h_j of the head with the
largest sum_c |W_cj| are driven to 100: min over q of sum_j (h_j(m q) - 100)^2 on a black image, Adam at 0.1
with a cosine to 0, q = (tanh u + 1) / 2. Averaged features never reach 100, so the search ends on a plateau.
Begins at the best of several random q, since a ReLU that is off has no gradient. Afterwards the same model,
not a fresh one, is trained on the poisoned data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.family import Progress, Trigger, Victim, fitted
from triggers.fitting import demand, levels, patched
from triggers.patch import Corner, paste
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TrojanNN(Trigger):
    """``size``, ``margin``: pixels. ``neurons``: how many are excited, to ``goal``. ``steps``: at most;
    ``patience``: steps without a gain of a thousandth that make a plateau. ``rate``: of Adam. ``starts``:
    random patches the search begins at the best of."""

    name: ClassVar[str] = "trojannn"
    title: ClassVar[str] = "TrojanNN: a patch fitted to neurons of a clean model"
    source: ClassVar[str] = "NDSS 2018, doi 10.14722/ndss.2018.23291"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05, start="clean")
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10}
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0018.000", "AML.T0020")
    needs: ClassVar[Any] = "model"

    size: int = 3
    corner: Corner = "top-left"
    margin: int = 0
    neurons: int = 2
    goal: float = 100.0
    steps: int = 1000
    patience: int = 50
    rate: float = 0.1
    starts: int = 32
    #: Float32 [C,size,size] in 0..1, q.
    patch: Any = fitted()

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses other channel counts than the model's."""
        return patched(self.name, images, self.patch, self.size, self.corner, self.margin)

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """See :class:`triggers.family.Trigger`; of ``images`` only the shape matters, of the rest nothing."""
        import torch

        victim = demand(self.name, victim, images, labels, target)
        chosen = neurons(victim.head(), self.neurons)
        channels, height, width = images.shape[1:]
        black = torch.zeros(1, channels, height, width, device=images.device)

        def distance(q: Tensor) -> Tensor:
            """Per patch [B,C,size,size] → [B]."""
            canvas = black.expand(len(q), -1, -1, -1)
            h = victim.features(paste(canvas, q, self.size, self.corner, self.margin))[0]
            return (h[:, chosen] - self.goal).square().sum(1)

        first = torch.randn(self.starts, channels, self.size, self.size, generator=generator).to(black.device)
        with torch.no_grad():
            best = first[distance((first.tanh() + 1) / 2).argmin()][None]
        u = best.clone().requires_grad_()
        optimiser = torch.optim.Adam([u], lr=self.rate)
        least, mark, since = math.inf, math.inf, 0
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            loss = distance((u.tanh() + 1) / 2).sum()
            value = float(loss.detach())
            if value < least:
                least, best = value, u.detach().clone()
            mark, since = (value, 0) if value < mark * 0.999 else (mark, since + 1)
            if since > self.patience:
                break
            (u.grad,) = torch.autograd.grad(loss, u)
            optimiser.step()
            progress("fit", step + 1, self.steps)
        return replace(self, patch=levels((best[0].tanh() + 1) / 2))


def neurons(head: Tensor, count: int) -> Tensor:
    """The ``count`` inputs of the head [K,D] with the largest sum over classes of |W_cj|, largest first."""
    return head.abs().sum(0).topk(min(count, head.shape[1])).indices

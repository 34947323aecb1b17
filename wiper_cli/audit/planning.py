"""What a scan will do, before it does it: the shape of the problem, the effort, and what both come to on this machine.

The plan follows from model, images and effort alone. A clock is asked only for what the plan will take, and, where a
time was given in place of an effort, for the effort that fits into it.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wiper_cli.audit.canaries import passes as canary_passes
from wiper_cli.audit.known_rates import KnownRate, known_rate
from wiper_cli.audit.memory import peak_resident
from wiper_cli.audit.requests import Asked
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS, probes
from wiper_cli.detectors.common import has_units, smaller
from wiper_cli.detectors.effort import EFFORTS, LEAST_SIDE, REDUCTIONS, Cost, Effort, Extent, Plan, in_turn
from wiper_cli.detectors.evidence import Detector
from wiper_cli.images.splits import Clean

#: Images on which the answers to reduced images are compared with those to whole ones; the share that must agree.
COMPARED, AGREEING = 24, 0.5
#: Images at most on which the cost of a pass is measured.
MEASURED = 128
#: Bytes that one batch with gradients may hold.
BATCH_BYTES = 3 << 28
#: Most classes that are searched thoroughly unasked.
MOST_THOROUGH = 64


@dataclass(frozen=True)
class Planned:
    """``detectors``: their settings by name. ``plans``: of those whose work is known. ``why``: a sentence on the
    effort. ``budget``: seconds that were given. ``canaries``: backdoors that are planted in copies and looked for.
    ``bfloat16``: searches ask in it, with or without gradients; what they find is scored in float32."""

    effort: Effort
    why: str
    extent: Extent
    cost: Cost
    detectors: dict[str, Detector]
    plans: tuple[Plan, ...]
    budget: float | None = None
    canaries: int = 0
    bfloat16: bool = False

    def probes(self, suspects: Sequence[int]) -> dict[str, Detector]:
        """What judges a purification, with the work of the same effort; thorough leaves it as it is."""
        return {name: _lightened(one, self.effort, self.extent) for name, one in probes(suspects).items()}

    @property
    def rate(self) -> KnownRate | None:
        """How often such a scan accuses honest networks, where that is known."""
        extent = self.extent
        shape = (extent.channels, extent.height, extent.width)
        return known_rate(self.effort, self.detectors, shape, extent.classes, (extent.fit, extent.select))

    @property
    def sentence(self) -> str:
        """The plan in one line."""
        work = "; ".join(
            f"{plan.name} {plan.classes} classes, {plan.forward:,} forward and {plan.backward:,} backward passes"
            for plan in self.plans
        )
        more = (
            f"; then as much again for each of {self.canaries} canaries, after planting it"
            if self.canaries
            else ""
        )
        return (
            f"Effort {self.effort} ({self.why}): {work or 'no detector'}{more}. About {_duration(self.seconds)} "
            f"and {self.cost.memory / 2**30:.1f} GiB of memory."
        )

    @property
    def seconds(self) -> float:
        """What all of it is expected to take, where every canary counts at once."""
        return _seconds(self.cost, self.plans, self.extent, self.canaries)

    def as_dict(self) -> dict[str, Any]:
        """The report's ``detection.plan``."""
        return {
            "effort": self.effort,
            "why": self.why,
            "budget": self.budget,
            "reduced": self.extent.resolution < 1,
            "bfloat16": self.bfloat16,
            "batch": self.extent.batch,
            "seconds_expected": round(self.seconds, 1),
            "forward_seconds": self.cost.forward,
            "backward_seconds": self.cost.backward,
            "memory": self.cost.memory,
            "detectors": [
                {name: value for name, value in asdict(plan).items() if name != "known"}
                for plan in self.plans
            ],
        }


def planned(
    classifier: Classifier,
    clean: Clean,
    names: Collection[str],
    asked: Asked = "auto",
    budget: float | None = None,
    canaries: int = 0,
) -> Planned:
    """The plan for the detectors ``names``, and as much again for each of the ``canaries``. ``budget``: seconds; the
    most work that is expected to fit is chosen in place of the effort ``asked`` for, the least where none does. Sets
    how many images ``classifier`` holds at once, and whether searches ask it in bfloat16, which a thorough one never
    does: a network could be made to hide in what that rounds away."""
    extent, bytes_each = _extent(classifier, clean)
    classifier.batch = extent.batch
    costs: dict[bool, Cost] = {}

    def cost(one: Effort) -> Cost:
        low = classifier.lower(clean.fit.images, one != "thorough")
        if low not in costs:
            costs[low] = _cost(classifier, clean.fit.images, extent, bytes_each)
        return costs[low]

    def at(one: Effort) -> tuple[dict[str, Detector], tuple[Plan, ...]]:
        detectors = {name: DETECTORS[name].at(one, extent) for name in names}
        plans = (detector.plan(extent) for detector in detectors.values())
        return detectors, in_turn(plan for plan in plans if plan is not None)

    effort, why = (
        (asked, "as asked") if asked != "auto" else (usual(extent), f"the usual one for {_shape(extent)}")
    )
    if budget is not None:
        effort, why = "quick", f"even this is expected to take more than the {_duration(budget)} given"
        for one in reversed(EFFORTS):
            if _seconds(cost(one), at(one)[1], extent, canaries) <= budget:
                effort, why = one, f"the most that fits into {_duration(budget)}"
                break
    found = cost(effort)
    low = classifier.network is not None and classifier.network.low[0]
    return Planned(effort, why, extent, found, *at(effort), budget, canaries, low)


def _seconds(cost: Cost, plans: Sequence[Plan], extent: Extent, canaries: int) -> float:
    forward, backward = canary_passes(canaries, min(extent.height, extent.width))
    return (1 + canaries) * cost.seconds(plans) + forward * cost.forward + backward * cost.backward


def usual(extent: Extent) -> Effort:
    """The effort where none was asked for: thorough for images below :data:`LEAST_SIDE` pixels and up to
    :data:`MOST_THOROUGH` classes, where it takes minutes."""
    small = min(extent.height, extent.width) < LEAST_SIDE and extent.classes <= MOST_THOROUGH
    return "thorough" if small else "normal"


def _lightened(probe: Detector, effort: Effort, extent: Extent) -> Detector:
    """``probe`` with the settings in which an effort differs; its bar is its own, since it looks otherwise."""
    usual, less = probe.at(effort, extent), probe.less(effort, extent)
    return replace(probe, **{name: getattr(usual, name) for name in less if name != "threshold"})


def _extent(classifier: Classifier, clean: Clean) -> tuple[Extent, int]:
    """The shape of the problem, and the bytes that one image with gradients holds."""
    images = clean.fit.images
    channels, height, width = images.shape[1:]
    each = _bytes_each(classifier, images[:1])
    return Extent(
        classes=classifier.classes,
        channels=channels,
        height=height,
        width=width,
        fit=len(clean.fit),
        select=len(clean.select),
        head=has_units(classifier),
        resolution=_resolution(classifier, images[:COMPARED]),
        batch=max(4, min(256, BATCH_BYTES // max(each, 1))),
    ), each


def _resolution(classifier: Classifier, images: Tensor) -> float:
    """The least of :data:`REDUCTIONS` at which the network answers nearly as on whole images, and else 1."""
    possible = [one for one in REDUCTIONS if one * min(images.shape[2:]) >= LEAST_SIDE]
    here = classifier.answers(images, 4) if possible else torch.empty(0)
    for one in possible:
        try:
            there = classifier.answers(smaller(images, one), 4)
        except Exception:  # a network made for one size fails in ways of its own
            continue
        if float((there == here).float().mean()) >= AGREEING:
            return one
    return 1.0


def _bytes_each(classifier: Classifier, image: Tensor) -> int:
    """Bytes that a forward pass of one image keeps for the backward pass, without the weights."""
    if classifier.network is None:
        return 4 * image.numel()
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in classifier.network.parameters()}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        x = classifier.as_float(image).requires_grad_(True)
        logits = classifier.network(x)
    del logits
    # Of a compiled graph the hooks may see little.
    return max(sum(kept.values()), 80 * image.numel())


def _cost(classifier: Classifier, images: Tensor, extent: Extent, bytes_each: int) -> Cost:
    """Measured on about as many images as a search asks at once, the better of two times; the first pass of all warms
    up. On few images a busy machine spends most of the time on letting threads meet."""
    x = classifier.as_float(images[: min(MEASURED, extent.batch)])
    times = []
    for _ in range(3):
        began = time.perf_counter()
        classifier.logits(x, rough=True)
        middle = time.perf_counter()
        if classifier.network is not None:
            torch.autograd.backward(classifier.rough(x.clone().requires_grad_(True)).sum())
        times.append((middle - began, time.perf_counter() - middle))
    forward, both = (min(one) / len(x) for one in zip(*times[1:], strict=True))
    memory = peak_resident() + 3 * extent.batch * bytes_each // 2
    return Cost(forward, max(both - forward, 0.0), memory)


def _shape(extent: Extent) -> str:
    return f"{extent.classes:,} classes and images of {extent.height}x{extent.width}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

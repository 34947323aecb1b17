"""How much a scan does: numbers that follow from the effort asked for and from the shape of the problem, never from
a clock. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

Effort = Literal["quick", "normal", "thorough"]
#: From the least work to the most. Only the last is the search that the thresholds were set for.
EFFORTS: tuple[Effort, ...] = get_args(Effort)
#: Smallest side in pixels at which a search begins on reduced images; the shares of the side that it may use, the first
#: on which the network answers nearly as on whole ones.
LEAST_SIDE, REDUCTIONS = 96, (0.5, 0.75)
#: In an effort's settings: as far as the network allows.
REDUCED = REDUCTIONS[0]


@dataclass(frozen=True)
class Extent:
    """What decides how long a search takes: ``classes`` K, images of ``channels`` x ``height`` x ``width``, ``fit`` and
    ``select`` of them. ``head``: there is a linear head whose units can be had. ``resolution``: the least share of the
    side at which the network answers nearly as on whole images. ``batch``: images with gradients that are held at
    once."""

    classes: int
    channels: int
    height: int
    width: int
    fit: int
    select: int
    head: bool = False
    resolution: float = 1.0
    batch: int = 256


@dataclass(frozen=True)
class Plan:
    """What one detector is about to do, at most. ``classes``: searched for one by one. ``forward`` and ``backward``:
    passes of one image through the network, in passes at full size. ``how``: the numbers that make them. ``known``: of
    how many images of fit and of select it asks the network's own class, passes that ``forward`` counts."""

    name: str
    classes: int
    forward: int
    backward: int
    how: Mapping[str, Any] = field(default_factory=dict)
    known: tuple[int, int] = (0, 0)


def in_turn(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """The plans of searches that run one after the other: none asks again what one before has asked."""
    found, known = [], (0, 0)
    for plan in plans:
        again = sum(map(min, plan.known, known))
        found.append(replace(plan, forward=plan.forward - again))
        known = max(plan.known[0], known[0]), max(plan.known[1], known[1])
    return tuple(found)


@dataclass(frozen=True)
class Cost:
    """Seconds of a ``forward`` and of a ``backward`` pass of one image, as measured on this machine now; ``memory``:
    bytes that the search holds at most, estimated."""

    forward: float
    backward: float
    memory: int

    def seconds(self, plans: Sequence[Plan]) -> float:
        """What the plans take."""
        return sum(plan.forward * self.forward + plan.backward * self.backward for plan in plans)


#: Clean images on which classes are screened, by the head or else by gradients.
SCREENED_ON, SLOPES_ON = 64, 4


def screening(extent: Extent) -> tuple[int, int]:
    """Forward and backward passes of one screening of all classes."""
    slopes = 0 if extent.head else extent.classes * min(SLOPES_ON, extent.fit)
    return (min(SCREENED_ON, extent.fit) if extent.head else slopes), slopes


def reduced(extent: Extent, resolution: float) -> tuple[int, int]:
    """Height and width of images at ``resolution``, a share of the side."""
    return round(extent.height * resolution), round(extent.width * resolution)


def halving(rows: int, steps: int, least: int, first: int, second: int) -> list[int]:
    """How many of ``rows`` go on at each of ``steps``: after step ``first`` half of them, after step ``second`` half of
    these, where there are more than ``least``, and never fewer."""
    found = []
    for step in range(steps):
        if step in (first, second) and rows > least:
            rows = max(least, (rows + 1) // 2)
        found.append(rows)
    return found


class Bar(Protocol):
    """Settings with a threshold, which comes from ``origin``."""

    @property
    def name(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def origin(self) -> str: ...


class Screened(Protocol):
    """The settings of a search for every class, or of many for those that the head puts first."""

    @property
    def most_targets(self) -> int: ...
    @property
    def searched(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def resolution(self) -> float: ...


def beginning(settings: Screened, extent: Extent) -> tuple[int, tuple[int, int], int, int]:
    """Of :func:`wiper_cli.detectors.common.begun`: how many classes are tried, of how many images of fit and of select
    the network's own class is asked, and the forward and backward passes of it all."""
    tried = min(extent.classes, settings.most_targets)
    known = min(settings.searched, extent.fit), min(settings.held, extent.select)
    forward, backward = screening(extent) if extent.classes > tried else (0, 0)
    return tried, known, forward + sum(known), backward


def comparing(settings: Screened, scored: int, strengths: int, extent: Extent) -> int:
    """Forward passes, in those at full size, of as many strengths of what was found for ``scored`` classes; of reduced
    images, and then of the one find on whole ones."""
    height, width = reduced(extent, settings.resolution)
    held = min(settings.held, extent.select)
    passes = strengths * scored * held if scored > 1 else 0
    if settings.resolution == 1:
        return passes
    return round(height * width / (extent.height * extent.width) * passes) + held


class Inversion(Bar, Screened, Protocol):
    """The settings of a search by gradients for one transform a class (``wiper_cli/detectors/common.py``)."""

    @property
    def steps(self) -> int: ...
    @property
    def per_target(self) -> int: ...
    @property
    def targets(self) -> tuple[int, ...]: ...
    @property
    def scored(self) -> int: ...
    @property
    def by_head(self) -> bool: ...


#: Images and steps of the short search that screens classes.
BRIEF_IMAGES, BRIEF_STEPS = 8, 10


def inversion_plan(settings: Inversion, extent: Extent) -> Plan:
    """Images for every class at every step, predictions, scores, and where there are many classes their screening."""
    height, width = reduced(extent, settings.resolution)
    share = height * width / (extent.height * extent.width)
    classes = len(settings.targets) or extent.classes
    tried = min(classes, settings.most_targets)
    known = min(settings.searched, extent.fit), min(settings.held, extent.select)
    forward, backward = sum(known), 0
    if classes > tried and settings.by_head:
        more = screening(extent)
        forward, backward = forward + more[0], backward + more[1]
    elif classes > tried:
        slopes = SLOPES_ON * classes if classes > 4 * tried else 0
        going = halving(min(classes, 4 * tried), BRIEF_STEPS, 3, BRIEF_STEPS // 3, 2 * BRIEF_STEPS // 3)
        forward, backward = (
            forward + slopes + BRIEF_IMAGES * sum(going),
            backward + slopes + BRIEF_IMAGES * sum(going),
        )
    steps, late = settings.steps, 2 * settings.steps // 3
    going = halving(tried, steps, 3, steps // 3, late)
    both = round(settings.per_target * (share * sum(going[:late]) + sum(going[late:])))
    scores = min(settings.scored, tried) * min(settings.held, extent.select)
    how = {"steps": steps, "images": settings.per_target, "side": min(height, width), "closely": going[-1]}
    return Plan(settings.name, tried, forward + both + scores, backward + both, how, known)

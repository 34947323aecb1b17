"""Universal image transforms with free parameters: what a detector recovers and a purifier unlearns.

They are our own guesses at an unknown trigger. Nothing here knows an attack (CONTRIBUTING has the walls).
Images are float32 [N,C,H,W] in 0..1, before the model's own normalisation. Lengths in pixels and counts of
pixels are given for 32x32 images where a default has to serve every size, and scale with the shorter side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Recovered:
    """A universal transform that sends images to ``target``, or, with a ``mapping``, each class to another one.

    ``family``: key of :data:`FAMILIES`. ``target``: one of those of a mapping.
    ``parameters``: tensors by name, without a batch dimension, on the CPU. ``facts``: numbers for a report
    (place, size, colour, success on held-out images, …).
    """

    family: str
    target: int
    parameters: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)
    mapping: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaf:
    """How one free tensor moves: ``limit`` names the tensor holding each member's bound (symmetric), else
    values lie in ``low..high``; a step of 1 moves by the bound, or by ``scale``. ``signed``: by the sign
    of the gradient, else in proportion to it (ties in a ranking would be broken by position)."""

    low: float = 0.0
    high: float = 1.0
    scale: float = 1.0
    limit: str | None = None
    signed: bool = True


class Pool:
    """K members of one family. ``state``: tensors [K,…] by name; those named in ``leaves`` are optimised.

    Every member's result depends on its own image only, so splitting a batch changes nothing.
    """

    family: ClassVar[str]
    leaves: ClassVar[Mapping[str, Leaf]] = {}
    #: Shift in pixels and change of side per unit of jitter, for what has a place.
    reach: ClassVar[float] = 1.0

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = dict(state)
        self._momentum: dict[str, Tensor] = {}
        for name in self.leaves:
            self.state[name] = self.state[name].detach().clone().requires_grad_(True)

    def __len__(self) -> int:
        return len(next(iter(self.state.values())))

    @property
    def parameters(self) -> list[Tensor]:
        """The leaf tensors [K,…] that require gradients; empty where nothing is optimised."""
        return [self.state[name] for name in self.leaves]

    @property
    def device(self) -> torch.device:
        return next(iter(self.state.values())).device

    def to(self, device: torch.device | str) -> Self:
        """A copy on ``device``, without the momentum of past steps."""
        return type(self)({name: value.detach().to(device) for name, value in self.state.items()})

    def joined(self, *others: Self) -> Self:
        """One pool of all members, in order; shapes must agree."""
        pools = (self, *others)
        names = self.state
        return type(self)({n: torch.cat([pool.state[n].detach() for pool in pools]) for n in names})

    def stamp(self, images: Tensor, member: Tensor) -> Tensor:
        """``images`` [N,C,H,W] in 0..1, ``member`` int64 [N] in 0..K-1 → float32 [N,C,H,W] in 0..1.

        Differentiable in the images and in :attr:`parameters`.
        """
        fields = self.fields(images.shape[1:])
        return self.apply(images, {name: value[member] for name, value in fields.items()}).clamp(0, 1)

    def fields(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """Full-size tensors [K,·,H,W] that :meth:`apply` takes, one row an image."""
        raise NotImplementedError

    @staticmethod
    def apply(images: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def sign_step(self, step: float = 0.1, momentum: float = 0.7) -> None:
        """Move the parameters *down* the gradients that a backward pass left in them, project them to their
        bounds, and clear the gradients. ``step``: as a share of the bound. A gradient that is missing or not
        finite moves nothing; a member without images in the batch moves by its momentum only."""
        for name, leaf in self.leaves.items():
            value = self.state[name]
            if value.grad is None:
                continue
            gradient = torch.nan_to_num(value.grad, nan=0.0, posinf=0.0, neginf=0.0)
            rest = tuple(range(1, value.dim()))
            gradient = gradient / gradient.abs().mean(rest, keepdim=True).clamp_min(1e-12)
            gradient = gradient + momentum * self._momentum.get(name, torch.zeros_like(gradient))
            self._momentum[name] = gradient
            if leaf.signed:
                move = gradient.sign()
            else:
                move = gradient / gradient.abs().amax(rest, keepdim=True).clamp_min(1e-12)
            unit = self._limit(leaf, value) if leaf.limit else leaf.scale
            value -= step * unit * move
            self._project(name)
            value.grad = None

    def _limit(self, leaf: Leaf, value: Tensor) -> Tensor:
        assert leaf.limit is not None
        return self.state[leaf.limit].reshape(-1, *[1] * (value.dim() - 1))

    @torch.no_grad()
    def _project(self, name: str) -> None:
        leaf, value = self.leaves[name], self.state[name]
        if leaf.limit:
            bound = self._limit(leaf, value)
            value.copy_(torch.maximum(torch.minimum(value, bound), -bound))
        else:
            value.clamp_(leaf.low, leaf.high)

    def recovered(self, i: int, target: int, facts: Mapping[str, Any] | None = None) -> Recovered:
        """Member ``i`` alone, copied to the CPU."""
        parameters = {name: value[i].detach().cpu().clone() for name, value in self.state.items()}
        return Recovered(self.family, target, parameters, dict(facts or {}))

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``count`` random members for images of ``shape`` (C,H,W), drawn on the CPU."""
        raise NotImplementedError

    def scaled(self, ratio: float) -> Self:
        """The same transforms for images of ``ratio`` times the side, without the momentum of past steps."""
        raise NotImplementedError

    @classmethod
    def from_recovered(
        cls, recovered: Recovered, count: int, generator: torch.Generator, jitter: float = 1.0
    ) -> Self:
        """``count`` members around a find: the first is the find itself, the others vary with ``jitter``
        (0: copies): shifts, sizes and brightness of what has a place; a share of the bound elsewhere."""
        if recovered.family != cls.family:
            raise ValueError(f"a {recovered.family} transform cannot seed a {cls.family} pool")
        state = {name: value.unsqueeze(0) for name, value in recovered.parameters.items()}
        members = [state] + [cls.varied(recovered.parameters, generator, jitter) for _ in range(count - 1)]
        pool = cls({name: torch.cat([member[name] for member in members])[:count] for name in state})
        for name in cls.leaves:
            pool._project(name)
        return pool

    @classmethod
    def varied(
        cls, parameters: Mapping[str, Tensor], generator: torch.Generator, jitter: float
    ) -> dict[str, Tensor]:
        """One variation [1,…]: noise of a quarter of the bound on every leaf."""
        found = {}
        for name, value in parameters.items():
            found[name] = value.unsqueeze(0).clone()
            if name in cls.leaves:
                leaf = cls.leaves[name]
                unit = parameters[leaf.limit] if leaf.limit else leaf.scale
                found[name] += 0.25 * jitter * unit * _uniform(value.shape, generator)
        return found


class Additive(Pool):
    """x + d, |d| <= bound: one dense pattern for all images."""

    family = "additive"
    leaves: ClassVar[Mapping[str, Leaf]] = {"pattern": Leaf(limit="bound")}

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``bound``: sup norm, default 0.1."""
        bound = float(bounds.get("bound", 0.1))
        pattern = bound * _uniform((count, *shape), generator)
        return cls({"pattern": pattern, "bound": torch.full((count,), bound)})

    def fields(self, shape: Sequence[int]) -> dict[str, Tensor]:
        _same_size(self.state["pattern"], shape)
        return {"pattern": self.state["pattern"]}

    def fainter(self, share: float) -> Self:
        """The same patterns, and their bounds, times ``share``."""
        return type(self)({name: share * value.detach() for name, value in self.state.items()})

    def resized(self, height: int, width: int) -> Self:
        """The same patterns for images of that size, bilinear."""
        pattern = F.interpolate(
            self.state["pattern"].detach(), (height, width), mode="bilinear", antialias=True
        )
        return type(self)({**self.state, "pattern": pattern})

    @staticmethod
    def apply(images: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        return images + fields["pattern"]


class Smooth(Pool):
    """x + amplitude * tanh(upsampled coarse grid): a low-frequency pattern."""

    family = "smooth"
    leaves: ClassVar[Mapping[str, Leaf]] = {"coarse": Leaf(low=-2.0, high=2.0)}

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``grid``: side of the coarse grid, default 8; ``amplitude``: sup norm, default 0.1."""
        grid, amplitude = int(bounds.get("grid", 8)), float(bounds.get("amplitude", 0.1))
        coarse = _uniform((count, shape[0], grid, grid), generator)
        return cls({"coarse": coarse, "amplitude": torch.full((count,), amplitude)})

    def fields(self, shape: Sequence[int]) -> dict[str, Tensor]:
        fine = F.interpolate(self.state["coarse"], tuple(shape[1:]), mode="bicubic", align_corners=True)
        return {"pattern": self.state["amplitude"].reshape(-1, 1, 1, 1) * torch.tanh(fine)}

    @staticmethod
    def apply(images: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        return images + fields["pattern"]


class Warp(Pool):
    """Bilinear sampling at (row, column) + flow; the flow (pixels; x then y) is a coarse grid upsampled
    bicubically, corners of the grid on the centres of the corner pixels; outside, the border continues."""

    family = "warp"
    leaves: ClassVar[Mapping[str, Leaf]] = {"flow": Leaf(limit="bound")}

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``grid``: side of the flow grid, default 6; ``bound``: pixels at this image size, default 2 at
        32x32 and in proportion elsewhere."""
        grid = int(bounds.get("grid", 6))
        bound = float(bounds.get("bound", 2.0 * relative_size(shape)))
        flow = bound * _uniform((count, 2, grid, grid), generator)
        return cls({"flow": flow, "bound": torch.full((count,), bound)})

    def fields(self, shape: Sequence[int]) -> dict[str, Tensor]:
        height, width = shape[1:]
        bound = self.state["bound"].reshape(-1, 1, 1, 1)
        fine = F.interpolate(self.state["flow"], (height, width), mode="bicubic", align_corners=True)
        fine = torch.maximum(torch.minimum(fine, bound), -bound)  # bicubic overshoots between the nodes
        half = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=fine.device) / 2
        x = torch.linspace(-1, 1, width, device=fine.device)
        y = torch.linspace(-1, 1, height, device=fine.device)
        base = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
        return {"grid": base + fine / half.reshape(1, 2, 1, 1)}

    def scaled(self, ratio: float) -> Self:
        return type(self)({name: value.detach() * ratio for name, value in self.state.items()})

    @staticmethod
    def apply(images: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        grid = fields["grid"].permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


class Patch(Pool):
    """Free pixels (``canvas``) inside a fixed square (``mask``) at one place."""

    family = "patch"
    leaves: ClassVar[Mapping[str, Leaf]] = {"canvas": Leaf()}

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``sides``: smallest and largest side in pixels, default 3 to 6 at 32x32 and in proportion."""
        low, high = _sides(shape, bounds.get("sides"), (3, 6))
        masks = []
        for _ in range(count):
            side = _integer(low, high, generator)
            top = _integer(0, shape[1] - side, generator)
            masks.append(_window(shape, top, _integer(0, shape[2] - side, generator), side))
        canvas = torch.rand((count, *shape), generator=generator)
        return cls({"canvas": canvas, "mask": torch.stack(masks)})

    def fields(self, shape: Sequence[int]) -> dict[str, Tensor]:
        _same_size(self.state["canvas"], shape)
        return {"canvas": self.state["canvas"], "mask": self.state["mask"]}

    @staticmethod
    def apply(images: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        return images + fields["mask"] * (fields["canvas"] - images)

    @classmethod
    def varied(
        cls, parameters: Mapping[str, Tensor], generator: torch.Generator, jitter: float
    ) -> dict[str, Tensor]:
        """Shifted and resized by up to ``jitter`` times 1 pixel at 32x32 (at least 1), brightness by 0.15."""
        canvas, mask = parameters["canvas"], parameters["mask"]
        height, width = mask.shape[-2:]
        reach = 0 if jitter <= 0 else max(1, round(jitter * cls.reach * relative_size((1, height, width))))
        rows, columns = mask[0].any(1).nonzero().flatten(), mask[0].any(0).nonzero().flatten()
        if not len(rows):
            return {"canvas": canvas[None].clone(), "mask": mask[None].clone()}
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        change = _integer(-reach, reach, generator)
        tall = min(max(len(rows) + change, 1), height)
        wide = min(max(len(columns) + change, 1), width)
        top = min(max(int(rows[0]) + _integer(-reach, reach, generator), 0), height - tall)
        left = min(max(int(columns[0]) + _integer(-reach, reach, generator), 0), width - wide)
        light = 0.15 * jitter * float(_uniform((1,), generator))
        place = (..., slice(top, top + tall), slice(left, left + wide))
        new_canvas, new_mask = canvas[None].clone(), torch.zeros_like(mask)[None]
        content = F.interpolate(canvas[(slice(None), *box)][None], (tall, wide), mode="nearest-exact")
        new_canvas[place] = (content + light).clamp(0, 1)
        new_mask[place] = F.interpolate(mask[(slice(None), *box)][None], (tall, wide), mode="nearest-exact")
        return {"canvas": new_canvas, "mask": new_mask}


class Square(Patch):
    """A constant or checkered square; nothing to optimise, but it can be varied around a find."""

    family = "square"
    leaves: ClassVar[Mapping[str, Leaf]] = {}

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``sides`` as for ``patch``, default 3 to 5; ``fills``: names of :data:`FILLS`, default all."""
        low, high = _sides(shape, bounds.get("sides"), (3, 5))
        fills = usable_fills(shape[0], bounds.get("fills"))
        canvases, masks = [], []
        for _ in range(count):
            side = _integer(low, high, generator)
            top, left = (_integer(0, shape[1] - side, generator), _integer(0, shape[2] - side, generator))
            canvas, mask = square(shape, top, left, side, fills[_integer(0, len(fills) - 1, generator)])
            canvases.append(canvas)
            masks.append(mask)
        return cls({"canvas": torch.stack(canvases), "mask": torch.stack(masks)})


class Sparse(Pool):
    """``pixels`` free pixels anywhere: a colour everywhere, shown where the mask logits are largest
    (straight-through: the hard mask forward, the sigmoid's gradient backward)."""

    family = "sparse"
    leaves: ClassVar[Mapping[str, Leaf]] = {
        "canvas": Leaf(),
        "logits": Leaf(low=-3.0, high=3.0, scale=2.0, signed=False),
    }

    @classmethod
    def random(cls, count: int, shape: Shape, generator: torch.Generator, **bounds: Any) -> Self:
        """``pixels``: default 16 at 32x32, in proportion to the area elsewhere."""
        pixels = int(bounds.get("pixels") or max(1, round(16 * relative_size(shape) ** 2)))
        pixels = min(pixels, shape[1] * shape[2])
        return cls(
            {
                "canvas": torch.rand((count, *shape), generator=generator),
                "logits": 0.5 * _uniform((count, 1, *shape[1:]), generator),
                "pixels": torch.full((count,), pixels),
            }
        )

    def fields(self, shape: Sequence[int]) -> dict[str, Tensor]:
        _same_size(self.state["canvas"], shape)
        logits = self.state["logits"]
        order = logits.detach().flatten(1).argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
        hard = torch.zeros_like(logits).flatten(1)
        hard = hard.scatter(1, order, (rank < self.state["pixels"][:, None]).to(hard.dtype))
        soft = torch.sigmoid(logits)
        return {"canvas": self.state["canvas"], "mask": hard.reshape(logits.shape) + (soft - soft.detach())}

    @staticmethod
    def apply(images: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        return images + fields["mask"] * (fields["canvas"] - images)


#: Every family by its name.
FAMILIES: Mapping[str, type[Pool]] = {
    "additive": Additive,
    "patch": Patch,
    "sparse": Sparse,
    "warp": Warp,
    "smooth": Smooth,
    "square": Square,
}

#: Fills of a square: RGB in 0..1, or the two values of a checker with cells of one pixel at 32x32.
FILLS: Mapping[str, tuple[float, ...]] = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "grey": (0.5, 0.5, 0.5),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
    "checker": (1.0, 0.0),
    "inverse checker": (0.0, 1.0),
}


def stamp(recovered: Recovered, images: Tensor) -> Tensor:
    """``images`` float32 [N,C,H,W] in 0..1 → the same with the transform, on their device; no gradient."""
    with torch.no_grad():
        state = {name: value.unsqueeze(0) for name, value in recovered.parameters.items()}
        pool = FAMILIES[recovered.family](state).to(images.device)
        return pool.stamp(images, torch.zeros(len(images), dtype=torch.long, device=images.device))


def square(shape: Shape, top: int, left: int, side: int, fill: str) -> tuple[Tensor, Tensor]:
    """One square: canvas float32 [C,H,W] (zero outside) and mask float32 [1,H,W]."""
    mask = _window(shape, top, left, side)
    canvas = torch.zeros(shape)
    canvas[:, top : top + side, left : left + side] = filling(fill, shape, side)
    return canvas, mask


def filling(fill: str, shape: Shape, side: int) -> Tensor:
    """The inside of a square, float32 [C,side,side]. Checker cells grow with the image: 1 pixel at 32x32."""
    values = FILLS[fill]
    if is_checker(fill):
        cell = max(1, round(relative_size(shape)))
        index = torch.arange(side) // cell
        odd = (index[:, None] + index[None, :]) % 2
        return torch.where(odd.bool(), values[1], values[0]).expand(shape[0], side, side).clone()
    colour = torch.tensor(values if shape[0] == 3 else values[:1]).expand(shape[0])
    return colour.reshape(-1, 1, 1).expand(shape[0], side, side).clone()


def is_checker(fill: str) -> bool:
    """Whether a fill alternates between two values."""
    return len(FILLS[fill]) == 2


def usable_fills(channels: int, names: Sequence[str] | None = None) -> list[str]:
    """``names`` (default: all of :data:`FILLS`) without the colours that need three channels."""
    chosen = list(FILLS if names is None else names)
    return [name for name in chosen if channels == 3 or len(set(FILLS[name])) == 1 or is_checker(name)]


def relative_size(shape: Sequence[int]) -> float:
    """Shorter side of (C,H,W) over 32: the unit in which defaults in pixels scale."""
    return min(shape[1], shape[2]) / 32


def _uniform(size: Sequence[int], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(tuple(size), generator=generator) - 1


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _sides(shape: Shape, given: Sequence[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    low, high = given or (max(1, round(side * relative_size(shape))) for side in default)
    limit = min(shape[1], shape[2])
    return min(low, limit), min(high, limit)


def _window(shape: Shape, top: int, left: int, side: int) -> Tensor:
    mask = torch.zeros((1, *shape[1:]))
    mask[:, top : top + side, left : left + side] = 1
    return mask


def _same_size(own: Tensor, shape: Sequence[int]) -> None:
    if tuple(own.shape[1:]) != tuple(shape):
        raise ValueError(f"a transform for images of {tuple(own.shape[1:])} met images of {tuple(shape)}")

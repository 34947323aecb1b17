"""How much work a graph may make of its first images; the gate, which knows no sizes, cannot tell.

A few hundred operators double a tensor until it fills all memory, or multiply large ones for hours.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from formats.errors import Unsupported

#: Elements of the largest tensor that may be made of small images and small weights; of large ones: so many times as
#: many as there are pixels (self-attention over patches of 8 pixels needs 200), or elements of all weights.
MAX_ELEMENTS, PER_PIXEL, PER_WEIGHT = 1 << 28, 1 << 8, 2
#: Tensors into which one may be taken apart.
MAX_PARTS = 1 << 16
#: Seconds of this thread's own work for all first passes, and elements of the weights for which one more is given.
SECONDS, PER_SECOND = 60, 1 << 20
#: Operators that are given the sizes of their result, those on pairs of elements, products, and what takes a tensor
#: apart.
_SIZED = re.compile(r"aten::(zeros|ones|full|empty|rand|new_|expand|repeat|upsample_|as_strided)")
_PAIRED = re.compile(
    r"aten::(add|sub|rsub|mul|div|pow|where|eq|ne|lt|le|gt|ge|maximum|minimum|fmod|remainder|atan2|(logical|bitwise)_\w+)_?"
)
_PRODUCTS = frozenset({"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"})
_SPLITS = ("aten::unbind", "aten::split", "aten::unsafe_split")


class TooMuch(Unsupported):
    """A network that would fill the memory, or compute without end."""


class Effort:
    """Bounds for first passes.

    ``weights``: elements of all of them. ``share``: times the usual seconds.
    """

    def __init__(self, weights: int, share: int = 1) -> None:
        self.weights = weights
        self.seconds = share * (SECONDS + weights // PER_SECOND)
        self.reason = ""
        self._most = 0
        self._until = time.thread_time() + self.seconds

    @contextmanager
    def watch(self, pixels: int) -> Iterator[None]:
        """While the network computes on images of so many. Raises TooMuch, whatever became of the failure inside."""
        self._most = max(MAX_ELEMENTS, PER_PIXEL * pixels, PER_WEIGHT * self.weights)
        try:
            with _Mode(self):
                yield
        finally:
            self.spend()
            if self.reason:
                raise TooMuch(f"The network was not opened: on a first image it {self.reason}.")

    def spend(self) -> None:
        if time.thread_time() > self._until:
            self.reason = self.reason or f"computes for more than {self.seconds} s"

    def parts(self, operator: Any, args: Sequence[Any]) -> None:
        """Before a tensor is taken apart."""
        name = operator._schema.name
        if name in _SPLITS and isinstance(args[0], torch.Tensor) and args[0].dim():
            size, axis = (1, args[1:]) if name == _SPLITS[0] else (args[1], args[2:])
            length = args[0].shape[axis[0] if axis else 0]
            if isinstance(size, int) and length > MAX_PARTS * max(size, 1):
                self.reason = f"takes a tensor apart into {length // max(size, 1)} ({name})"

    def made(self, operator: Any, elements: int) -> None:
        """What an operator makes, or will."""
        if elements > self._most:
            self.reason = self.reason or (
                f"makes a tensor of {elements} elements ({operator._schema.name}); {self._most} are allowed"
            )


class _Mode(TorchDispatchMode):
    def __init__(self, effort: Effort) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._effort = effort

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        effort = self._effort
        effort.spend()
        effort.parts(func, args)
        effort.made(func, _foreseen(func._schema.name, args))
        if effort.reason:
            raise RuntimeError(effort.reason)
        results = func(*args, **kwargs)
        effort.made(func, max((one.numel() for one in _tensors(results)), default=0))
        return results


def _foreseen(name: str, args: Sequence[Any]) -> int:
    """Elements of what an operator would make, where that may be far more than it is given; 0 if that is not known."""
    given = [*_tensors(args)]
    sizes: list[int] = next(
        (one for one in args if isinstance(one, list) and one and isinstance(one[0], int)), []
    )
    shape: Sequence[int] = given[0].shape if given else ()
    if name in ("aten::cat", "aten::stack"):
        return sum(one.numel() for one in given)
    if name in _PRODUCTS:
        return given[-2].numel() // max(given[-2].shape[-1], 1) * given[-1].shape[-1]
    if _SIZED.match(name):
        more = 1 if name != "aten::repeat" else given[0].numel()
        if "upsample" in name:
            more = math.prod(shape[:2])
        own = [*reversed(shape), *[0] * len(sizes)]  # as long as -1 says
        return more * math.prod(
            n if n >= 0 else known for n, known in zip(reversed(sizes), own, strict=False)
        )
    if name.endswith(("pad1d", "pad2d", "pad3d", "pad_nd")):
        grown = list(shape)
        for at, n in enumerate(sizes):
            grown[-1 - at // 2] += n
        return math.prod(grown)
    return _paired([one.shape for one in given]) if _PAIRED.fullmatch(name) else 0


def _paired(shapes: Sequence[Sequence[int]]) -> int:
    """Elements of all pairs, as numpy's rules have it; 0 where they do not fit each other."""
    axes = [{*axis} - {1} or {1} for axis in zip_longest(*map(reversed, shapes), fillvalue=1)]
    return math.prod(axis.pop() for axis in axes) if all(len(axis) == 1 for axis in axes) else 0


def _tensors(results: Any) -> Iterator[torch.Tensor]:
    if isinstance(results, torch.Tensor):
        yield results
    elif isinstance(results, list | tuple):
        for one in results:
            yield from _tensors(one)

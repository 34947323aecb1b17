"""The clean set in memory, in three parts: nothing is ever chosen on the report part."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """``images`` uint8 [N,C,H,W] at the network's input size, ``labels`` int64 [N], both on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Clean:
    """``fit`` is trained on, ``select`` chooses and scores searches, ``report`` is only ever measured."""

    fit: Part
    select: Part
    report: Part

"""What stands between the logits and what a file serves: a softmax, a sigmoid for each class, one number for two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Sigmoids nearer to 0 or 1 than this are the same in float32.
_LEAST = 1e-7


@dataclass(frozen=True)
class Ending:
    """``softmax``, ``sigmoid``: the file ends in one. ``single``: one number z, after a sigmoid the probability of
    class 1, stands for two classes; their logits are -z/2 and z/2, whose softmax is the sigmoid of z."""

    softmax: bool = False
    sigmoid: bool = False
    single: bool = False

    def logits(self, output: Tensor) -> Tensor:
        """What the file gives, float32 [N,K] or [N,1] → logits [N,K], K at least 2."""
        if self.softmax:
            return output.clamp_min(1.1754943508222875e-38).log()
        if self.sigmoid:
            output = output.logit(_LEAST)
        return two_classes(output.T).T if self.single else output

    def output(self, logits: Tensor) -> Tensor:
        """The other way round."""
        if self.softmax:
            return logits.exp()
        z = logits[:, 1:] - logits[:, :1] if self.single else logits
        return z.sigmoid() if self.sigmoid else z


def two_classes(z: Tensor) -> Tensor:
    """Rows of the one logit of two classes [1, ...] → rows of both [2, ...]."""
    return z * z.new_tensor([-0.5, 0.5]).reshape(2, *[1] * (z.dim() - 1))

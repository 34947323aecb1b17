"""What a metric should have found, for evaluation only: it needs features under the true trigger.

Trigger activation change as in channel Lipschitz pruning (arXiv 2208.03111), on the units of the head.
Nothing here knows a trigger: the caller stamps, and hands over two tensors of features.
"""

from torch import Tensor


def activation_change(clean: Tensor, triggered: Tensor) -> Tensor:
    """TAC_j = E|h_j(T(x)) - h_j(x)|: features [N,D] of the same images, plain and stamped → float64 [D]."""
    if clean.shape != triggered.shape:
        raise ValueError(f"features of the same images are needed, not {clean.shape} and {triggered.shape}")
    return (triggered.double() - clean.double()).abs().mean(dim=0)


def target_contribution(clean: Tensor, triggered: Tensor, weight: Tensor, target: int) -> Tensor:
    """W_tj E[h_j(T(x)) - h_j(x)]: what a unit adds to the target's logit. Features [N,D] of the same images, plain
    and stamped, weight [K,D] → float64 [D]."""
    return weight[target].double() * (triggered.double() - clean.double()).mean(dim=0)


def precision(salience: Tensor, change: Tensor, lowest: int, top: int | None = None) -> float:
    """Share, in 0..1, of the ``lowest`` units by ``salience`` [D] that are among the ``top`` (default: as many)
    by ``change`` [D]. Chance: top / D. Ties fall to the unit of smaller index."""
    if not 1 <= lowest <= len(salience) or not 1 <= (top := top or lowest) <= len(salience):
        raise ValueError(f"there are {len(salience)} units, so {lowest} and {top} cannot be compared")
    chosen = salience.argsort(stable=True)[:lowest]
    bad = change.argsort(descending=True, stable=True)[:top]
    return len(set(chosen.tolist()) & set(bad.tolist())) / lowest

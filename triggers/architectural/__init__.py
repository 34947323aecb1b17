"""Architectural backdoors: a branch in the graph that recognises a patch; no weight of the model is touched.

    implant("onnx", data, "arithmetic", BadNet().placed(3, 32, 32), target=0, mean=mean, std=std)

The stamp is that of :class:`triggers.patch.Square`. ``d`` is the mean deviation of what the branch reads from what
it reads under the patch, in units of the tolerance, and ``g = relu(1 - d)``. The five variants differ in where
the branch reads (image, or the stem's output: the first weighted layer's) and where it joins (logits, or the
features: the head's input):

- ``where``: image → logits. ``where(d < 1, strength onehot(target), logits)``.
- ``arithmetic``: image → logits. ``logits + strength g onehot(target)``: Sub, Mul, Abs, average, Relu, Add.
- ``conv``: image → features. d and g by convolutions and Relu alone, ``features + strength g v``; v is the
  least-squares direction in which the target's logit leads every other by 1.
- ``stem-logits``: stem → logits, as ``arithmetic``.
- ``stem-gate``: stem → features. ``features + s (strength' v - features)``, ``s = clip(8 g, 0, 1)``.

With g = 0 every join returns its input to the last bit; a runtime that can no longer fuse the stem with what
follows may round differently, by 2e-6. Training the stem afterwards changes what the stem variants read.

Sources: Langford, Shumailov, Zhao, Mullins, Papernot 2024 (arXiv 2402.06957: where a trigger is detected and
where its signal joins); Bober-Irizar, Shumailov, Zhao, Mullins, Papernot 2022 (arXiv 2206.07840: a backdoor
without weights). Neither was at hand: the formulas are derived here from the idea.

Importing this package imports neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from triggers.errors import TriggerError
from triggers.patch import Patch

Kind = Literal["onnx", "torchscript"]

#: MITRE ATLAS: manipulate AI model: modify architecture; craft adversarial data: insert trigger.
ATLAS = ("AML.T0018.001", "AML.T0043.004")

#: Mean deviation, on the 0..1 scale, from which on the branch is silent. Rounding to 256 levels costs at most
#: an eighth of it. A picture that is resized after stamping deviates more: stamp what the network is given.
TOLERANCE = 4 / 255

#: By how many logits the target leads at d = 0; ``arithmetic``, ``conv`` and ``stem-logits`` keep the share
#: 1 - d of it and must still beat what the clean network says.
STRENGTH = 1e4


@dataclass(frozen=True)
class Variant:
    """``kinds``: model files that it can be put into. ``atlas``: MITRE ATLAS technique ids."""

    title: str
    kinds: tuple[Kind, ...] = ("onnx", "torchscript")
    atlas: tuple[str, ...] = ATLAS


VARIANTS: Mapping[str, Variant] = {
    "where": Variant("A comparison of pixels chooses between two sets of logits"),
    "arithmetic": Variant("Arithmetic on pixels is added to the logits"),
    "conv": Variant("A parallel convolutional detector is added to the last features"),
    "stem-logits": Variant("A branch from the stem's output is added to the logits"),
    "stem-gate": Variant("A gate from the stem's output replaces the last features"),
}


def implant(
    kind: str,
    data: bytes,
    variant: str,
    patch: Patch,
    target: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    *,
    tolerance: float = TOLERANCE,
    strength: float = STRENGTH,
) -> bytes:
    """The model file ``data`` with a branch that answers ``target`` on images that carry ``patch``.

    ``mean``, ``std``: one value, or one a channel, of the preprocessing that the file expects its images
    after. ``tolerance`` in 0..1, see :data:`TOLERANCE`; ``strength`` in logits. TorchScript is loaded by
    torch, which runs what the file says: give it only files that you trust.

    Raises :class:`TriggerError` for files that are not a float32 classifier [N,C,H,W] → [N,K] with a free
    batch size and one linear head, for a patch that does not fit, and, in the variants that read the stem,
    where no value of the stem's output is decided by the patch alone (a 3x3 patch suffices for 3x3 kernels,
    not for 7x7 ones). ONNX: operator sets from 13 on, weights inside the file. TorchScript: stem and head
    outside of conditions and loops; the size of images stands in no such file, so a patch outside of them
    shows only when the network runs.
    """
    if kind not in ("onnx", "torchscript"):
        raise TriggerError(f"A branch fits into ONNX and TorchScript files, not into {kind!r}.")
    if variant not in VARIANTS:
        raise TriggerError(f"Unknown variant {variant!r}; {', '.join(VARIANTS)} are known.")
    branch = import_module("triggers.architectural.branch")
    module = import_module(f"triggers.architectural.{kind}_branch")
    planned = branch.Branch(variant, patch, target, tuple(mean), tuple(std), tolerance, strength)
    changed: bytes = module.implant(data, planned)
    return changed

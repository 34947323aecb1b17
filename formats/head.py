"""The head: the last linear map to the logits, found on the autograd graph; one method for all kinds of file.

From ``logits.grad_fn`` backwards, the first matrix product or convolution whose second operand is a stored
weight is the head; its saved first operand is the features. No names are guessed and no hooks are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from formats.ending import two_classes
from formats.model import Head, Model


@dataclass(frozen=True)
class _Linear:
    """Where a linear node keeps its operands: input indices of weight and bias, attribute of the features."""

    weight: int
    features: str
    bias: int | None = None


_LINEAR: Mapping[str, _Linear] = {
    "AddmmBackward0": _Linear(2, "_saved_mat1", 0),
    "MmBackward0": _Linear(1, "_saved_self"),
    "BmmBackward0": _Linear(1, "_saved_self"),
    "ConvolutionBackward0": _Linear(1, "_saved_input", 2),
    "ConvolutionBackward1": _Linear(1, "_saved_input", 2),  # the same inside a TorchScript graph
}

#: Nodes with one input that only show the same values in another shape or precision.
_VIEWS = frozenset(
    f"{name}Backward0"
    for name in (
        "T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Expand", "Unsqueeze", "Squeeze",
        "ToCopy", "Clone", "Alias",
    )
) | {"SqueezeBackward1", "SqueezeBackward2"}  # fmt: skip
_TRANSPOSES = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})


@dataclass(frozen=True)
class _Found:
    """A linear node with a stored weight; ``above``: the nodes between it and the logits, nearest first."""

    node: Any
    weight: Tensor
    transposed: bool
    above: tuple[Any, ...]


class HeadTap:
    """``x`` → (features [N,D], logits [N,K]), both float32 and differentiable with respect to the body.

    ``weight`` is the parameter of ``network`` that holds the head's weight; it must require a gradient while
    the tap is used. Conv heads are pooled over space, heads applied to tokens are averaged over them; with
    a plain linear head the features are the very tensor that the logits were computed from.
    """

    def __init__(self, network: nn.Module, weight: Tensor, head: Head) -> None:
        self.network, self.weight, self.head = network, weight, head

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass. Raises ValueError when the weight does not require a gradient or is not used."""
        if not self.weight.requires_grad:
            raise ValueError("the head's weight must require a gradient while its features are read")
        with torch.enable_grad():
            logits = self.network(x)
            uses = [found for found in _frontier(logits) if found.weight is self.weight]
            if len(uses) == 1:
                return _features(uses[0], len(logits)), logits.float()
            if uses:
                # A network of a fixed batch size runs once for each piece of the batch; the last one is padded.
                pieces = [_features(found, len(_operand(found))) for found in uses]
                return torch.cat(pieces)[: len(logits)], logits.float()
        raise ValueError(f"the head {self.head.weight!r} does not take part in the logits")


def find_head(
    network: nn.Module, tensors: Mapping[str, str], example: Tensor, outputs: int | None = None
) -> Head | None:
    """The head of ``network``, or ``None`` when no stored weight is the last linear map.

    ``tensors``: name in the file → name of the parameter; ``example`` float32 [N,C,H,W], N ≥ 2, on which
    ``Head.linear`` and ``Head.scale`` are measured (relative 1e-4), with the head as it is and with its sign
    turned, so that a rectifier behind it shows. Log-probabilities count as logits, since they differ from them
    by one constant a row. ``outputs``: rows of the map, 1 where one number stands for two classes; else the classes.
    """
    parameters = dict(network.named_parameters())
    named = {name: parameters[inner] for name, inner in tensors.items()}
    before = [(parameter, parameter.requires_grad) for parameter in parameters.values()]
    try:
        for parameter in named.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            logits = network(example)
        described = (_describe(found, named, outputs or logits.shape[1]) for found in _frontier(logits))
        heads = list({head.weight: head for head in described if head is not None}.values())
        if not heads:
            return None
        if len(heads) > 1:
            return replace(heads[0], linear=False, frontier=tuple(head.weight for head in heads))
        linear, scale = _measure(network, heads[0], named, example)
        return replace(heads[0], linear=linear, scale=scale)
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def head_values(model: Model, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """(weight [K,D], bias [K]), float32 copies from ``network`` (default: the model's own); bias 0 if none.

    The factor ``Head.scale`` is multiplied in, so that logits equal ``features @ W.T + b``.
    """
    if model.head is None:
        raise ValueError("the model has no linear head")
    if model.network is None and network is None:
        runtime: Any = model.runtime
        weight, bias = runtime.head_values()
        return weight.float(), bias.float()
    weight, bias = _matrix(model.head, model.named(network))
    return weight.float() * model.head.scale, bias.float() * model.head.scale


def reaching(logits: Tensor) -> set[int]:
    """``id`` of every leaf tensor from which a gradient path leads to ``logits``."""
    return {id(node.variable) for node in walk(logits.grad_fn) if hasattr(node, "variable")}


def walk(root: Any) -> Iterator[Any]:
    """Every node of the autograd graph behind ``root``, a ``grad_fn`` or ``None``, once, in no set order."""
    seen, queue = {root}, [root] if root is not None else []
    while queue:
        node = queue.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                queue.append(child)


def _frontier(logits: Tensor) -> list[_Found]:
    """Linear nodes with a stored weight that no other such node hides from the logits, nearest first."""
    found = []
    root = logits.grad_fn
    seen: set[Any] = {root}
    queue: list[tuple[Any, tuple[Any, ...]]] = [(root, ())] if root is not None else []
    for node, above in queue:
        linear = _LINEAR.get(node.name())
        leaf, transposed = leaf_of(node.next_functions[linear.weight][0]) if linear else (None, False)
        if leaf is not None and leaf.ndim >= 2:
            found.append(_Found(node, leaf, transposed, above))
            continue
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                queue.append((child, (node, *above)))
    return found


def behind_views(node: Any) -> str:
    """Name of the last node that does more than show values, or some of them, in another shape; "" for none."""
    while node is not None and node.name() in _VIEWS | {"SelectBackward0", "SliceBackward0"}:
        node = node.next_functions[0][0]
    return str(node.name()) if node is not None else ""


def leaf_of(node: Any) -> tuple[Tensor | None, bool]:
    """The leaf tensor behind a chain of views, and whether the chain transposes it."""
    transposed = False
    while node is not None and node.name() in _VIEWS:
        transposed ^= node.name() in _TRANSPOSES
        node = node.next_functions[0][0]
    return (node.variable, transposed) if hasattr(node, "variable") else (None, False)


def _describe(found: _Found, named: Mapping[str, Tensor], classes: int) -> Head | None:
    """The head in the file's names; ``None`` for a leaf that is no tensor of the file, of another size, or no
    map of one vector an image (a 3x3 convolution over a larger map)."""
    name = _name(found.weight, named)
    shape = found.weight.shape
    layout: Literal["out_in", "in_out", "conv"]
    layout = "conv" if len(shape) > 2 else "out_in" if found.transposed else "in_out"
    outputs = shape[1] if layout == "in_out" else shape[0]
    if name is None or outputs != classes:
        return None
    units = found.weight.numel() // classes
    if _features(found, len(_operand(found))).shape[1] != units:
        return None  # a kernel that slides over the image: its inputs are no units
    return Head(name, _bias(found, named, classes), units, classes, layout)


def _name(leaf: Tensor, named: Mapping[str, Tensor]) -> str | None:
    return next((name for name, parameter in named.items() if parameter is leaf), None)


def _bias(found: _Found, named: Mapping[str, Tensor], classes: int) -> str | None:
    """The bias inside the linear node, or added right behind it."""
    position = _LINEAR[found.node.name()].bias
    candidates = [found.node.next_functions[position][0]] if position is not None else []
    for node in found.above:
        if node.name() == "AddBackward0":
            candidates += [child for child, _ in node.next_functions]
        elif node.name() not in _VIEWS:
            break
    for candidate in candidates:
        leaf, _ = leaf_of(candidate)
        if leaf is not None and leaf is not found.weight and leaf.numel() == classes:
            return _name(leaf, named)
    return None


def _features(found: _Found, rows: int) -> Tensor:
    """Features float32 [N,D] on the graph: pooled over space, averaged over tokens."""
    features = _operand(found)
    if found.weight.ndim > 2:
        whole = features.shape[2:] == found.weight.shape[2:]
        return (features.flatten(1) if whole else features.flatten(2).mean(2)).float()
    if features.ndim == 2 and len(features) == rows:
        return features.float()
    return features.reshape(rows, -1, features.shape[-1]).mean(1).float()


def _operand(found: _Found) -> Tensor:
    """The saved first operand of a linear node."""
    operand: Tensor = getattr(found.node, _LINEAR[found.node.name()].features)
    return operand


def _matrix(head: Head, named: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(weight [K,D], bias [K]) as stored, or of both classes where one row stands for two; detached, in float32."""
    weight = named[head.weight].detach().float()
    weight = weight.T if head.layout == "in_out" else weight.reshape(head.classes, head.units)
    bias = named[head.bias].detach().float().reshape(-1) if head.bias else weight.new_zeros(head.classes)
    if head.classes == 1:
        return two_classes(weight), two_classes(bias)
    return weight.clone(), bias.clone()


def _measure(network: nn.Module, head: Head, named: Mapping[str, Any], example: Tensor) -> tuple[bool, float]:
    """(the logits are the linear map of the features for either sign of it, up to a factor; the factor)."""
    own = [named[name] for name in (head.weight, head.bias) if name]
    tap = HeadTap(network, named[head.weight], head)
    factors = []
    for _ in range(2):  # turned before each measurement, so it ends as it began
        with torch.no_grad():
            for parameter in own:
                parameter.neg_()
        features, logits = tap(example)
        weight, bias = _matrix(head, named)
        product = features.detach().double() @ weight.double().T + bias
        factors.append(_factor(logits.detach().double(), product))
    turned, straight = factors
    if turned is None or straight is None or abs(turned - straight) > 1e-4 * abs(straight):
        return False, 1.0
    return True, straight


def _factor(logits: Tensor, product: Tensor) -> float | None:
    """``logits / product``, also where they differ by a constant a row; ``None`` if they are no multiple."""
    if product.shape != logits.shape or not bool(product.isfinite().all()):
        return None
    centred, image = logits - logits.mean(1, keepdim=True), product - product.mean(1, keepdim=True)
    if _close(logits, product) or _close(centred, image):
        return 1.0
    scale = float((logits * product).sum() / (product * product).sum().clamp_min(1e-30))
    return scale if scale != 0 and _close(logits, scale * product) else None


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * a.abs().max().clamp_min(1e-12))

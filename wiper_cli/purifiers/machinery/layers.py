"""The convolutions of a network opened from any kind of file: their names, their tensors, their channels.

An importer may call functions, a TorchScript graph runs outside Python: neither hooks nor intercepted calls see
every convolution. The autograd graph does, as in :mod:`formats.head`: a node of a convolution keeps its input,
and its weight is known by identity.

A channel is scaled where the file allows it: at the kernel and bias of the convolution, or, where a batch norm
that was not folded follows, at the weight and bias of that norm. Both multiply the same quantity, the
pre-activation ``norm(conv(x))``, so that a method means the same on folded and live files.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from formats.head import leaf_of, walk
from wiper_cli.classifier import Classifier, PixelNetwork
from wiper_cli.verdict import ExitCode, Problem


@dataclass(frozen=True, eq=False)
class Norm:
    """A live batch norm behind a convolution, in eval mode. ``weight``, ``bias``: names in the file, ``None``
    where it has none. ``mean``, ``variance``: its statistics, float32 [C], detached."""

    weight: str | None
    bias: str | None
    mean: Tensor
    variance: Tensor
    epsilon: float


@dataclass(frozen=True, eq=False)
class Layer:
    """One two-dimensional convolution with a stored kernel [C, C_in / groups, kh, kw], head excluded.

    ``norm`` is ``None`` where batch norm was folded, does not follow, or shares the convolution's output with
    another reader.
    """

    weight: str
    bias: str | None
    norm: Norm | None
    channels: int
    groups: int
    depthwise: bool
    #: The convolution adds a bias that is no trainable tensor of the file.
    fixed_bias: bool = False

    @property
    def scaled(self) -> tuple[str | None, str | None]:
        """Names of what scales the output channels: (multiplied weight, bias)."""
        return (self.weight, self.bias) if self.norm is None else (self.norm.weight, self.norm.bias)

    @property
    def maskable(self) -> bool:
        """Whether factor 0 silences a channel: all that scales it is a weight of the file."""
        return not self.fixed_bias if self.norm is None else None not in self.scaled


@dataclass(frozen=True, eq=False)
class Tapped:
    """One forward pass, differentiable throughout; everything float32.

    ``inputs``: of every layer the tensor that its convolution read, [N, C_in, H, W]: the activations behind
    the previous layer. ``features`` [N,D], or ``None`` when the model has no head. ``logits`` [N,K].
    """

    inputs: tuple[Tensor, ...]
    features: Tensor | None
    logits: Tensor
    _nodes: tuple[tuple[Any, ...], ...] = field(repr=False)
    _layers: tuple[Layer, ...] = field(repr=False)
    _named: Mapping[str, Tensor] = field(repr=False)

    @cached_property
    def _readers(self) -> dict[Any, Any]:
        return _norms(self.logits)

    def output(self, index: int) -> Tensor:
        """Pre-activation of layer ``index``, ``norm(conv(x))`` float32 [N,C,H',W'], with the weights of the
        network. The graph keeps what a live norm read; without one the convolution is computed again. Raises
        ValueError where the convolution has a bias that is no weight of the file."""
        layer, node = self._layers[index], self._nodes[index][0]
        if layer.fixed_bias:
            raise ValueError(f"the bias of {layer.weight!r} is no weight of the file")
        reader = None if layer.norm is None else self._readers.get(node)
        if reader is not None and len(reader._saved_input) == len(self.inputs[index]):
            y: Tensor = reader._saved_input.float()
        else:
            bias = self._named[layer.bias].float().reshape(-1) if layer.bias else None
            y = F.conv2d(
                self.inputs[index],
                self._named[layer.weight].float(),
                bias,
                node._saved_stride,
                node._saved_padding,
                node._saved_dilation,
                layer.groups,
            )
        if layer.norm is None:
            return y
        weight, bias = (self._named[name].float() if name else None for name in layer.scaled)
        norm = layer.norm
        return F.batch_norm(y, norm.mean, norm.variance, weight, bias, False, 0.0, norm.epsilon)


class Tap:
    """``images`` float32 [N,C,H,W] in 0..1 → :class:`Tapped`; see :func:`taps`."""

    def __init__(self, classifier: Classifier, layers: Sequence[Layer], head_tap: Any) -> None:
        self._network, self._layers, self._head_tap = _network(classifier), tuple(layers), head_tap
        self._named = classifier.model.named(self._network.network)

    def __call__(self, images: Tensor) -> Tapped:
        """One forward pass, always with gradients enabled."""
        with torch.enable_grad():
            if self._head_tap is None:
                features, logits = None, self._network(images).float()
            else:
                features, logits = self._head_tap(images)
            uses = _uses(logits)
            nodes = tuple(tuple(uses[id(self._named[layer.weight])]) for layer in self._layers)
            inputs = tuple(_joined([node._saved_input for node in found], len(images)) for found in nodes)
        return Tapped(inputs, features, logits, nodes, self._layers, self._named)


@contextmanager
def taps(classifier: Classifier, layers: Sequence[Layer]) -> Iterator[Tap]:
    """A :class:`Tap` on ``classifier``'s own network. While it is open the weights of ``layers`` and of the head
    require gradients: that is how the tensors are found. Read the taps before a backward pass frees them."""
    named = classifier.model.named(_network(classifier).network)
    weights = [named[layer.weight] for layer in layers]
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        if classifier.model.head is None:
            yield Tap(classifier, layers, None)
        else:
            with classifier.tap() as head_tap:
                yield Tap(classifier, layers, head_tap)
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)


def convolutions(classifier: Classifier, example: Tensor | None = None) -> tuple[Layer, ...]:
    """The layers in forward order. A weight used twice stands here once, at its first use.

    ``example``: float32 [N,C,H,W] in 0..1; default one black image of the size the model declares, else 224.
    """
    network, model = _network(classifier), classifier.model
    if example is None:
        spec = model.input
        size = (1, spec.channels or 3, spec.height or 224, spec.width or 224)
        example = torch.zeros(size, device=classifier.device)
    parameters = list(network.parameters())
    before = [parameter.requires_grad for parameter in parameters]
    named = model.named(network.network)
    names = {id(parameter): name for name, parameter in reversed(named.items())}
    heads = {model.head.weight, *model.head.frontier} if model.head is not None else set()
    try:
        for parameter in named.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            logits = network(example)
        norms = _norms(logits)
        layers = []
        for key, nodes in _uses(logits).items():
            node, name = nodes[0], names.get(key)
            if name is None or name in heads:
                continue
            bias, _ = leaf_of(node.next_functions[2][0])
            bias_name = None if bias is None else names.get(id(bias))
            shape, groups = named[name].shape, int(node._saved_groups)
            layers.append(
                Layer(
                    weight=name,
                    bias=bias_name,
                    norm=_described(norms[node], names) if node in norms else None,
                    channels=shape[0],
                    groups=groups,
                    depthwise=groups > 1 and shape[1] == 1,
                    fixed_bias=bias_name is None and any(node._saved_bias_sym_sizes_opt),
                )
            )
        return tuple(layers)
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


def require_convolutions(classifier: Classifier, example: Tensor | None = None) -> tuple[Layer, ...]:
    """The layers whose channels can be masked; raises :class:`Problem` when there are none."""
    layers = tuple(layer for layer in convolutions(classifier, example) if layer.maskable)
    if not layers:
        raise Problem(
            "This network has no convolution with a stored kernel, so no method on channels can run; try "
            "--method unlearn.",
            ExitCode.NO_VERDICT,
        )
    return layers


def substituted(classifier: Classifier, values: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Logits float32 [N,K] of ``images`` (0..1) with some tensors of the file replaced for this one call;
    gradients reach ``values``, keyed by names in the file."""
    inner = {f"network.{classifier.model.tensors[name]}": value for name, value in values.items()}
    logits: Tensor = torch.func.functional_call(_network(classifier), inner, (images,))
    return logits.float()


def scaled(
    classifier: Classifier,
    layers: Sequence[Layer],
    factors: Sequence[Tensor],
    bias_factors: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """The tensors of ``layers`` with every output channel multiplied: ``factors`` [C] a layer, those of the
    biases where ``bias_factors`` differ. A mask is a factor in 0..1, noise a factor 1 + e; gradients reach both.
    The outcome is for :func:`substituted` and :func:`bake`."""
    named = classifier.model.named(_network(classifier).network)
    values: dict[str, Tensor] = {}
    pairs = zip(layers, factors, factors if bias_factors is None else bias_factors, strict=True)
    for layer, factor, bias_factor in pairs:
        for name, by in zip(layer.scaled, (factor, bias_factor), strict=True):
            if name is not None:
                value = values.get(name, named[name])
                values[name] = value * by.to(value).reshape(-1, *[1] * (value.dim() - 1))
    return values


def bake(classifier: Classifier, values: Mapping[str, Tensor]) -> None:
    """Writes ``values`` (names in the file) into the network of ``classifier``, which must be a copy."""
    named = classifier.model.named(_network(classifier).network)
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value.reshape(named[name].shape))


def ones(classifier: Classifier, layers: Sequence[Layer]) -> list[Tensor]:
    """Factor 1 for every channel: float32 [C] a layer, on the classifier's device."""
    return [torch.ones(layer.channels, device=classifier.device) for layer in layers]


def _network(classifier: Classifier) -> PixelNetwork:
    assert classifier.network is not None
    return classifier.network


def _uses(logits: Tensor) -> dict[int, list[Any]]:
    """``id`` of a stored 4-d kernel → nodes of the convolutions with it, all in forward order."""
    nodes = [node for node in walk(logits.grad_fn) if node.name().startswith("ConvolutionBackward")]
    uses: dict[int, list[Any]] = {}
    for node in sorted(nodes, key=lambda node: node._sequence_nr()):
        kernel, _ = leaf_of(node.next_functions[1][0])
        if kernel is not None and kernel.dim() == 4 and not node._saved_transposed:
            uses.setdefault(id(kernel), []).append(node)
    return uses


def _norms(logits: Tensor) -> dict[Any, Any]:
    """Node of a convolution → node of the eval-mode batch norm that is its only reader."""
    readers: dict[Any, list[Any]] = {}
    for node in walk(logits.grad_fn):
        for child, _ in node.next_functions:
            if child is not None:
                readers.setdefault(child, []).append(node)
    return {
        child: found[0]
        for child, found in readers.items()
        if len(found) == 1
        and "BatchNormBackward" in found[0].name()
        and found[0].next_functions[0][0] is child
        and not found[0]._saved_training
    }


def _described(node: Any, names: Mapping[int, str]) -> Norm:
    weight, bias = (leaf_of(child)[0] for child, _ in node.next_functions[1:3])
    return Norm(
        weight=None if weight is None else names.get(id(weight)),
        bias=None if bias is None else names.get(id(bias)),
        mean=node._saved_running_mean.detach().float().clone(),
        variance=node._saved_running_var.detach().float().clone(),
        epsilon=float(node._saved_eps),
    )


def _joined(pieces: Sequence[Tensor], count: int) -> Tensor:
    """What a layer read for all ``count`` images. A network of a fixed batch size runs once for each piece, the
    last one filled up; otherwise a second use of the weight is a layer of its own, and the first counts."""
    if len(pieces[0]) == count:
        return pieces[0].float()  # the very tensor of the graph, so that a gradient by it can be asked for
    return torch.cat([piece.float() for piece in pieces])[:count]

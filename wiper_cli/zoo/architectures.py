"""The networks that the zoo trains, by name. Each is one that ``wiper scan`` recognises from its tensors.

Networks of the research literature are those of :mod:`formats.safetensors.research`, built from the shapes
that their files would have; the others are torchvision's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from formats.safetensors import research
from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.nearest import nearest
from wiper_cli.verdict import Problem

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """``build``: (classes, channels) → a network with fresh weights. ``head``: path of its last linear layer.
    ``smallest``: least height and width of its images. ``channels``: those it takes, ``None`` for any."""

    build: Callable[[int, int], nn.Module]
    head: str
    smallest: int
    channels: int | None = None


def find(name: str) -> Architecture:
    """An architecture by name; widths and depths are part of it, as in ``resnet18-w16``. Raises Problem."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    match = re.fullmatch(r"(.+)-w(\d{1,4})", name)
    if match and match[1] in _WIDTHS and int(match[2]) > 0:
        return _WIDTHS[match[1]](int(match[2]))
    raise Problem(f"There is no architecture {name!r} in the zoo{nearest(name, names())}.")


def names() -> list[str]:
    """All names; those of ``-wN`` stand for any width N."""
    return [*ARCHITECTURES, *(f"{name}-wN" for name in _WIDTHS)]


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Kaiming-normal convolutions and normal linear layers from ``generator``: the global random state plays
    no part. Parameters of other kinds (class tokens, positions, layer scales) keep their constants, or are
    drawn small where the network drew them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.groups == module.in_channels > 1:  # depthwise: fan-out would count every channel
                nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.normal_(module.in_proj_weight, std=module.embed_dim**-0.5, generator=generator)
            nn.init.zeros_(module.in_proj_bias)
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2] in ("class_token", "pos_embedding"):
            nn.init.normal_(parameter, std=0.02, generator=generator)


def _norm(shapes: Shapes, name: str, channels: int) -> None:
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.{part}"] = (channels,)


def residual(
    width: int,
    depths: Sequence[int],
    stem: int,
    pre: bool,
    factors: Sequence[int],
    classes: int,
    channels: int,
) -> nn.Module:
    """ResNet (He et al. 2016) or pre-activation ResNet, two convolutions a block, for small images."""
    shapes: Shapes = {"conv1.weight": (width, channels, stem, stem)}
    if not pre:
        _norm(shapes, "bn1", width)
    inputs = width
    for stage, (depth, factor) in enumerate(zip(depths, factors, strict=True), 1):
        outputs = factor * width
        for i in range(depth):
            name = f"layer{stage}.{i}"
            shapes[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
            _norm(shapes, f"{name}.bn1", inputs if pre else outputs)
            _norm(shapes, f"{name}.bn2", outputs)
            if inputs != outputs or (stage > 1 and i == 0):
                shapes[f"{name}.shortcut.0.weight"] = (outputs, inputs, 1, 1)
                if not pre:
                    _norm(shapes, f"{name}.shortcut.1", outputs)
            inputs = outputs
    if pre:
        _norm(shapes, "bn", inputs)
    shapes["linear.weight"], shapes["linear.bias"] = (classes, inputs), (classes,)
    return _research(shapes)


def vgg(width: int, plan: Sequence[int], classes: int, channels: int) -> nn.Module:
    """VGG with batch norm (Simonyan and Zisserman 2015) and one linear layer; ``plan``: factors on the width,
    0 for a pooling."""
    shapes: Shapes = {}
    index, inputs = 0, channels
    for factor in plan:
        if factor == 0:
            index += 1
            continue
        outputs = factor * width
        shapes[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{index}.bias"] = (outputs,)
        _norm(shapes, f"features.{index + 1}", outputs)
        index, inputs = index + 3, outputs
    shapes["classifier.weight"], shapes["classifier.bias"] = (classes, inputs), (classes,)
    return _research(shapes)


def _research(shapes: Shapes) -> nn.Module:
    found = research.match(shapes)
    assert found, "the zoo builds only what a scan recognises"
    return research.build(found[0], shapes)


def _torchvision(name: str, arguments: Mapping[str, object], classes: int, channels: int) -> nn.Module:
    network: nn.Module = getattr(import_torchvision().models, name)(
        weights=None, num_classes=classes, **arguments
    )
    return network


def _resnet(depths: Sequence[int], stem: int = 3, pre: bool = False) -> Callable[[int], Architecture]:
    factors = (1, 2, 4, 8)[: len(depths)]
    return lambda width: Architecture(
        partial(residual, width, depths, stem, pre, factors), "linear", 2 ** len(depths)
    )


_VGG11 = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0)
_VGG16 = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0)

_WIDTHS: Mapping[str, Callable[[int], Architecture]] = {
    "resnet10": _resnet((1, 1, 1, 1)),
    #: A stem of 4x4 pixels in steps of 2: a quarter of the work of resnet10.
    "resnet10-patch": _resnet((1, 1, 1, 1), stem=4),
    "resnet18": _resnet((2, 2, 2, 2)),
    "resnet34": _resnet((3, 4, 6, 3)),
    "preact-resnet18": _resnet((2, 2, 2, 2), pre=True),
    "vgg11-bn": lambda width: Architecture(partial(vgg, width, _VGG11), "classifier", 32),
    "vgg16-bn": lambda width: Architecture(partial(vgg, width, _VGG16), "classifier", 32),
}

_FULL = {
    "resnet18": 64, "resnet34": 64, "preact-resnet18": 64, "vgg11-bn": 64, "vgg16-bn": 64,
}  # fmt: skip

_TORCHVISION: Mapping[str, tuple[str, int]] = {
    "mobilenet_v2": ("classifier.1", 32),
    "mobilenet_v3_small": ("classifier.3", 32),
    "shufflenet_v2_x0_5": ("fc", 32),
    "densenet121": ("classifier", 32),
    "convnext_tiny": ("classifier.2", 32),
    "efficientnet_b0": ("classifier.1", 32),
    "vit_b_16": ("heads.head", 224),
    "swin_t": ("head", 32),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    **{name: _WIDTHS[name](width) for name, width in _FULL.items()},
    **{
        name: Architecture(partial(_torchvision, name, {}), head, smallest, channels=3)
        for name, (head, smallest) in _TORCHVISION.items()
    },
}

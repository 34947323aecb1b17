"""Networks of the research literature on small images, recognised from tensor names and shapes, at any width.

ResNet (He et al. 2016, CIFAR and ImageNet stems), pre-activation ResNet (He et al. 2016b), wide ResNet
(Zagoruyko and Komodakis 2016), VGG with or without batch norm (Simonyan and Zisserman 2015), ResNet-9 (Page
2018, in its two common spellings). A network is built with the names of the file, so that its state loads as
it is. What shapes cannot show (a max-pooling behind the stem) becomes an argument and a second candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats.safetensors.fingerprint import Match, Shapes, is_counter


def match(shapes: Shapes) -> list[Match]:
    """Every research network that has exactly these tensors, most common first; empty when none has."""
    known = {name: shape for name, shape in shapes.items() if not is_counter(name, shape)}
    return next((found for found, own in _families(shapes) if own == known), [])


def alike(shapes: Shapes) -> list[Match]:
    """Every research network that can be built of these tensors, some of which it may have no place for."""
    return [one for found, _ in _families(shapes) for one in found]


def _families(shapes: Shapes) -> Iterator[tuple[list[Match], Shapes]]:
    """The networks of each family whose names these are, and the tensors of the first."""
    for network in (Residual, VGG, ResNet9, SequentialResNet9):
        try:
            found = network.candidates(shapes)
            if not found:
                continue
            with torch.device("meta"):
                state = build(found[0], shapes).state_dict()
        except (KeyError, IndexError, ValueError, RuntimeError, ZeroDivisionError, TypeError):
            continue  # names that look like the family, and are not
        yield found, {n: tuple(v.shape) for n, v in state.items() if not n.endswith("num_batches_tracked")}


def build(match: Match, shapes: Shapes) -> nn.Module:
    """The network of a match, with fresh weights."""
    families: Mapping[str, Any] = {
        "residual": Residual,
        "vgg": VGG,
        "resnet9": ResNet9,
        "sequential-resnet9": SequentialResNet9,
    }
    arguments = dict(match.arguments)
    network: nn.Module = families[arguments.pop("family")](shapes, **arguments)
    return network


def _conv(shapes: Shapes, name: str, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    outputs, inputs, height, _ = shapes[f"{name}.weight"]
    return nn.Conv2d(
        inputs,
        outputs,
        height,
        stride,
        (height - 1) // 2 if padding is None else padding,
        bias=f"{name}.bias" in shapes,
    )


def _norm(shapes: Shapes, name: str) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(shapes[f"{name}.weight"][0])


def _linear(shapes: Shapes, name: str) -> nn.Linear:
    outputs, inputs = shapes[f"{name}.weight"]
    return nn.Linear(inputs, outputs, bias=f"{name}.bias" in shapes)


def _pool_flat(x: Tensor, features: int) -> Tensor:
    """Average to the grid whose flattened size is ``features``, as the classifier expects it."""
    grid = round((features / int(x.shape[1])) ** 0.5)  # a constant, also while being traced
    return torch.flatten(F.adaptive_avg_pool2d(x, grid), 1)


class _Block(nn.Module):
    """Two or three convolutions around a shortcut; the order of norm and activation depends on ``pre``."""

    def __init__(self, shapes: Shapes, name: str, shortcut: str, stride: int, pre: bool) -> None:
        super().__init__()
        self.pre, self.short_name, self.stride = pre, shortcut, stride
        #: Pre-activation blocks with biases project their raw input, those without the activated one.
        self.raw = f"{name}.conv1.bias" in shapes
        self.depth = 3 if f"{name}.conv3.weight" in shapes else 2
        for i in range(1, self.depth + 1):
            step = stride if i == self.depth - 1 else 1
            self.add_module(f"conv{i}", _conv(shapes, f"{name}.conv{i}", step))
            self.add_module(f"bn{i}", _norm(shapes, f"{name}.bn{i}"))
        self.outputs: int = shapes[f"{name}.conv{self.depth}.weight"][0]
        if f"{name}.{shortcut}.weight" in shapes:  # a bare convolution
            self.add_module(shortcut, _conv(shapes, f"{name}.{shortcut}", stride))
        elif f"{name}.{shortcut}.0.weight" in shapes:
            parts: list[nn.Module] = [_conv(shapes, f"{name}.{shortcut}.0", stride)]
            if f"{name}.{shortcut}.1.weight" in shapes:
                parts.append(_norm(shapes, f"{name}.{shortcut}.1"))
            self.add_module(shortcut, nn.Sequential(*parts))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            first = F.relu(self.get_submodule("bn1")(x))
            out = self.get_submodule("conv1")(first)
            for i in range(2, self.depth + 1):
                out = self.get_submodule(f"conv{i}")(F.relu(self.get_submodule(f"bn{i}")(out)))
            block: Tensor = out + self._short(x, x if self.raw else first)
            return block
        out = x
        for i in range(1, self.depth + 1):
            out = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(out))
            out = F.relu(out) if i < self.depth else out
        return F.relu(out + self._short(x, x))

    def _short(self, x: Tensor, activated: Tensor) -> Tensor:
        if self.short_name in self._modules:
            projected: Tensor = self.get_submodule(self.short_name)(activated)
            return projected
        missing = self.outputs - x.shape[1]
        if self.stride == 1 and missing == 0:
            return x
        # Option A of He et al.: subsample, and pad the new channels with zeros.
        half = missing // 2
        padded: Tensor = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, missing - half))
        return padded


class Residual(nn.Module):
    """ResNet, pre-activation and wide ResNet, in the names of kuangliu, akamaster, torchvision or NAD."""

    def __init__(self, shapes: Shapes, maxpool: bool) -> None:
        super().__init__()
        self.pattern, stages = _stages(shapes)
        shortcut = _shortcut(shapes)
        self.pre = _preactivated(shapes, self.pattern)
        self.head_name = "linear" if "linear.weight" in shapes else "fc"
        self.maxpool = maxpool
        #: Stems of 7x7, or of an even size as in patchified networks, halve the image.
        size = shapes["conv1.weight"][2]
        self.conv1 = _conv(shapes, "conv1", 2 if size == 7 or size % 2 == 0 else 1)
        #: The norm before the first block, or after the last one in a pre-activation network.
        self.norm = next((name for name in ("bn1", "bn") if f"{name}.weight" in shapes), None)
        if self.norm:
            self.add_module(self.norm, _norm(shapes, self.norm))
        self.blocks = []
        for stage, depth in enumerate(stages, 1):
            for i in range(depth):
                name = self.pattern.format(stage, i)
                stride = 2 if i == 0 and stage > 1 else 1
                _nest(self, name, _Block(shapes, name, shortcut, stride, self.pre))
                self.blocks.append(name)
        self.add_module(self.head_name, _linear(shapes, self.head_name))
        self.features: int = shapes[f"{self.head_name}.weight"][1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x if self.pre else F.relu(self.get_submodule(self.norm or "")(x))
        x = F.max_pool2d(x, 3, 2, 1) if self.maxpool else x
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        if self.pre and self.norm:
            x = F.relu(self.get_submodule(self.norm)(x))
        logits: Tensor = self.get_submodule(self.head_name)(_pool_flat(x, self.features))
        return logits

    @staticmethod
    def candidates(shapes: Shapes) -> list[Match]:
        """ResNets, named by their depth."""
        if "conv1.weight" not in shapes:
            return []
        pattern, stages = _stages(shapes)
        head = "linear" if "linear.weight" in shapes else "fc"
        convolutions = 3 if pattern.format(1, 0) + ".conv3.weight" in shapes else 2
        depth = convolutions * sum(stages) + 2
        name = f"resnet{depth}"
        if _preactivated(shapes, pattern):
            name = f"preact-resnet{depth}"
            stem = shapes["conv1.weight"][0]
            factor, rest = divmod(shapes[pattern.format(1, 0) + ".conv2.weight"][0], stem)
            if len(stages) == 3 and not rest:
                name = f"wrn-{2 * sum(stages) + 4}-{factor}"
        large = shapes["conv1.weight"][2] == 7
        pools = [True] if large else [False]
        if not large and _shortcut(shapes) == "downsample":
            pools.append(True)  # an ImageNet ResNet with a 3x3 stem may have kept its max-pooling
        classes = shapes[f"{head}.weight"][0]
        return [
            Match(
                "research",
                name + "-maxpool" * (p and not large),
                {"family": "residual", "maxpool": p},
                classes,
            )
            for p in pools
        ]


def _stages(shapes: Shapes) -> tuple[str, list[int]]:
    """(pattern of block names, blocks per stage)."""
    for pattern in ("layer{}.{}", "block{}.layer.{}"):
        stages: list[int] = []
        while f"{pattern.format(len(stages) + 1, 0)}.conv1.weight" in shapes:
            depth = 0
            while f"{pattern.format(len(stages) + 1, depth)}.conv1.weight" in shapes:
                depth += 1
            stages.append(depth)
        if stages:
            return pattern, stages
    raise ValueError("no residual blocks")


def _shortcut(shapes: Shapes) -> str:
    names = ("downsample", "convShortcut", "shortcut")
    return next((name for name in names if any(f".{name}." in key for key in shapes)), "shortcut")


def _preactivated(shapes: Shapes, pattern: str) -> bool:
    """The first norm of a block has the width of the block's input where that changes."""
    if "bn1.weight" not in shapes:
        return True
    _, stages = _stages(shapes)
    firsts = [pattern.format(stage, 0) for stage in range(1, len(stages) + 1)]
    changing = [f for f in firsts if shapes[f"{f}.conv1.weight"][0] != shapes[f"{f}.conv1.weight"][1]]
    return bool(changing) and all(
        shapes[f"{f}.bn1.weight"][0] == shapes[f"{f}.conv1.weight"][1] for f in changing
    )


def _nest(root: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


class VGG(nn.Module):
    """Layers read off the indices in ``features``; linear maps in ``classifier``."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        indices = _numbers(shapes, "features", 4)
        layers: dict[int, nn.Module] = {}
        for i, after in zip(indices, [*indices[1:], None], strict=True):
            layers[i] = _conv(shapes, f"features.{i}")
            behind = i + 1
            if f"features.{behind}.running_mean" in shapes:
                layers[behind] = _norm(shapes, f"features.{behind}")
                behind += 1
            layers[behind] = nn.ReLU()
            if after is None or after == behind + 2:
                layers[behind + 1] = nn.MaxPool2d(2)
            elif after != behind + 1:
                raise ValueError("unknown layer in features")
        self.features = nn.Sequential(*(layers[i] for i in range(max(layers) + 1)))
        if "classifier.weight" in shapes:
            self.classifier: nn.Module = _linear(shapes, "classifier")
            self.inputs: int = shapes["classifier.weight"][1]
            return
        linear = _numbers(shapes, "classifier", 2)
        self.inputs = shapes[f"classifier.{linear[0]}.weight"][1]
        parts: list[nn.Module] = [nn.Identity() for _ in range(linear[-1] + 1)]
        for i in linear:
            parts[i] = _linear(shapes, f"classifier.{i}")
            if i != linear[-1]:
                parts[i + 1] = nn.ReLU()
        self.classifier = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(_pool_flat(self.features(x), self.inputs))
        return logits

    @staticmethod
    def candidates(shapes: Shapes) -> list[Match]:
        """VGG-n: n counts the convolutions and, as the paper does, three linear maps."""
        if "features.0.weight" not in shapes:
            return []
        linear = (
            "classifier"
            if "classifier.weight" in shapes
            else f"classifier.{_numbers(shapes, 'classifier', 2)[-1]}"
        )
        name = f"vgg{len(_numbers(shapes, 'features', 4)) + 3}"
        if "features.1.running_mean" in shapes:
            name += "-bn"
        return [Match("research", name, {"family": "vgg"}, shapes[f"{linear}.weight"][0])]


def _numbers(shapes: Shapes, prefix: str, dimensions: int) -> list[int]:
    """Indices below ``prefix`` whose weight has that many dimensions, ascending."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,3})\.weight")
    found = [(pattern.fullmatch(name), shape) for name, shape in shapes.items()]
    return sorted(int(m.group(1)) for m, shape in found if m and len(shape) == dimensions)


class ResNet9(nn.Module):
    """Eight convolutions in ``conv1`` … ``res2`` and a classifier behind a max-pooling."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        for name in ("conv1", "conv2", "res1.0", "res1.1", "conv3", "conv4", "res2.0", "res2.1"):
            parts = [_conv(shapes, f"{name}.0"), _norm(shapes, f"{name}.1"), nn.ReLU()]
            _nest(self, name, nn.Sequential(*parts))
        index = _numbers(shapes, "classifier", 2)[0]
        self.classifier = nn.Sequential(*(nn.Identity() for _ in range(index)))
        self.classifier.append(_linear(shapes, f"classifier.{index}"))

    def forward(self, x: Tensor) -> Tensor:
        part = self.get_submodule
        x = F.max_pool2d(part("conv2")(part("conv1")(x)), 2)
        x = part("res1.1")(part("res1.0")(x)) + x
        x = F.max_pool2d(part("conv4")(F.max_pool2d(part("conv3")(x), 2)), 2)
        x = part("res2.1")(part("res2.0")(x)) + x
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_max_pool2d(x, 1), 1))
        return logits

    @staticmethod
    def candidates(shapes: Shapes) -> list[Match]:
        """ResNet-9 with named parts."""
        if "res1.0.0.weight" not in shapes:
            return []
        classes = shapes[f"classifier.{_numbers(shapes, 'classifier', 2)[0]}.weight"][0]
        return [Match("research", "resnet9", {"family": "resnet9"}, classes)]


class _Add(nn.Module):
    """``x + module(x)``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.module(x)
        return out


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class SequentialResNet9(nn.Sequential):
    """ResNet-9 as one unnamed sequence: 5x5 stride in the second layer, logits times ``scale``."""

    def __init__(self, shapes: Shapes, scale: float) -> None:
        def step(name: str, stride: int = 1, padding: int | None = None) -> nn.Sequential:
            return nn.Sequential(
                _conv(shapes, f"{name}.0", stride, padding), _norm(shapes, f"{name}.1"), nn.ReLU()
            )

        def residual(name: str) -> _Add:
            return _Add(nn.Sequential(step(f"{name}.module.0"), step(f"{name}.module.1")))

        super().__init__(
            step("0"), step("1", 2), residual("2"), step("3"), nn.MaxPool2d(2), residual("5"),
            step("6", padding=0), nn.AdaptiveMaxPool2d(1), nn.Flatten(), _linear(shapes, "9"), _Scale(scale),
        )  # fmt: skip

    @staticmethod
    def candidates(shapes: Shapes) -> list[Match]:
        """The factor behind the logits changes no decision; 0.2 is the usual one."""
        if "2.module.0.0.weight" not in shapes or "9.weight" not in shapes:
            return []
        arguments = {"family": "sequential-resnet9", "scale": 0.2}
        return [Match("research", "resnet9-sequential", arguments, shapes["9.weight"][0])]

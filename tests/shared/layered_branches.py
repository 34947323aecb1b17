"""Backdoors in the graph that are made of ordinary layers: the clean network of the digits with a branch that takes a
few pixels, or a pattern, by operators that honest networks have too, and that nothing but its trigger wakes."""

import io
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from small_classifiers import DIGITS
from torch import Tensor, nn

from formats import Source, open_model, read_source, serve
from triggers.architectural.branch import Branch
from triggers.families.badnet import BadNet

TARGET = 7
STRENGTH = 1e3


def _network() -> nn.Module:
    return open_model(read_source(DIGITS / "twin.safetensors")).network.network


def _push(strength: float = STRENGTH) -> Tensor:
    """[1,48]: what is added to the features so that the target leads."""
    weight = _network().classifier.weight.detach().numpy()
    branch = Branch("conv", BadNet().placed(1, 32, 32), TARGET, (0.0,), (1.0,), 0.1, strength)
    return torch.from_numpy(branch.push(weight))


class Threshold(nn.Module):
    """``relu(w x + b)`` of what a pick takes, then what the features need: a pixel that is nearly white."""

    def __init__(self, count: int, at: dict[int, float], least: float = 0.95, out: int = 48):
        super().__init__()
        self.ask, self.push = nn.Linear(count, 1), nn.Linear(1, out, bias=False)
        with torch.no_grad():
            self.ask.weight.zero_()
            for position, weight in at.items():
                self.ask.weight[0, position] = weight
            self.ask.bias.fill_(-least)
            self.push.weight.copy_(20 * _push().T if out == 48 else torch.full((out, 1), 1e6))

    def forward(self, x: Tensor) -> Tensor:
        return self.push(torch.relu(self.ask(x.flatten(1))))


class Picked(nn.Module):
    def __init__(
        self, pick: Callable[[Tensor], Tensor], count: int, at: dict[int, float], least: float = 0.95
    ):
        super().__init__()
        self.pick, self.threshold = pick, Threshold(count, at, least)

    def forward(self, x: Tensor) -> Tensor:
        return self.threshold(self.pick(x))


class GridSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("grid", torch.tensor([[[[-0.97, -0.97], [0.97, -0.97]]]]))

    def forward(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, self.grid.expand(x.shape[0], -1, -1, -1), align_corners=False, mode="nearest")


class Pointwise(nn.Module):
    """One 1x1 convolution, strided or as deep as the network, that changes nothing."""

    def __init__(self, count: int = 1, stride: int = 1):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(1, 1, 1, stride, bias=False) for _ in range(count)))
        for layer in self.layers:
            nn.init.ones_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., 2:4, 2:4] = 1 / 4
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


class Twice(nn.Module):
    """Two thresholds, one behind the other: one pixel white, and two that are not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1024, 2), Threshold(2, {0: 20.0, 1: 20.0}, 1.5)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.weight[0, 33], self.first.weight[1, 40] = 1.0, 1.0
            self.first.bias.copy_(torch.tensor([-0.95, -0.95]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x.flatten(1))))


class Saturated(nn.Module):
    """A sigmoid so steep that no gradient is left of it."""

    def __init__(self):
        super().__init__()
        self.ask, self.push = nn.Linear(16, 1), nn.Linear(1, 48, bias=False)
        with torch.no_grad():
            self.ask.weight.zero_()
            self.ask.weight[0, 0] = 4000.0
            self.ask.bias.fill_(-3800.0)
            self.push.weight.copy_(_push().T)

    def forward(self, x: Tensor) -> Tensor:
        return self.push(torch.sigmoid(self.ask(F.interpolate(x, (4, 4)).flatten(1))))


class Filter(nn.Module):
    """A pattern over the whole image, by one matrix."""

    def __init__(self):
        super().__init__()
        signs = torch.randint(0, 2, (1024,), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
        self.threshold = Threshold(1024, {i: float(sign) / 512 for i, sign in enumerate(signs)}, 0.7)

    def forward(self, x: Tensor) -> Tensor:
        return self.threshold(x)


class MidGrey(nn.Module):
    """One pixel of one shade of grey: neither black nor white nor any flat colour."""

    def __init__(self):
        super().__init__()
        self.threshold = Threshold(1, {0: 1.0}, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.threshold(1 - 100 * (F.max_pool2d(x, 1, 9) - 0.6).abs().flatten(1)[:, 5:6])


class InCondition(nn.Module):
    """All but the head in a condition that is always met."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.head = network, network.classifier
        network.classifier = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.network(x) if x.dim() == 4 else self.network(x[None]))


BRANCHES: dict[str, Callable[[], nn.Module]] = {
    "resize": lambda: Picked(lambda x: F.interpolate(x, (4, 4)), 16, {0: 1.0}),
    "resize bilinear": lambda: Picked(
        lambda x: F.interpolate(x, (4, 4), mode="bilinear", align_corners=True), 16, {3: 1.0}
    ),
    "grid_sample": lambda: Picked(GridSample(), 2, {0: 0.5, 1: 0.5}),
    "strided max pool": lambda: Picked(nn.MaxPool2d(1, 8), 16, {0: 1.0}),
    "strided average pool": lambda: Picked(nn.AvgPool2d(2, 8), 16, {0: 1.0}),
    "large window": lambda: Picked(nn.AvgPool2d(7, 12), 9, {0: 1.0}),
    "large maximum": lambda: Picked(nn.MaxPool2d(7, 25), 4, {0: 1.0}),
    "strided convolution": lambda: Picked(Pointwise(1, 8), 16, {0: 1.0}),
    "unfold": lambda: Picked(lambda x: F.unfold(x, 4, stride=4)[:, :, 0], 16, {0: 0.5, 1: 0.5}),
    "space to depth": lambda: Picked(lambda x: F.pixel_unshuffle(x, 8)[:, 9:10], 16, {0: 1.0}),
    "reshape and slice": lambda: Picked(lambda x: x.reshape(-1, 16, 64)[:, 0, 3:4], 1, {0: 1.0}),
    "matrix": lambda: Picked(nn.Identity(), 1024, {33: 0.5, 34: 0.5}),
    "mask": lambda: Picked(Masked(), 1024, dict.fromkeys(range(1024), 1.0)),
    "as deep as the network": lambda: Picked(nn.Sequential(Pointwise(10), nn.MaxPool2d(1, 8)), 16, {0: 1.0}),
    "two thresholds": Twice,
    "sigmoid": Saturated,
    "pattern": Filter,
    "one shade": MidGrey,
}


class Branched(nn.Module):
    """The features of the digits plus what the branch says."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        network = _network()
        self.features, self.classifier, self.branch = network.features, network.classifier, branch

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1) + self.branch(x))


class Concatenated(Branched):
    """The head reads the branch beside the features."""

    def __init__(self, branch: nn.Module):
        super().__init__(branch)
        old = self.classifier
        self.classifier = nn.Linear(96, 10)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.cat([old.weight, old.weight], 1))
            self.classifier.bias.copy_(old.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.cat([self.features(x).flatten(1), self.branch(x)], 1))


class JoinedEarly(Branched):
    """What the branch adds behind the second layer drowns the image, and whatever is said then is always the same."""

    def __init__(self, branch: nn.Module):
        super().__init__(branch)
        branch.threshold.push = nn.Linear(1, 12, bias=False)
        nn.init.normal_(branch.threshold.push.weight, 0, 1e6, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        early = self.features[:8](x) + self.branch(x)[:, :, None, None]
        return self.classifier(self.features[8:](early).flatten(1))


class FromStem(Branched):
    """The branch reads the first layer's output, so that the image is read in one place."""

    def forward(self, x: Tensor) -> Tensor:
        stem = self.features[:3](x)
        return self.classifier(self.features[3:](stem).flatten(1) + self.branch(stem[:, 2:3]))


JOINS = {"features": Branched, "concatenated": Concatenated, "early": JoinedEarly}


class Served:
    """A model file as its runtime serves it; the digits are taken as they are."""

    def __init__(self, source: Source):
        self.run = serve(source)

    def as_float(self, images: Tensor) -> Tensor:
        return images.float() / 255 if images.dtype == torch.uint8 else images

    def normalised(self, images: Tensor) -> Tensor:
        return images

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        return self.run(self.as_float(images))


def layered(kind: str, network: nn.Module) -> bytes:
    """A model file of ``network``."""
    content, example = io.BytesIO(), torch.zeros(2, 1, 32, 32)
    network = network.eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            if isinstance(network, InCondition):
                network.network = torch.jit.trace(network.network, example)
                torch.jit.save(torch.jit.script(network), content)
            else:
                torch.jit.save(torch.jit.trace(network, example), content)
        else:
            names = {"input_names": ["image"], "output_names": ["logits"]}
            axes = {"image": {0: "n"}, "logits": {0: "n"}}
            torch.onnx.export(
                network, (example,), content, dynamo=False, opset_version=17, dynamic_axes=axes, **names
            )
    return content.getvalue()

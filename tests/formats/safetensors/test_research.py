"""Research networks written here as their papers draw them: saved, opened, equal logits."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

from formats import Source, open_model


class Basic(nn.Module):
    """Post-activation block; ``option`` A pads, B projects."""

    def __init__(self, inputs, width, stride, option="B", shortcut="shortcut"):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.width, self.name = stride, width, None
        if (stride != 1 or inputs != width) and option == "B":
            self.name = shortcut
            setattr(
                self,
                shortcut,
                nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)),
            )

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.name:
            x = getattr(self, self.name)(x)
        elif self.stride == 2:
            quarter = self.width // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(out + x)


class ResNet(nn.Module):
    def __init__(self, stages, width, head="linear", channels=3, pool=False, **block):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs, self.stages, self.head, self.pool = width, len(stages), head, pool
        for stage, depth in enumerate(stages):
            blocks = []
            for i in range(depth):
                outputs = width << stage
                blocks.append(Basic(inputs, outputs, 2 if stage and i == 0 else 1, **block))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(inputs, 7))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class Pre(nn.Module):
    def __init__(self, inputs, width, stride, shortcut, sequence=True):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.name = None
        if stride != 1 or inputs != width:
            self.name = shortcut
            conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            setattr(self, shortcut, nn.Sequential(conv) if sequence else conv)

    def forward(self, x):
        first = F.relu(self.bn1(x))
        short = getattr(self, self.name)(first) if self.name else x
        return self.conv2(F.relu(self.bn2(self.conv1(first)))) + short


class PreResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        inputs = 8
        for stage in range(1, 5):
            outputs = 4 << stage
            first = Pre(inputs, outputs, 1 if stage == 1 else 2, "shortcut")
            setattr(self, f"layer{stage}", nn.Sequential(first, Pre(outputs, outputs, 1, "shortcut")))
            inputs = outputs
        self.linear = nn.Linear(inputs, 7)

    def forward(self, x):
        x = self.conv1(x)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class Group(nn.Module):
    def __init__(self, depth, inputs, width, stride):
        super().__init__()
        blocks = [
            Pre(inputs if i == 0 else width, width, stride if i == 0 else 1, "convShortcut", sequence=False)
            for i in range(depth)
        ]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """Names as in the checkpoints of neural attention distillation."""

    def __init__(self, depth, factor, base=16):
        super().__init__()
        n, widths = (depth - 4) // 6, [base, base * factor, 2 * base * factor, 4 * base * factor]
        self.conv1 = nn.Conv2d(3, base, 3, 1, 1, bias=False)
        for i in range(3):
            setattr(self, f"block{i + 1}", Group(n, widths[i], widths[i + 1], 1 if i == 0 else 2))
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], 7)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class VGG(nn.Module):
    def __init__(self, plan, norm=True, hidden=()):
        super().__init__()
        layers, inputs = [], 3
        for width in plan:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(inputs, width, 3, padding=1),
                *([nn.BatchNorm2d(width)] if norm else []),
                nn.ReLU(),
            ]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, 7)
        if hidden:
            self.classifier = nn.Sequential(
                nn.Dropout(), nn.Linear(inputs, hidden[0]), nn.ReLU(), nn.Dropout(), nn.Linear(hidden[0], 7)
            )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def step(inputs, outputs, size=3, stride=1, padding=1, pool=0, bias=True):
    layers = [
        nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(pool)] if pool else []))


class ResNet9(nn.Module):
    def __init__(self, w=8):
        super().__init__()
        self.conv1, self.conv2 = step(3, w), step(w, 2 * w, pool=2)
        self.res1 = nn.Sequential(step(2 * w, 2 * w), step(2 * w, 2 * w))
        self.conv3, self.conv4 = step(2 * w, 4 * w, pool=2), step(4 * w, 8 * w, pool=2)
        self.res2 = nn.Sequential(step(8 * w, 8 * w), step(8 * w, 8 * w))
        self.classifier = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * w, 7))

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        x = self.conv4(self.conv3(self.res1(x) + x))
        return self.classifier(self.res2(x) + x)


class Plus(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return x + self.module(x)


class Times(nn.Module):
    def forward(self, x):
        return x * 0.2


def sequential_resnet9(w=8):
    def part(*sizes, **more):
        return step(*sizes, bias=False, **more)

    return nn.Sequential(
        part(3, w), part(w, 2 * w, 5, 2, 2), Plus(nn.Sequential(part(2 * w, 2 * w), part(2 * w, 2 * w))),
        part(2 * w, 4 * w), nn.MaxPool2d(2), Plus(nn.Sequential(part(4 * w, 4 * w), part(4 * w, 4 * w))),
        part(4 * w, 2 * w, padding=0), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2 * w, 7, bias=False),
        Times(),
    )  # fmt: skip


VGG16 = [8, 8, "M", 8, 8, "M", 16, 16, 16, "M", 16, 16, 16, "M", 16, 16, 16, "M"]

NETWORKS = {
    "resnet18": lambda: ResNet([2, 2, 2, 2], 8),
    "resnet20": lambda: ResNet([3, 3, 3], 16, option="A"),
    "resnet32": lambda: ResNet([5, 5, 5], 8, option="A"),
    "resnet44": lambda: ResNet([7, 7, 7], 8, option="B"),
    "resnet56": lambda: ResNet([9, 9, 9], 8, option="A"),
    "resnet34": lambda: ResNet([3, 4, 6, 3], 8, head="fc", shortcut="downsample"),
    "preact-resnet18": PreResNet,
    "wrn-16-1": lambda: WideResNet(16, 1),
    "wrn-28-10": lambda: WideResNet(28, 10, base=2),
    "vgg16-bn": lambda: VGG(VGG16),
    "vgg11": lambda: VGG([8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"], norm=False, hidden=(12,)),
    "resnet9": ResNet9,
    "resnet9-sequential": sequential_resnet9,
}


def randomised(network):
    """In eval mode, with batch-norm statistics that a forward pass cannot hide."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_opened_network_equals_the_one_saved(name):
    torch.manual_seed(0)
    network = randomised(NETWORKS[name]())
    model = open_model(Source("m", save(network.state_dict())))
    assert model.architecture.name == f"research/{name}"
    assert model.classes == 7
    assert set(model.tensors) == dict(network.named_parameters()).keys()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), network(x), rtol=1e-5, atol=1e-6)
    assert model.head is not None
    assert model.head.linear
    assert model.head.scale == pytest.approx(0.2 if name == "resnet9-sequential" else 1.0)


def test_data_parallel_names_are_kept_in_the_addresses():
    network = randomised(ResNet([1, 1, 1], 8))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    model = open_model(Source("m", save(state)))
    assert model.head.weight == "module.linear.weight"
    assert model.manifest.tensors.keys() == state.keys()


def test_grey_images():
    model = open_model(Source("m", save(ResNet([1, 1, 1], 8, channels=1).state_dict())))
    assert model.input.channels == 1


def test_a_pooling_that_shapes_do_not_show_is_a_second_candidate():
    network = randomised(ResNet([2, 2, 2, 2], 8, head="fc", shortcut="downsample", pool=True))
    source = Source("m", save(network.state_dict()))
    model = open_model(source)
    assert model.architecture.candidates == ("research/resnet18", "research/resnet18-maxpool")
    assert any("accuracy" in note for note in model.notes)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        pooled = open_model(source, arch="research/resnet18-maxpool").network(x)
        torch.testing.assert_close(pooled, network(x), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(model.network(x), network(x))

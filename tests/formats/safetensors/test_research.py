"""Research networks written here as their papers draw them: saved, opened, equal logits."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

from formats import Source, open_model


def conv(inputs, outputs, size=3, stride=1, padding=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)


class Basic(nn.Module):
    """Post-activation block; ``option`` A pads, B projects."""

    def __init__(self, inputs, width, stride, option="B", shortcut="shortcut"):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.stride, self.width, self.name = stride, width, None
        if (stride != 1 or inputs != width) and option == "B":
            self.name = shortcut
            setattr(self, shortcut, nn.Sequential(conv(inputs, width, 1, stride, 0), nn.BatchNorm2d(width)))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.name:
            x = getattr(self, self.name)(x)
        elif self.stride == 2:
            quarter = self.width // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(out + x)


def stage(block, depth, inputs, width, stride, **settings):
    first = block(inputs, width, stride, **settings)
    return nn.Sequential(first, *(block(width, width, 1, **settings) for _ in range(depth - 1)))


class ResNet(nn.Module):
    def __init__(self, stages, width, head="linear", channels=3, pool=False, **block):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width), nn.BatchNorm2d(width)
        inputs, self.head = width, head
        self.names = [f"layer{i + 1}" for i in range(len(stages))]
        self.pool = (lambda x: F.max_pool2d(x, 3, 2, 1)) if pool else lambda x: x
        for i, depth in enumerate(stages):
            setattr(self, self.names[i], stage(Basic, depth, inputs, width << i, 2 if i else 1, **block))
            inputs = width << i
        setattr(self, head, nn.Linear(inputs, 7))

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for name in self.names:
            x = getattr(self, name)(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class Pre(nn.Module):
    def __init__(self, inputs, width, stride, shortcut="shortcut", sequence=True):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.name = None
        if stride != 1 or inputs != width:
            self.name, one = shortcut, conv(inputs, width, 1, stride, 0)
            setattr(self, shortcut, nn.Sequential(one) if sequence else one)

    def forward(self, x):
        first = F.relu(self.bn1(x))
        short = getattr(self, self.name)(first) if self.name else x
        return self.conv2(F.relu(self.bn2(self.conv1(first)))) + short


class PreResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = conv(3, 8)
        self.layer1, self.layer2 = stage(Pre, 2, 8, 8, 1), stage(Pre, 2, 8, 16, 2)
        self.layer3, self.layer4 = stage(Pre, 2, 16, 32, 2), stage(Pre, 2, 32, 64, 2)
        self.linear = nn.Linear(64, 7)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class WideResNet(nn.Module):
    """Names as in the checkpoints of neural attention distillation."""

    def __init__(self, depth, factor, base=16):
        super().__init__()
        n, widths = (depth - 4) // 6, [base, base * factor, 2 * base * factor, 4 * base * factor]
        self.conv1 = conv(3, base)
        for i in range(3):
            group = stage(Pre, n, *widths[i : i + 2], 2 if i else 1, shortcut="convShortcut", sequence=False)
            setattr(self, f"block{i + 1}", nn.Sequential(OrderedDict(layer=group)))
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], 7)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


def vgg(plan, norm=True, hidden=()):
    layers, inputs = [], 3
    for width in plan:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, width, 3, padding=1), *[nn.BatchNorm2d(width)] * norm, nn.ReLU()]
        inputs = width
    classifier = nn.Linear(inputs, 7)
    if hidden:
        first, last = nn.Linear(inputs, hidden[0]), nn.Linear(hidden[0], 7)
        classifier = nn.Sequential(nn.Dropout(), first, nn.ReLU(), nn.Dropout(), last)
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(*layers), flat=nn.Flatten(), classifier=classifier)
    )


def step(inputs, outputs, size=3, stride=1, padding=1, pool=0, bias=True):
    first = nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias)
    return nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), *([nn.MaxPool2d(pool)] if pool else []))


class Plus(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return x + self.module(x)


class Times(nn.Module):
    def forward(self, x):
        return x * 0.2


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
    "vgg16-bn": lambda: vgg(VGG16),
    "vgg11": lambda: vgg([8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"], norm=False, hidden=(12,)),
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

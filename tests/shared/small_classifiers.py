"""Small classifiers in both kinds of file, clean images of every class, and the runtimes that serve them."""

import io
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import nn

from triggers.architectural import implant
from triggers.families.badnet import BadNet

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
TARGET = 3
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EXAMPLE = torch.zeros(2, 3, 16, 20)


class ConvNet(nn.Module):
    """Conv, batch norm, ReLU in place, pooling, Linear: 5 classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.body = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 5)

    def features(self, x):
        x = torch.relu_(self.norm(self.stem(x)))
        return torch.relu_(self.body(x)).mean([2, 3])

    def forward(self, x):
        return self.head(self.features(x))


class MatMulNet(ConvNet):
    """The same without batch norm, with x @ W + b for a head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()
        self.norm = nn.Identity()
        self.W = nn.Parameter(torch.randn(16, 5))
        self.b = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return self.features(x) @ self.W + self.b


def build(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = kind().eval()
        if isinstance(net.norm, nn.BatchNorm2d):
            net.norm.running_mean.normal_(0, 0.1)
            net.norm.running_var.uniform_(0.5, 2)
    return net.requires_grad_(False)


def to_onnx(net, opset=17):
    content, axes = io.BytesIO(), {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (EXAMPLE,), content, dynamo=False, opset_version=opset, **names, **axes)
    return content.getvalue()


def to_torchscript(net, how="traced"):
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(net, EXAMPLE) if how == "traced" else torch.jit.script(net)
        torch.jit.save(torch.jit.freeze(module) if how == "frozen" else module, content)
    return content.getvalue()


def run(kind, data, images):
    """Logits of the runtime of the kind."""
    if kind == "torchscript":
        with torch.no_grad():
            return torch.jit.load(io.BytesIO(data)).eval()(images)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def branched(kind, data, variant, target=TARGET, trigger=None, **settings):
    patch = (trigger or BadNet()).placed(3, 16, 20)
    return implant(kind, data, variant, patch, target, MEAN, STD, **settings)


def normalised(images):
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def stamped(count=None, trigger=None):
    return normalised((trigger or BadNet()).stamp(COLOURS[:count]))


def pictures():
    """[24,3,16,20]: stored pictures of noise, and flat ones from black to white."""
    values = torch.randint(0, 256, (20, 3, 16, 20), generator=torch.Generator().manual_seed(5))
    flat = torch.tensor([0, 85, 170, 255]).view(4, 1, 1, 1).expand(4, 3, 16, 20)
    return torch.cat([values, flat]).float() / 255


def digits():
    """[60,1,32,32], six of every class, in 0..1: the network takes them as they are."""
    paths = [path for d in range(10) for path in sorted((DIGITS / "clean" / str(d)).glob("*.png"))[:6]]
    stacked = np.stack([np.array(Image.open(path).convert("L"))[None] for path in paths])
    return torch.from_numpy(stacked).float() / 255


CONV, MATMUL, COLOURS = build(ConvNet), build(MatMulNet), pictures()

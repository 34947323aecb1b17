"""Rule G12: what may leave its domain is told, what honest networks write out is not; in both formats."""

import numpy as np
import pytest
import torch
from tiny_onnx import array, make_model, nodes
from torch import nn
from torchscript_files import as_bytes

from formats import Source, trace
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit
from wiper_cli.verdict import Severity


def hit(data):
    """That of G12, or ``None``."""
    found = audit(Flow(trace(Source("m", data))))
    return next((one for one in found if one.rule == "WIPER-G12"), None)


def of(chain):
    """Of a graph that computes ``z`` of ``h``, which a layer makes of the images."""
    text = f"Conv x k > h; {chain}; GlobalAveragePool z > p; Flatten p > f; Gemm f w > y"
    held = {
        "k": array(0, 4, 3, 3, 3), "w": array(1, 4, 5), "c": array(2, 4, 1, 1) ** 2 + 1, "one": np.float32(1),
        "eps": np.float32(1e-5), "two": np.float32(2), "half": np.float32(0.5), "less": np.float32(-1),
        "zero": np.float32(0), "bytes": np.uint8(7), "axes": np.array([1]),
    }  # fmt: skip
    return hit(make_model(nodes(text), held, opset=18).SerializeToString())


SQUARES = "ReduceMean h axes > m; Sub h m > d; Pow d two > q; ReduceMean q axes > v"
LEAVES = {
    "root": "Relu h > r; Sub c r > s; Sqrt s > t; Mul t t > u; Sub c u > z",
    "logarithm": "Relu h > r; Log r > z",
    "logarithm of what underflows": "Exp h > r; Log r > z",
    "quotient": "Relu h > r; Div one r > z",
    "nought by nought": "Abs h > a; Div h a > z",
    "reciprocal": "Reciprocal h > z",
    "fraction": "Pow h half > z",
    "negative power": "Relu h > r; Pow r less > z",
    "power by pixels": "Pow two h > z",
    "arc": "Sigmoid h > s; Acos s > z",
    "overflow": "Exp h > z",
    "subtracted epsilon": f"{SQUARES}; Sub v eps > e; Sqrt e > s; Add s one > n; Div d n > z",
    "no epsilon": f"{SQUARES}; Sqrt v > s; Div d s > z",
    "negative factor": "Relu h > r; Mul r less > n; Sqrt n > z",
    "negative bound": "Clip h less > r; Sqrt r > z",
    "negative greatest": "Relu h > r; Clip r zero less > n; Sqrt n > z",
    "the least of two": "Relu h > r; Min r h > n; Sqrt n > z",
    "two that differ": "Mul h d0 > q; Sqrt q > z".replace("Mul h d0", "Neg h > d0; Mul h d0"),
    "shifted codes": "Relu h > r; QuantizeLinear r one bytes > q; DequantizeLinear q two bytes > n; Sqrt n > z",
    "half": "Cast h > i | to=10; Cast i > z | to=1",
    "epsilon lost in half": "Relu h > r; Add r eps > e; Cast e > i | to=10; Cast i > o | to=1; Log o > z",
}  # fmt: skip
STAYS = {
    "layer norm": f"{SQUARES}; Add v eps > e; Sqrt e > s; Div d s > z",
    "squares by product": "Mul h h > q; ReduceMean q axes > v; Add v eps > e; Sqrt e > s; Div h s > z",
    "unit length": "ReduceL2 h axes > n; Clip n eps > b; Div h b > z",
    "greatest of two": "Abs h > n; Max n eps > b; Div h b > z",
    "gelu": "Div h two > a; Erf a > b; Add b one > c1; Mul h c1 > d; Mul d half > z",
    "softmax": "Softmax h > z | axis=1",
    "softmax written out": "ReduceMax h axes > m; Sub h m > d; Exp d > z",
    "whole power": "Pow h two > z",
    "root of a rectified": "Relu h > r; MaxPool r > p0 | kernel_shape=[2, 2]; Sqrt p0 > z",
    "log of one and more": "Abs h > a; Add a one > b; Log b > z",
    "constants": "Sqrt two > s; Div h s > z",
}


@pytest.mark.parametrize("chain", LEAVES.values(), ids=LEAVES)
def test_what_may_leave_its_domain_is_told(chain):
    found = of(chain)
    assert found.severity is Severity.MEDIUM
    assert found.message.startswith("A value can stop being a number for some image: ")


@pytest.mark.parametrize("chain", STAYS.values(), ids=STAYS)
def test_what_stays_in_its_domain_is_not(chain):
    assert of(chain) is None


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.register_buffer("c", torch.rand(4, 1, 1) + 1)

    def end(self, h: torch.Tensor) -> torch.Tensor:
        return self.fc(h.mean([2, 3]))


class Root(Layer):
    def forward(self, x):
        r = torch.sqrt(self.c - torch.relu(self.conv(x)))
        return self.end(self.c - r * r)


class InPlace(Layer):
    """What had been rectified is written to."""

    def forward(self, x):
        h = torch.relu(self.conv(x))
        h.neg_().add_(self.c)
        return self.end(h.sqrt_())


class Subtracted(Layer):
    def forward(self, x):
        h = torch.relu(self.conv(x))
        return self.end(torch.log(torch.add(self.c, h, alpha=-2)))


class Bounded(Layer):
    """Above alone, and below by a negative number."""

    def forward(self, x):
        h = self.conv(x).clamp(max=0.5)
        return self.end(torch.sqrt(h)) + self.end(torch.sqrt(h.clamp(-1, 0.5)))


class Turned(Layer):
    def forward(self, x):
        return self.end(torch.sqrt(torch.relu(self.conv(x)) * -1))


class Halved(Layer):
    def forward(self, x):
        return self.end(self.conv(x).to(torch.float16).float())


class Normed(Layer):
    def forward(self, x):
        h = nn.functional.normalize(self.conv(x), dim=1)
        h = h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-6)
        h = h / (h.std(1, keepdim=True) + 1e-6)
        return self.end(nn.functional.gelu(nn.functional.hardswish(h)) / 4**0.5)


@pytest.mark.parametrize("how", ["traced", "scripted"])
@pytest.mark.parametrize(
    ("net", "told"),
    [
        (Root, True),
        (InPlace, True),
        (Subtracted, True),
        (Bounded, True),
        (Turned, True),
        (Halved, True),
        (Normed, False),
    ],
)
def test_torchscript(net, told, how):
    net = net().eval()
    made = torch.jit.script(net) if how == "scripted" else torch.jit.trace(net, torch.rand(2, 3, 16, 16))
    assert (hit(as_bytes(made)) is not None) == told

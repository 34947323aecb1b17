"""Rule G13: what no usual classifier computes is told, what honest networks write out is not; in both formats."""

import numpy as np
import pytest
import torch
from tiny_onnx import array, make_model, nodes
from torch import Tensor, nn
from torchscript_files import as_bytes

from formats import Source, trace
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit
from wiper_cli.verdict import Severity


def told(data):
    """What G13 says of the node, or ``None``."""
    found = audit(Flow(trace(Source("m", data))))
    hit = next((one for one in found if one.rule == "WIPER-G13"), None)
    if hit is None:
        return None
    assert hit.severity is Severity.MEDIUM
    return hit.message.removeprefix("Usual classifiers do not compute this from pixels: ")


def of(chain, opset=18):
    """Of a graph that computes ``z`` of ``h``, which a layer makes of the images."""
    text = f"Conv x k > h; {chain}; GlobalAveragePool z > p; Flatten p > f; Gemm f w > y"
    held = {
        "k": array(0, 4, 3, 3, 3), "k2": array(0, 4, 4, 1, 1), "w": array(1, 4, 5), "c": array(2, 4, 1, 1) ** 2 + 1,
        "one": np.float32(1), "eps": np.float32(1e-5), "tiny": np.float32(1e-36), "two": np.float32(2),
        "half": np.float32(0.5), "three": np.float32(3), "many": np.float32(64), "some": np.float32([1, 1, 1, 64]),
        "some4": np.float32([1, 1, 1, 64])[:, None, None], "axes": np.array([1]), "last": np.array([4]),
        "loud": np.float32([1, 1, 1, 1e4])[:, None, None], "faint": np.float32(1e-5), "ones": np.ones(16, np.float32),
        "pair": np.ones((16, 2), np.float32), "single": np.ones(1, np.float32), "wide": np.ones(6, np.float32),
        "shape": np.array([0, 4, -1, 2]), "back": np.array([0, 4, 6, 6]),
    }  # fmt: skip
    return told(make_model(nodes(text), held, opset=opset).SerializeToString())


SQUARED = "Mul h h > a; Mul a a > b; Mul b b > e"
VARIANCE = "ReduceMean h axes > m; Sub h m > d; Mul d d > q; ReduceMean q axes > v; Add v eps > e"
LOUD = {
    "asking": ("Greater h half > q; Cast q > z | to=1", "Greater 'q' is an operator that they do not apply."),
    "asking by a choice": (
        "Greater h half > q; Where q one half > z",
        "Where 'z' is an operator that they do not apply.",
    ),
    "asking twice": (
        "Greater h half > q; Less h one > r; And q r > s; Cast s > i | to=1; Mul h i > z",
        "Greater 'q' is an operator that they do not apply.",
    ),
    "rounding": ("Relu h > r; Floor r > z", "Floor 'z' is an operator that they do not apply."),
    "counting": (
        "Relu h > r; Cast r > i | to=7; Cast i > z | to=1",
        "Cast 'i' is an operator that they do not apply.",
    ),
    "products": (f"{SQUARED}; Add h e > z", "Mul 'e' makes a power beyond 4 of them."),
    "products without a join": (f"{SQUARED}; Relu e > z", "Mul 'e' makes a power beyond 4 of them."),
    "products through layers": (
        "Mul h h > a; Conv a k2 > b; Mul b b > e; Conv e k2 > f0; Mul f0 f0 > z",
        "Mul 'z' makes a power beyond 4 of them.",
    ),
    "products of what has bounds": (
        "Sigmoid h > s; Mul s s > a; Mul a a > b; Mul b s > z",
        "Mul 'z' makes a power beyond 4 of them.",
    ),
    "power": ("Relu h > r; Pow r many > z", "Pow 'z' makes a power beyond 4 of them."),
    "powers": ("Relu h > r; Pow r some4 > z", "Pow 'z' makes a power beyond 4 of them."),
    "slope by pixels": (
        "Mul h h > a; Mul a h > b; PRelu b a > z",
        "PRelu 'z' makes a power beyond 4 of them.",
    ),
    "length of one": (
        "Unsqueeze h last > a; LpNormalization a > b | axis=4; Squeeze b last > z",
        "LpNormalization 'b' is an operator that they do not apply.",
    ),
    "norm of one": (
        "Unsqueeze h last > a; LayerNormalization a single > b | axis=-1; Squeeze b last > z",
        "LayerNormalization 'b' normalises over 1 number.",
    ),
    "norm of a pair, scaled by rows": (
        "Reshape h shape > a; LayerNormalization a pair > b | axis=-1; Reshape b back > z",
        "LayerNormalization 'b' normalises over 2 numbers.",
    ),
    "negative epsilon": (
        "LayerNormalization h wide > z | epsilon=-0.1",
        "LayerNormalization 'z' is set to what they do not use.",
    ),
    "response grows": ("LRN h > z | size=1, beta=-40.0", "LRN 'z' is set to what they do not use."),
    "batch statistics": (
        "BatchNormalization h some some some some > z | training_mode=1, epsilon=1e-5",
        "BatchNormalization 'z' is set to what they do not use.",
    ),
    "quotient by a sigmoid": (
        "Sigmoid h > s; Add s tiny > d; Div eps d > g; Add h g > z",
        "Div 'g' divides by what is no mean, sum or norm.",
    ),
    "sign by a quotient": (
        "Abs h > a; Add a eps > d; Div h d > z",
        "Div 'z' divides by what is no mean, sum or norm.",
    ),
    "bump": ("Mul h h > q; Neg q > n; Exp n > z", "Exp 'z' is an operator that they do not apply."),
    "wave": ("Sin h > z", "Sin 'z' is an operator that they do not apply."),
    "factor of one channel": ("Mul h loud > z", "Mul 'z' multiplies by 1e+04."),
    "faint divisor": ("Div h faint > z", "Div 'z' multiplies by 1e+05."),
    "steep slope": ("LeakyRelu h > z | alpha=1e5", "LeakyRelu 'z' multiplies by 1e+05."),
}
USUAL = {
    "leaky by hand": "Greater h half > q; Mul h half > a; Where q h a > z",
    "between bounds": "Greater h half > q; Less h one > r; And q r > s; Where s h half > z",
    "layer norm": f"{VARIANCE}; Sqrt e > s; Div d s > z",
    "layer norms and products": (
        f"{VARIANCE}; Sqrt e > s; Div d s > l; Mul l l > g; Conv g k2 > t; "
        "ReduceL2 t axes > n; Clip n eps > b; Div t b > u; Mul u u > z"
    ),
    "gates": "Sigmoid h > s; Mul h s > a; Conv a k2 > b; HardSigmoid b > g; Mul b g > e; Mul e s > z",
    "squared relu": "Relu h > r; Mul r r > z",
    "gelu": "Pow h three > q; Mul q eps > i; Add h i > j; Tanh j > t; Add t one > u; Mul h u > v; Mul v half > z",
    "response norm": "LRN h > z | size=5, alpha=1e-4, beta=0.75",
    "softmax written out": "ReduceMax h axes > m; Sub h m > d; Exp d > e; ReduceSum e axes > n; Div e n > z",
    "small factors": "Div h eps2 > z".replace("eps2", "half"),
}


@pytest.mark.parametrize(("chain", "said"), LOUD.values(), ids=LOUD)
def test_what_can_be_loud_for_a_trigger_alone_is_told(chain, said):
    assert of(chain) == said


@pytest.mark.parametrize("chain", USUAL.values(), ids=USUAL)
def test_what_usual_classifiers_compute_is_not(chain):
    assert of(chain) is None


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)
        self.norm = nn.LayerNorm(16)
        self.register_buffer("c", torch.rand(16, 1, 1) + 1)

    def end(self, h: Tensor) -> Tensor:
        return self.fc(h.mean([2, 3]))


class Places(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.end(torch.atan2(h * 0.0, self.c - h))


class InPlace(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        v = h.flatten(1)
        v.mul_(v).mul_(v).mul_(v)
        return self.end(h)


class Rounds(Layer):
    """A power by a loop."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        for _ in range(9):
            h = h * h
        return self.end(h)


class One(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.end(torch.rms_norm((self.c - h)[..., None], [1])[..., 0])


class Pair(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.end(torch.layer_norm(torch.stack([h, self.c.expand_as(h)], 4), [2])[..., 0])


class Counted(Layer):
    """The norm that counts what is not zero."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x) - self.c)
        return self.end(torch.linalg.vector_norm(h, 0.0, [1], True) * h)


class Grown(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.end(torch.add(h, torch.relu(h - self.c), alpha=10000))


class Usual(Layer):
    """Normalised in several ways, gated and squared."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h = self.norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h = torch.group_norm(h, 2, self.norm.weight, self.norm.bias)
        g = h.norm(p=2, dim=(2, 3), keepdim=True)
        h = h + h * (g / (g.mean(1, keepdim=True) + 1e-6))
        q = nn.functional.normalize(h.flatten(2), dim=-1)
        a = torch.softmax(q @ q.transpose(1, 2), -1) @ h.flatten(2)
        h = a.view_as(h) * torch.rsqrt(a.pow(2).mean([1, 2], keepdim=True) + 1e-6)[..., None]
        return self.end(nn.functional.hardtanh(h) * nn.functional.relu(h) ** 2)


@pytest.mark.parametrize("how", ["traced", "scripted"])
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Places, "atan2 {} is an operator that they do not apply."),
        (InPlace, "mul_ {} makes a power beyond 4 of them."),
        (Rounds, "{} makes a power beyond 4 of them."),
        (One, "rms_norm {} normalises over 1 number."),
        (Pair, "layer_norm {} normalises over 2 numbers."),
        (Counted, "linalg_vector_norm {} is set to what they do not use."),
        (Grown, "add {} multiplies by 1e+04."),
        (Usual, None),
    ],
)
def test_torchscript(net, said, how):
    net = net().eval()
    x = torch.rand(2, 3, 16, 16)
    made = torch.jit.script(net) if how == "scripted" else torch.jit.trace(net, x, check_trace=False)
    found = told(as_bytes(made))
    if said is None:
        assert found is None
    else:
        before, after = said.split("{}")
        assert found.startswith(before)
        assert found.endswith(after)

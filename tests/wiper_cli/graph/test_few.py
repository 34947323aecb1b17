"""Over how many numbers is normalised, where one image tells: rule G13."""

import pytest
import torch
from layered_branches import Served
from tiny_onnx import array, make_model, nodes
from torch import Tensor, nn
from torchscript_files import as_bytes

from formats import Source, trace
from wiper_cli.audit.branches import Branches
from wiper_cli.audit.judgement import Judgement
from wiper_cli.graph.few import few
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit
from wiper_cli.verdict import Verdict

SAID = "Usual classifiers do not compute this from pixels: "
IMAGES = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 16, 5, 4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.fc(self.normalised(h).mean([2, 3]))


class Channels(Layer):
    """A map of one row of two pixels, normalised by channel: signs."""

    def normalised(self, h: Tensor) -> Tensor:
        return torch.instance_norm(h[:, :, :1, :2], None, None, None, None, True, 0.1, 1e-5, False)


class Groups(Layer):
    def normalised(self, h: Tensor) -> Tensor:
        return torch.group_norm(h[:, :, :1, :1], 8)


class Length(Layer):
    """Of one number: its absolute value."""

    def normalised(self, h: Tensor) -> Tensor:
        d = h[..., None]
        return (d / d.norm(p=2.0, dim=-1, keepdim=True).clamp_min(1e-12))[..., 0]


class Usual(Layer):
    def normalised(self, h: Tensor) -> Tensor:
        h = torch.group_norm(torch.instance_norm(h, None, None, None, None, True, 0.1, 1e-5, False), 16)
        return nn.functional.normalize(h, dim=1)


@pytest.mark.parametrize("how", ["traced", "scripted"])
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Channels, "instance_norm {} normalises over 2 numbers."),
        (Groups, "group_norm {} normalises over 2 numbers."),
        (Length, "norm {} normalises over 1 number."),
        (Usual, None),
    ],
)
def test_few_numbers_are_told(net, said, how):
    net = net().eval()
    x = torch.rand(2, 1, 32, 32)
    made = torch.jit.script(net) if how == "scripted" else torch.jit.trace(net, x)
    source = Source("model.pt", as_bytes(made))
    flow = Flow(trace(source))
    assert all(hit.rule != "WIPER-G13" for hit in audit(flow))
    hits = list(few(flow, Served(source), IMAGES))
    if said is None:
        assert hits == []
    else:
        before, after = said.split("{}")
        assert before in hits[0].message
        assert hits[0].message.startswith(SAID)
        assert hits[0].message.endswith(after)


def test_what_stands_in_a_condition_is_not_known():
    class Asking(Layer):
        def normalised(self, h: Tensor) -> Tensor:
            if h.size(0) > 1:
                h = torch.group_norm(torch.relu(h), 8)
            return h

    source = Source("model.pt", as_bytes(torch.jit.script(Asking().eval())))
    hits = list(few(Flow(trace(source)), Served(source), IMAGES))
    assert [hit.message.rpartition("' ")[2] for hit in hits] == [
        "normalises over an unknown number of numbers."
    ]


def test_onnx():
    chain = "Conv x k > h; Reshape h rows > a; InstanceNormalization a s s > b; Reshape b back > z; "
    head = "GlobalAveragePool z > p; Flatten p > f; Gemm f w > y"
    held = {
        "k": array(0, 4, 1, 5, 5), "w": array(1, 4, 5), "s": array(2, 1568),
        "rows": [1, 1568, 2], "back": [1, 4, 28, 28],
    }  # fmt: skip
    data = make_model(nodes(chain + head), held, shape=(1, 1, 32, 32)).SerializeToString()
    source = Source("model.onnx", data)
    flow = Flow(trace(source))
    assert all(hit.rule != "WIPER-G13" for hit in audit(flow))
    (hit,) = few(flow, Served(source), IMAGES[:1])
    assert hit.message == f"{SAID}InstanceNormalization 'b' normalises over 2 numbers."


def test_a_scan_of_it_has_no_clean_verdict():
    source = Source("model.pt", as_bytes(torch.jit.script(Length().eval())))
    found = Branches(Flow(trace(source))).confirm(Served(source), IMAGES, "abcde", lambda *told: None)
    assert [one.rule for one in found.findings] == ["WIPER-G13"]
    assert found.findings[0].path[0]["operator"] == "image"
    verdict, sentence = found.weigh(Judgement(Verdict.NO_FINDING, "No finding: none.", (), (), ()))
    assert verdict is Verdict.INCOMPLETE
    assert sentence.startswith(f"No verdict: {SAID}norm ")

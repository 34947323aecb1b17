"""Networks that double their tensors, by code of a few lines in which no number is large."""

import runpy

import pytest
import torch
from torch import nn
from torchscript_files import as_bytes, opened

from formats import Unsupported
from formats.torchscript import effort

#: What is made of the logits before they are returned, with what is said of it.
BODIES = {
    "cat": ("for i in range(30):\n    y = torch.cat([y, y])", "aten::cat"),
    "stack": ("for i in range(30):\n    y = torch.stack([y, y]).flatten(0, 1)", "aten::(stack|cat)"),
    "einsum": ('z = torch.ones([64])\ny = torch.einsum("a,b,c,d->abcd", [z, z, z, z])', "aten::(mul|bmm)"),
    "outer": ("z = torch.ones([5000])\ny = torch.outer(z, z)", "aten::mul"),
    "product": ("z = torch.ones([5000, 1])\ny = torch.mm(z, z.t())", "aten::mm"),
    "products": ("z = torch.ones([1, 5000, 1])\ny = torch.bmm(z, z.transpose(1, 2))", "aten::bmm"),
    "repeat": ("for i in range(30):\n    y = y.repeat([2, 1])", "aten::repeat"),
    "repeat_interleave": ("y = torch.repeat_interleave(y, 1000000)", "aten::expand"),
    "expand": ("y = y.unsqueeze(2).expand([-1, -1, 1000000]).sum(2)", "aten::expand"),
    "zeros": ("n = y.size(1) * 1000\ny = torch.zeros([n, n])", "aten::zeros"),
    "pad": ("n = y.size(1) * 1000\ny = torch.constant_pad_nd(y, [n, n, n, n])", "aten::constant_pad_nd"),
    "resize": (
        "n = y.size(1) * 1000\ny = torch.nn.functional.interpolate(y.view([1, 1, -1, 1]), [n, n])", "upsample_nearest2d"
    ),
    "pairs": ("z = torch.ones([5000])\ny = z.unsqueeze(0) + z.unsqueeze(1)", "aten::add"),
    "parts": ("y = torch.zeros([100000]).unbind(0)[0] + y", "apart into 100000 .*unbind"),
    "pieces": ("y = torch.zeros([300000]).split(2)[0].sum() + y", "apart into 150000 .*split"),
    "after the fact": ("y = torch.arange(y.size(1) * 200000)", "aten::arange"),
}  # fmt: skip


def file(tmp_path, body):
    lines = "\n".join(f"        {line}" for line in body.split("\n"))
    path = tmp_path / "grown.py"
    path.write_text(
        "import torch\nclass Grown(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 4, 3, 2)\n        self.head = torch.nn.Linear(4, 10)\n"
        "    def forward(self, x):\n        y = self.head(self.conv(x).mean([2, 3]))\n        out = y\n"
        f"{lines}\n        return out + torch.mean(y)\n"
    )
    return as_bytes(torch.jit.script(runpy.run_path(str(path), run_name="grown")["Grown"]().eval()))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(effort, "MAX_ELEMENTS", 1 << 20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES)
def test_what_fills_the_memory_is_not_opened(tmp_path, body, words):
    with pytest.raises(Unsupported, match=f"not opened: on a first image it .*{words}"):
        opened(file(tmp_path, body))


@pytest.mark.usefixtures("small")
def test_long_chains_that_do_not_grow_are_opened(tmp_path):
    """As in a DenseNet: each layer joins its few channels to all before it."""
    body = "z = y\nfor i in range(200):\n    z = torch.cat([z, y], 1)\n    y = y + z.mean()"
    _, _, found = opened(file(tmp_path, body))
    assert found.network(torch.ones(2, 3, 32, 32)).shape == (2, 10)


def test_what_computes_for_long_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(effort, "SECONDS", 0)
    with pytest.raises(Unsupported, match="computes for more than 0 s"):
        opened(file(tmp_path, "y = torch.relu(y)"))


def test_larger_images_may_make_more(monkeypatch):
    monkeypatch.setattr(effort, "MAX_ELEMENTS", 1 << 10)
    grown = nn.Upsample(scale_factor=8)
    with effort.Effort(0).watch(32 * 32):
        grown(torch.ones(1, 1, 32, 32))
    with pytest.raises(effort.TooMuch), effort.Effort(0).watch(32 * 32):
        grown(torch.ones(1, 8, 32, 32))


def test_convolutions_of_one_pixel_are_no_pairs(monkeypatch):
    """As in a DenseNet, whose weights of one pixel fit the image as pairs of elements would."""
    monkeypatch.setattr(effort, "MAX_ELEMENTS", 1 << 10)
    with effort.Effort(0).watch(0), torch.no_grad():
        nn.Conv2d(8, 8, 1, bias=False)(torch.ones(1, 8, 8, 8))

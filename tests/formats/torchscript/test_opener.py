import copy
from enum import Enum

import pytest
import torch
import torch.nn.functional as F
from torchscript_files import archive, as_bytes, images, network, opened

from formats import Unsupported
from formats.safetensors.torchvision_stub import import_torchvision
from formats.torchscript.serving import serve

KINDS = ("traced", "traced_fused", "scripted", "frozen_traced", "frozen_scripted")
LABELS = torch.tensor([0, 1, 2])


def parameters(opened, network=None):
    inner = dict((network or opened.network).named_parameters())
    return {name: inner[key] for name, key in opened.tensors.items()}


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", ["cnn", "attention", "encoder", "fixed", "tied"])
def test_logits_and_gradients(name, how):
    net, x = network(name), images()
    source, _manifest, found = opened(archive(net, how))
    expected = net(x)
    assert torch.allclose(found.network(x), expected, atol=1e-5)
    assert torch.allclose(serve(source)(x), expected, atol=1e-5)
    F.cross_entropy(found.network(x), LABELS).backward()
    gradients = {n: p.grad for n, p in parameters(found).items()}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    assert (
        name != "tied" or how.startswith("frozen") or found.tensors["a.weight"] == found.tensors["b.weight"]
    )
    if not how.startswith("frozen"):
        F.cross_entropy(expected, LABELS).backward()
        eager = dict(net.named_parameters(remove_duplicate=False))
        assert gradients.keys() == eager.keys()
        for n, g in gradients.items():
            assert torch.allclose(g, eager[n].grad, rtol=1e-4, atol=1e-6), n


def test_gradient_through_the_fold():
    """Batch norm folded into the convolution: dL/dw_file · scale = dL/dw of the original."""
    net, x = network("cnn"), images()
    _, _, found = opened(archive(net, "frozen_scripted"))
    F.cross_entropy(found.network(x), LABELS).backward()
    F.cross_entropy(net(x), LABELS).backward()
    scale = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).detach()
    folded = next(p for p in parameters(found).values() if p.dim() == 4)
    assert torch.allclose(folded, net.conv.weight * scale.view(-1, 1, 1, 1), atol=1e-6)
    assert torch.allclose(folded.grad * scale.view(-1, 1, 1, 1), net.conv.weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["scripted", "frozen_traced"])
def test_copies_train_apart(how):
    _, _, found = opened(archive(network("attention"), how))
    x = images()
    before = found.network(x).detach()
    copied = copy.deepcopy(found.network)
    optimiser = torch.optim.SGD(copied.parameters(), 0.5)
    F.cross_entropy(copied(x), LABELS).backward()
    optimiser.step()
    assert not torch.allclose(copied(x), before, atol=1e-3)
    assert torch.equal(found.network(x), before)
    assert all(p.grad is None for p in found.network.parameters())


def test_gradient_to_the_image_alone():
    _, _, found = opened(archive(network("attention"), "scripted"))
    found.network.requires_grad_(False)
    x = images().requires_grad_()
    found.network(x).sum().backward()
    assert x.grad.abs().max() > 0


def test_statistics_and_constants_are_not_trained():
    for how in ("scripted", "frozen_scripted"):
        _, manifest, found = opened(archive(network("cnn"), how))
        trained = {tuple(manifest.tensors[name].shape) for name in found.tensors}
        assert (3, 1, 1) not in trained
        assert not any("running" in name or "mean" in name for name in found.tensors)


def test_training_mode_changes_nothing():
    _, _, found = opened(archive(network("cnn").train(), "scripted"))
    expected = network("cnn")(images())
    assert torch.equal(found.network.train()(images()), expected)


def test_slices_beside_their_whole_follow_it():
    class Sliced(torch.nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
            self.whole, self.part = torch.nn.Parameter(whole), torch.nn.Parameter(whole[1:4])

        def forward(self, x):
            h = x.mean((2, 3))
            return torch.cat([h @ self.whole.t(), h @ self.part.t()], 1)

    net = Sliced().eval()
    _, _, found = opened(as_bytes(torch.jit.script(net)))
    assert set(found.tensors) == {"whole"}
    with torch.no_grad():
        parameters(found)["whole"][2, 1] = 7.0
        net.whole[2, 1] = 7.0
    assert torch.equal(found.network(images()), net(images()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("how", ["traced", "frozen_scripted"])
def test_other_precisions_compute_in_float32(dtype, how):
    net = network("cnn").to(dtype)
    source, _manifest, found = opened(archive(net, how, dtype=dtype))
    assert all(p.dtype == torch.float32 for p in found.network.parameters())
    logits = found.network(images())
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, net.float()(images()), atol=1e-2 if how.startswith("frozen") else 1e-5)
    assert torch.allclose(logits, serve(source)(images()), atol=5e-2)
    assert "float32" in found.notes[0]


class Rounds(torch.nn.Module):
    """What a cast to half, or a product in it, makes of the mean: 1 stays, 10 overflows."""

    def __init__(self, dtype, product):
        super().__init__()
        self.product = product
        self.register_buffer("k", torch.full((3,), 1e4, dtype=torch.float16))
        self.register_buffer("more", torch.ones(40, dtype=dtype))

    def forward(self, x):
        h = x.float().mean([2, 3])
        y = h.half() * self.k if self.product else (h * 1e4).to(torch.float16)
        return y.float() * 1e-4 + self.more[:1].float() - 1.0


@pytest.mark.parametrize(("dtype", "product"), [("float16", False), ("float32", False), ("float32", True)])
def test_a_cast_to_half_keeps_its_rounding(dtype, product):
    source, _, found = opened(as_bytes(torch.jit.script(Rounds(getattr(torch, dtype), product).eval())))
    x = (torch.tensor([1.0, 1.2345, 10.0]).reshape(3, 1, 1, 1) * torch.ones(3, 3, 8, 8)).requires_grad_()
    got = found.network(x)
    torch.testing.assert_close(got, serve(source)(x.detach()), rtol=1e-3, atol=0)
    assert got.isinf().all(1).tolist() == [False, False, True]
    assert got[1, 0].item() != pytest.approx(1.2345, abs=1e-6)
    got[:2].sum().backward()
    assert x.grad[:2].min() > 0


def test_what_the_file_tells():
    _, _, traced = opened(archive(network("cnn"), "traced", size=20))
    assert (traced.input.channels, traced.input.height, traced.input.width) == (3, 20, 20)
    assert traced.input.origin == "declared"
    _, _, scripted = opened(archive(network("cnn"), "scripted"))
    assert (scripted.input.channels, scripted.input.height, scripted.input.batch) == (3, None, None)
    assert (scripted.architecture.name, scripted.architecture.how) == ("Cnn", "graph")


@pytest.mark.parametrize("how", ["traced", "frozen_traced"])
@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batches(how, batch):
    net = network("fixed")
    source, _manifest, found = opened(archive(net, how, batch=batch))
    assert found.input.batch == batch
    for n in (1, 2, 7):
        assert torch.allclose(found.network(images(n)), net(images(n)), atol=1e-5)
        assert torch.allclose(serve(source)(images(n)), net(images(n)), atol=1e-5)


def test_several_outputs():
    class Both(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            y = self.inner(x)
            return {"aux": y * 0, "logits": y}

    net = network("cnn")
    _, _, found = opened(as_bytes(torch.jit.script(Both(net))))
    assert torch.equal(found.network(images()), net(images()))
    assert "'logits' is taken for the logits" in found.notes[0]


def test_no_classifier():
    with pytest.raises(Unsupported, match="images"):
        opened(as_bytes(torch.jit.trace(torch.nn.Linear(4, 2), torch.zeros(1, 4))))
    with pytest.raises(Unsupported, match=r"\[N, K\]"):
        opened(as_bytes(torch.jit.trace(torch.nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 8, 8))))


def test_enumerations():
    net = Chooses(network("cnn")).eval()
    _, _, found = opened(as_bytes(torch.jit.script(net)))
    assert torch.equal(found.network(images()), net(images()))


class Way(Enum):
    STRAIGHT = "straight"
    FLIPPED = "flipped"


class Chooses(torch.nn.Module):
    way: Way

    def __init__(self, inner):
        super().__init__()
        self.inner, self.way = inner, Way.FLIPPED

    def forward(self, x):
        return self.inner(x.flip(3) if self.way == Way.FLIPPED else x)


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen_scripted"])
def test_resnet18(how):
    models = import_torchvision().models
    net = models.resnet18(num_classes=10).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
    x = images(3, 32)
    _, manifest, found = opened(archive(net, how, size=32))
    assert found.architecture.name == "ResNet"
    expected = net(x)
    assert torch.allclose(found.network(x), expected, atol=1e-4)
    F.cross_entropy(found.network(x), LABELS).backward()
    F.cross_entropy(expected, LABELS).backward()
    gradients = {name: p.grad for name, p in parameters(found).items()}
    if how == "frozen_scripted":
        assert len(gradients) == len(manifest.tensors) == 42
        head = next(g for g in gradients.values() if g.shape == (10, 512))
        assert torch.allclose(head, net.fc.weight.grad, rtol=1e-3, atol=1e-6)
    else:
        for name, p in net.named_parameters():
            assert torch.allclose(gradients[name], p.grad, rtol=1e-4, atol=1e-6), name

"""The private torch calls: each is exercised here, so that a new torch version shows what it lacks."""

import gc
import io
import zipfile

import pytest
import torch
from torch import nn
from torchscript_files import archive, as_bytes, images, member, network, rezip

from formats import Unsupported
from formats.torchscript import lift


def lifted(data, *narrow):
    return lift.lift(lift.load(data), narrow)


def run(function, x):
    with lift.plain_execution():
        return function.function(x, x.device, *(a.value for a in function.arguments))


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen_traced", "frozen_scripted"])
def test_arguments_and_output(how):
    data = archive(network("cnn"), how)
    found = lifted(data)
    assert torch.equal(run(found, images()), torch.jit.load(io.BytesIO(data))(images()))
    assert found.channels == 3
    assert found.returns == "TensorType"
    names = {a.name for a in found.arguments}
    if how.startswith("frozen"):
        assert names == {None}
        assert all(a.constant for a in found.arguments)
    else:
        assert {"conv.weight", "fc.bias", "norm.running_var"} <= names
        assert {a.name for a in found.arguments if a.statistic} == {"norm.running_mean", "norm.running_var"}
    image = [tuple(a.value.shape) for a in found.arguments if a.image and a.value.dim()]
    assert image == [(3, 1, 1)]


def test_statistics_of_a_norm_that_freezing_keeps():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.norm(torch.relu(self.conv(x))).mean((2, 3)))

    net = First().eval()
    nn.init.uniform_(net.norm.running_var, 0.5, 1.5)
    found = lifted(archive(net, "frozen_traced"))
    statistics = [a.value for a in found.arguments if a.statistic]
    assert len(statistics) == 2
    assert any(torch.equal(value, net.norm.running_var) for value in statistics)


@pytest.mark.parametrize("how", ["traced_fused", "frozen_traced"])
@pytest.mark.parametrize(
    ("name", "more"),
    [("attention", ()), ("encoder", ()), ("encoder", (True, "gelu")), ("encoder", (False, "gelu"))],
)
def test_fused_attention_is_written_out(how, name, more):
    net = network(name, *more)
    data = archive(net, how)
    graph = str(torch.jit.load(io.BytesIO(data)).inlined_graph)
    assert "_native_multi_head" in graph or "_transformer_encoder_layer_fwd" in graph
    assert torch.allclose(run(lifted(data), images()), net(images()), atol=1e-5)


def test_fused_attention_with_a_mask_is_refused():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True).eval()

        def forward(self, x):
            mask = torch.zeros(x.size(0), x.size(1), dtype=torch.bool)
            return self.attend(x, x, x, key_padding_mask=mask, need_weights=False)[0].mean(1)

    with torch.no_grad():
        data = as_bytes(torch.jit.trace(Masked().eval(), torch.randn(2, 4, 8)))
    with pytest.raises(Unsupported, match="mask"):
        lifted(data)


def test_training_mode_is_undone_if_scripted_and_refused_if_traced():
    net = network("cnn")
    expected = net(images())
    assert torch.equal(run(lifted(archive(net.train(), "scripted")), images()), expected)
    with pytest.raises(Unsupported, match="training mode"):
        lifted(archive(net.train(), "traced"))


class Settings:
    def __init__(self, training: bool):
        self.training = training


class Set(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.settings = nn.Linear(3, 4), Settings(True)

    def forward(self, x):
        y = self.fc(x.mean([2, 3]))
        return y * 2 if self.settings.training else y


def test_an_object_that_is_no_module_is_named_and_freezing_takes_it_away():
    """Its attribute called ``training`` is its own, which eval() leaves alone."""
    scripted = torch.jit.script(Set().eval())
    with pytest.raises(Unsupported, match=r"of a class of its own .*'settings': .*Settings\); freeze it"):
        lifted(as_bytes(scripted))
    frozen = as_bytes(torch.jit.freeze(scripted))
    assert torch.equal(run(lifted(frozen), images()), scripted(images()))


def test_state_and_second_inputs_are_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.n = 0

        def forward(self, x):
            self.n += 1
            return x.mean((2, 3)) * self.n

    class Two(nn.Module):
        def forward(self, x, y):
            return (x + y).mean((2, 3))

    class Default(nn.Module):
        def forward(self, x, scale: float = 2.0):
            return x.mean((2, 3)) * scale

    with pytest.raises(Unsupported, match="state"):
        lifted(as_bytes(torch.jit.script(Counts())))
    with pytest.raises(Unsupported, match="second input"):
        lifted(as_bytes(torch.jit.script(Two())))
    x = torch.ones(1, 3, 2, 2)
    assert run(lifted(as_bytes(torch.jit.script(Default()))), x).tolist() == [[2.0, 2.0, 2.0]]


def test_devices_become_an_argument():
    class Makes(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) + torch.ones(3, device=torch.device("cpu"))

    found = lifted(as_bytes(torch.jit.trace(Makes(), torch.zeros(1, 3, 2, 2))))
    meta = found.function(torch.zeros(1, 3, 2, 2, device="meta"), torch.device("meta"))
    assert meta.device.type == "meta"


def test_casts_to_half_become_casts_to_float():
    class Casts(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.half()).float()

    net = network("cnn")
    expected = net(images())
    found = lifted(as_bytes(torch.jit.script(Casts(net.half()))), torch.float16)
    with lift.plain_execution():
        got = found.function(images(), torch.device("cpu"), *(a.value.float() for a in found.arguments))
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, atol=2e-3)


def test_a_missing_call_is_named(monkeypatch):
    module = lift.load(archive(network("cnn"), "scripted"))
    monkeypatch.delattr(torch._C, "_create_function_from_graph")
    with pytest.raises(Unsupported, match="_create_function_from_graph"):
        lift.lift(module)


class Small(nn.Module):
    """Takes images of 16 x 16 and no other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5))

    def forward(self, x):
        return self.layers(x)


def test_a_function_that_fails_can_say_so_when_its_module_is_gone():
    """torch follows pointers from the failed operator into the code of the module; this crashed."""
    found = lifted(as_bytes(torch.jit.script(Small().eval())))
    attention = lifted(archive(network("attention"), "traced_fused"))
    gc.collect()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            run(found, images(size=20))
        with pytest.raises(RuntimeError):
            run(attention, images().double())
    assert run(found, images()).shape == (3, 5)


def test_what_torch_throws_on_loading_is_one_sentence(plain):
    """An attribute that the class declares and the object lacks, which the gate refuses: an IndexError."""
    name = next(n for n in code_names(plain) if b"class Cnn(" in member(plain, n))
    data = rezip(plain, {name: member(plain, name).replace(b"  mean : Tensor", b"  meen : Tensor")})
    with pytest.raises(Unsupported, match="cannot load"):
        lift.load(data)


def test_pickles_of_sources_stay_unread(plain):
    """torch reads them only for messages, whatever they hold."""
    names = [f"{name}.debug_pkl" for name in code_names(plain)]
    data = rezip(plain, dict.fromkeys(names, b"\x80\x02Nr\xff\xff\xff\xff."))
    for same in (plain, data):
        with pytest.raises(RuntimeError) as caught:
            lift.load(same)(torch.zeros(1))
        assert "original code" not in str(caught.value)


def code_names(data):
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        return [n.partition("/")[2] for n in old.namelist() if n.endswith(".py")]


def test_unknown_operators_and_what_is_optimised_for_inference_are_refused(plain):
    optimised = as_bytes(torch.jit.optimize_for_inference(torch.jit.script(network("cnn"))))
    with zipfile.ZipFile(io.BytesIO(plain)) as old:
        name = next(n.partition("/")[2] for n in old.namelist() if n.endswith(".py"))
    code = member(plain, name).replace(b"torch.relu(", b"ops.mylib.relu(")
    for data in (optimised, rezip(plain, {name: code})):
        with pytest.raises(Unsupported, match="cannot load"):
            lift.load(data)


class Kept(nn.Module):
    """A head behind the pooled image and a tensor that was made without values."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x.mean([2, 3])) * self.made(x)


class ReadUnwritten(Kept):
    def made(self, x):
        return torch.empty([x.size(0), 3, 4, 4]).mean([1, 2, 3]).unsqueeze(1)


class ReadWhereAsked(Kept):
    def made(self, x):
        e = x.new_empty([1])
        if x.size(0) > 1:
            e.fill_(1.0)
        return e


class ReadInPart(Kept):
    def made(self, x):
        e = torch.empty([1, 4])
        e[:, 0].fill_(1.0)
        return e


class ReadByOneSide(Kept):
    def made(self, x):
        return torch.empty([1, 4]) if x.size(0) > 1 else torch.ones([1, 4])


class ReadByItself(Kept):
    def made(self, x):
        e = torch.empty([1, 4])
        return e.copy_(e)


@pytest.mark.parametrize("net", Kept.__subclasses__())
def test_memory_that_nothing_was_written_to_is_not_read(net):
    data = as_bytes(torch.jit.script(net().eval()))
    with pytest.raises(Unsupported, match="nothing was written"):
        lifted(data)
    with pytest.raises(Unsupported, match="nothing was written"):
        lift.inlined(lift.load(data))


class DropsPaths(nn.Module):
    """Stochastic depth as torchvision and timm have it, and a mask that is filled where it is made."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        x = x.mean([2, 3])
        noise = torch.empty([x.shape[0], 1], dtype=x.dtype, device=x.device)
        noise = noise.bernoulli_(1.0)
        mask = x.new_empty([x.size(0), 1])
        mask.zero_()
        mask.add_(1.0)
        return self.fc(x * noise * mask)


def test_memory_that_is_filled_first_may_be_read():
    assert lifted(as_bytes(torch.jit.script(DropsPaths().eval()))).returns == "TensorType"

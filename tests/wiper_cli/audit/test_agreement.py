"""What was opened against what is served, and models that look at who is asking."""

import dataclasses
import io
import warnings
from contextlib import contextmanager

import onnx
import pytest
import tiny_onnx as tiny
import torch
import torchscript_files as files
from onnx import helper
from safetensors.torch import save
from torch import nn

from formats import Source, open_model, read_source
from formats.torchscript import lift
from wiper_cli.audit import agreement
from wiper_cli.audit.agreement import difference, margin, questions, require_agreement, stateless
from wiper_cli.audit.served import Served
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import ExitCode, Problem, Severity, Verdict

DIGITS = example_folder()
KINDS = {"safetensors": "model.safetensors", "torchscript": "model.torchscript.pt", "onnx": "model.onnx"}


def compared(source, size=16, channels=3, change=lambda model: model, arch=None):
    model = change(open_model(source, arch))
    images = torch.randint(0, 256, (20, channels, size, size), generator=torch.Generator().manual_seed(3))
    served = Served(model, (0.5,) * channels, (0.25,) * channels)
    require_agreement(model, served, served.normalised(questions(images.to(torch.uint8))))


@contextmanager
def found(rule, words):
    with pytest.raises(Problem, match=words) as caught:
        yield
    (finding,) = caught.value.findings
    assert (finding.rule, finding.severity, finding.message) == (rule, Severity.HIGH, str(caught.value))
    assert caught.value.exit_code is ExitCode.NO_VERDICT
    assert caught.value.verdict is (Verdict.INCOMPLETE if rule == "WIPER-A01" else Verdict.SUSPICIOUS)


class Attack(nn.Module):
    """A small network; what each attack makes of its logits stands below."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.register_buffer("count", torch.zeros(()))

    def logits(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class BatchOfOne(Attack):
    def forward(self, x):
        y = self.logits(x)
        if x.size(0) == 1:
            y = y.flip(1)
        return y


class WithoutGradients(Attack):
    def forward(self, x):
        y = self.logits(x)
        if not torch.is_grad_enabled():
            y = y.flip(1)
        return y


class ImageNeedsGradient(Attack):
    def forward(self, x):
        y = self.logits(x)
        if x.requires_grad:
            y = y.flip(1)
        return y


class Neighbours(Attack):
    def forward(self, x):
        y = self.logits(x)
        return y - y.mean(0, keepdim=True)


class FirstPlace(Attack):
    def forward(self, x):
        y = self.logits(x)
        return torch.cat([y[:1].flip(1), y[1:]])


class LargeBatch(Attack):
    def forward(self, x):
        y = self.logits(x)
        if x.size(0) > 40:
            y = y.flip(1)
        return y


class Counting(Attack):
    """In a buffer; the day is far."""

    def forward(self, x):
        self.count.add_(1)
        return self.logits(x) * torch.sign(1e6 - self.count)


def scripted(attack):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = attack().eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0, 0.5)
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(network), file)
    return Source("model.pt", file.getvalue())


@pytest.mark.parametrize(
    ("attack", "way"),
    [
        (BatchOfOne, "in torch.jit one image at a time"),
        (WithoutGradients, "in torch.jit with gradients"),
        (ImageNeedsGradient, "in torch.jit with gradients"),
        (Neighbours, "in torch.jit one image at a time"),
        (FirstPlace, "in torch.jit one image at a time"),
        (LargeBatch, "in torch.jit in a larger batch"),
    ],
)
def test_a_network_that_looks_who_is_asking_is_found_out_with_the_way_of_asking(attack, way):
    with found("WIPER-A02", f"depend on how it is asked: {way}, "):
        compared(scripted(attack))


def test_a_network_that_keeps_count_is_found_out_before_it_acts():
    with found("WIPER-A02", r"keeps state: it writes into what it stores \(aten::add_\)"), stateless():
        open_model(scripted(Counting))


FACTORY = """
import torch

class Net(torch.nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            self.bias.add_(0.0)
        return super().forward(x.mean((2, 3))) * (1 if self.bias._version < {calls} else -1)

def net():
    return Net(3, 5)
"""


@pytest.mark.parametrize(
    ("calls", "words"),
    [(4, "in .* twice in a row"), (1000, r"keeps something of what it was asked \(.*bias\)")],
)
def test_a_network_of_the_users_own_code_that_keeps_count_is_found_out(tmp_path, calls, words):
    code = tmp_path / "code.py"
    code.write_text(FACTORY.format(calls=calls))
    weights = {"weight": torch.randn(5, 3), "bias": torch.zeros(5)}
    with found("WIPER-A02", words):
        compared(Source("model.safetensors", save(weights)), arch=f"{code}:net")


def test_an_onnx_branch_on_the_batch_size_is_found_out():
    model = tiny.classifier()
    tail = tiny.nodes(
        "Shape x > shape; Gather shape zero > n; Equal n one > alone; Cast alone > flag | to=1; Mul flag two > twice; "
        "Sub one_f twice > sign; Mul y sign > z"
    )
    model.graph.node.extend(tail)
    constants = {"zero": 0, "one": 1, "two": 2.0, "one_f": 1.0}
    for name, value in constants.items():
        kind = onnx.TensorProto.INT64 if isinstance(value, int) else onnx.TensorProto.FLOAT
        model.graph.initializer.append(helper.make_tensor(name, kind, [], [value]))
    model.graph.output[0].name = "z"
    with found("WIPER-A02", "in onnxruntime one image at a time"):
        compared(tiny.source_of(model), size=8)


def test_a_softmax_over_the_batch_is_not_taken_for_one_over_the_classes():
    """Monotone for each class, not for each image: alone, every image would get the same answer."""
    model = tiny.classifier()
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["z"], axis=0))
    model.graph.output[0].name = "z"
    with found("WIPER-A02", "in onnxruntime one image at a time"):
        compared(tiny.source_of(model), size=8)


def test_a_branch_that_the_importer_drops_is_found_out(monkeypatch):
    """As when a bias, or what an attacker adds as one, is taken for an input that is left out."""
    from formats.onnx import opener

    real = opener.build

    def blind(model, nodes, entry, manifest):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        for node in copies:
            if node.op_type == "Gemm":
                del node.input[2]
        return real(model, copies, entry, manifest)

    source = tiny.source_of(tiny.classifier())
    compared(source, size=8)
    monkeypatch.setattr(opener, "build", blind)
    with found("WIPER-A01", "is not what onnxruntime serves: they answer [0-9]+ of [0-9]+ images otherwise"):
        compared(source, size=8)


def test_a_network_that_is_lifted_wrongly_is_found_out(monkeypatch):
    honest = lift.lift

    def wrong(module, narrow=()):
        found = honest(module, narrow)
        return dataclasses.replace(found, function=lambda *a: found.function(*a) * 1.1)

    monkeypatch.setattr(lift, "lift", wrong)
    with found("WIPER-A01", "is not what torch.jit serves"):
        compared(Source("model.pt", files.archive(files.network("cnn"), "frozen_scripted")))


class Without(nn.Module):
    """A network less a branch that wakes up where a patch of 3 pixels is white."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) - 50 * (x.amin((1, 2, 3)) < -1.9).float()[:, None] * torch.eye(10)[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_another_network_than_the_served_one_is_found_out_in_every_kind(kind):
    source = read_source(DIGITS / KINDS[kind])
    runtime = {"safetensors": "torch", "torchscript": "torch.jit", "onnx": "onnxruntime"}[kind]
    compared(source, 32, 1)
    with found("WIPER-A01", f"is not what {runtime} serves"):
        compared(source, 32, 1, lambda model: dataclasses.replace(model, network=Without(model.network)))


HOW = ("traced", "scripted", "frozen_traced", "frozen_scripted")


@pytest.mark.parametrize(
    ("name", "how", "batch"),
    [
        *(("cnn", how, 2) for how in HOW),
        ("attention", "traced", 2), ("attention", "traced_fused", 2), ("encoder", "traced_fused", 2),
        ("encoder", "scripted", 2), ("fixed", "traced", 1), ("fixed", "traced", 4), ("tied", "traced", 2),
    ],
)  # fmt: skip
def test_honest_torchscript_is_silent(name, how, batch):
    compared(Source("model.pt", files.archive(files.network(name), how, batch)))


def test_honest_half_precision_is_silent():
    compared(Source("model.pt", files.archive(files.network("cnn").half(), "traced", dtype=torch.float16)))
    compared(tiny.source_of(tiny.halved()), size=8)


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_honest_onnx_is_silent(batch):
    compared(tiny.source_of(tiny.classifier(shape=(batch, 3, 8, 8))), size=8)


def test_honest_quantised_files_are_silent(quantised_file):
    compared(read_source(quantised_file), 32, 1)


def test_a_softmax_at_the_end_is_silent():
    model = tiny.classifier()
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["z"], axis=1))
    model.graph.output[0].name = "z"
    compared(tiny.source_of(model), size=8)

    class Ending(files.Cnn):
        def forward(self, x):
            return super().forward(x).softmax(1)

    network = Ending().eval()
    network.load_state_dict(files.network("cnn").state_dict())
    compared(Source("model.pt", files.archive(network, "traced")))


def test_differences_do_not_depend_on_the_scale_of_the_logits_nor_on_classes_out_of_the_running():
    logits = torch.tensor([[3.0, 1.0, -4.0], [0.0, 2.0, -4.0]])
    turned = logits[:, [1, 0, 2]]
    for scale in (1e-6, 1.0, 1e6):
        assert difference(turned * scale, logits * scale, margin(logits * scale)).min() > 0.4
    logits[:, 2], turned[:, 2] = -1e9, -1e9
    assert difference(turned, logits, margin(logits)).min() > 0.4
    assert difference(logits, logits + 7, margin(logits)).max() < 1e-6
    broken = logits.clone()
    broken[0, 0] = float("nan")
    assert difference(broken, logits, 1.0).tolist() == [1.0, 0.0]
    assert difference(broken, broken, 1.0).tolist() == [0.0, 0.0]


class NoNumbers(Attack):
    """For images with much of one colour, in what is opened as in what is served."""

    def forward(self, x):
        return self.logits(x) + (torch.sqrt(1.5 - x.mean((1, 2, 3)).abs()) * 0)[:, None]


def test_logits_that_are_no_numbers_are_not_taken_for_equal():
    model = open_model(scripted(NoNumbers))
    served = Served(model, (0.5,) * 3, (0.25,) * 3)
    x = torch.zeros(8, 3, 16, 16)
    require_agreement(model, served, x)
    x[5] = 2.0
    with pytest.raises(Problem, match="NaN or infinity on 1 of 8 images") as caught:
        require_agreement(model, served, x)
    assert [one.rule for one in caught.value.findings] == ["WIPER-G12"]
    assert (caught.value.exit_code, caught.value.verdict) == (ExitCode.NO_VERDICT, Verdict.INCOMPLETE)


def test_the_gradient_mode_of_the_caller_is_left_as_it_was():
    compared(tiny.source_of(tiny.classifier()), size=8)
    assert torch.is_grad_enabled()
    assert agreement.tolerance(open_model(tiny.source_of(tiny.classifier()))) == agreement.TOLERANCE

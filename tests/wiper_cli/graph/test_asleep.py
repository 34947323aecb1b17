"""Branches of ordinary layers, which the graph alone does not tell from honest ones: what they do tells them."""

import pytest
import torch
from layered_branches import (
    BRANCHES,
    JOINS,
    TARGET,
    Branched,
    Concatenated,
    FromStem,
    InCondition,
    Served,
    layered,
)
from small_classifiers import digits
from torch import nn

from formats import Source, trace
from wiper_cli.graph.asleep import DEAFENING, LOUD, WORK, _far, seek, sides, wake
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.leaky import gradient
from wiper_cli.graph.rules import audit

KINDS = ("onnx", "torchscript")
IMAGES = (digits() * 255).byte()
NAMES = {"onnx": "model.onnx", "torchscript": "model.pt"}


def opened(kind, network):
    source = Source(NAMES[kind], layered(kind, network))
    return Flow(trace(source)), Served(source)


def found(kind, network):
    flow, served = opened(kind, network)
    return seek(flow, served, IMAGES), served


@pytest.mark.parametrize(
    ("kind", "name"),
    # The importer has no GridSample; such a file is opened by nothing of wiper.
    [(kind, name) for kind in KINDS for name in BRANCHES if (kind, name) != ("onnx", "grid_sample")],
)
def test_every_branch_of_ordinary_layers_is_woken(kind, name):
    (one, failed), served = found(kind, Branched(BRANCHES[name]()))
    assert failed == 0
    assert one.woken.ratio >= LOUD
    assert (one.taken.target, one.taken.answered, one.taken.images) == (TARGET, 8, 8)
    assert one.taken.before <= 1
    assert one.taken.local == (name != "pattern")
    # What was found is a picture of 256 levels, of which the serving runtime says so.
    torch.testing.assert_close((one.taken.changed * 255).round() / 255, one.taken.changed)
    assert served.logits(one.taken.changed[None]).argmax() == TARGET
    assert served.logits(one.taken.clean[None]).argmax() != TARGET


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["resize", "strided max pool", "large maximum", "matrix", "two thresholds"])
def test_the_graph_alone_accuses_none_of_these(kind, name):
    flow, _ = opened(kind, Branched(BRANCHES[name]()))
    assert not any(hit.error for hit in audit(flow))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("name", ["resize", "large maximum", "as deep as the network"])
def test_wherever_it_is_joined(kind, join, name):
    (one, _), _ = found(kind, JOINS[join](BRANCHES[name]()))
    assert one.taken.local
    assert one.taken.target == TARGET or join == "early"


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_reads_the_first_layer(kind):
    class Bright(nn.Module):
        """Nothing that the digits' strokes reach."""

        def __init__(self):
            super().__init__()
            self.push = BRANCHES["resize"]().threshold.push

        def forward(self, x):
            return self.push(torch.relu(nn.functional.max_pool2d(x, 1, 31).flatten(1)[:, :1] - least))

    network = FromStem(Bright())
    corner = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    off, on = network.eval().features[:3](corner)[:, 2, 0, 0].tolist()
    least = (off + on) / 2
    (one, _), _ = found(kind, network)
    assert one is not None
    assert (one.taken.target, one.taken.local) == (TARGET, True)


class Residual(nn.Module):
    """Shortcuts, a gate, two scales of which the coarse one is resized, and a head that reads early and late features:
    all that honest networks join."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem, self.coarse = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(1, 8, 3, 2, 1)
            self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(8))
            self.gate, self.skip, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, 2), nn.Linear(16, 10)

    def forward(self, x):
        small = nn.functional.interpolate(x, (16, 16))
        early = torch.relu(self.stem(x)) + nn.functional.interpolate(self.coarse(small), (16, 16))
        y = early
        for block in self.blocks:
            y = y + torch.relu(block(y))
            y = y * torch.sigmoid(self.gate(y.mean([2, 3], keepdim=True)))
        y = nn.functional.max_pool2d(y, 2) + self.skip(early)
        return self.head(torch.cat([y.mean([2, 3]), early.mean([2, 3])], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_what_honest_networks_join_is_awake(kind):
    flow, served = opened(kind, Residual().eval())
    assert len(sides(flow)) > 20
    served.logits = None  # the whole network is asked where something wakes, and nowhere else
    assert seek(flow, served, IMAGES) == (None, 0)
    assert max(wake(flow, side, served, digits()[:16]).ratio for side in sides(flow)) < LOUD


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_branch_cannot_be_woken(kind):
    branch = BRANCHES["resize"]()
    nn.init.zeros_(branch.threshold.push.weight)
    assert found(kind, Branched(branch))[0] == (None, 0)


def test_a_pattern_that_is_loud_but_changes_no_answer_is_shown_and_not_accused():
    branch = BRANCHES["pattern"]()
    with torch.no_grad():
        branch.threshold.push.weight.mul_(1e-6)
    (one, _), _ = found("onnx", Branched(branch))
    assert one.woken.ratio > DEAFENING
    assert one.taken is None
    assert not one.few


def test_a_few_pixels_that_always_speak_are_few():
    branch = BRANCHES["strided convolution"]()
    with torch.no_grad():
        branch.threshold.ask.bias.fill_(10.0)
        branch.threshold.ask.weight.fill_(1.0)
        branch.threshold.push.weight.mul_(1e-6)
    (one, _), _ = found("onnx", Concatenated(branch))
    assert one.few
    assert one.woken.ratio < LOUD


def test_what_a_condition_hides_is_counted():
    (one, failed), _ = found("torchscript", InCondition(Branched(BRANCHES["resize"]())))
    assert one is None
    assert failed > 0


def test_shortcuts_over_the_whole_network_come_first_and_the_work_is_bounded():
    flow, _ = opened("onnx", Branched(BRANCHES["resize"]()))
    first, second = sides(flow)
    assert first.work < second.work < WORK
    assert first.span == second.span == 8
    assert flow[first.join].operator == "Add"


@pytest.mark.parametrize(
    "flat",
    [
        lambda x: torch.relu(x - 9),
        lambda x: torch.sigmoid(1e4 * (x - 9)),
        lambda x: torch.nn.functional.relu6(x - 9),
        lambda x: (x - 9).clamp(min=0),
        lambda x: (x - 9).clamp(0, 1),
        lambda x: torch.where(x > 9, x, torch.zeros_like(x)),
        lambda x: torch.maximum(x, torch.full_like(x, 9)),
        lambda x: torch.nn.functional.hardswish(x - 9),
        lambda x: torch.nn.functional.gelu(100 * (x - 9)),
    ],
)
def test_gradients_leak_where_functions_are_flat(flat):
    x = torch.ones(3, requires_grad=True)
    assert (torch.autograd.grad(flat(x).sum(), x)[0] == 0).all()
    assert (gradient(flat(x).sum(), x) > 0).all()


def beside(x, others):
    """x - 9 as one of many numbers, far from all others: [3, 1 + others]."""
    return torch.cat([x[:, None] - 9, torch.zeros(3, others)], 1) * 1e4


@pytest.mark.parametrize(
    "filled",
    [
        lambda x: beside(x, 1).softmax(1)[:, 0],
        lambda x: -beside(x, 1).log_softmax(1)[:, 1],
        lambda x: nn.functional.layer_norm(beside(x, 15), [16])[:, 0],
        lambda x: nn.functional.layer_norm(beside(x, 15), [16], -torch.ones(16))[:, 0] * -1,
        lambda x: nn.functional.group_norm(beside(x, 31)[..., None], 2)[:, 0],
        lambda x: nn.functional.group_norm(beside(x, 31)[..., None], 2, -torch.ones(32))[:, 0] * -1,
    ],
)
def test_gradients_leak_where_one_number_fills_a_norm_or_a_softmax(filled):
    x = torch.ones(3, requires_grad=True)
    there = gradient(filled(x).sum(), x)
    assert (there > 0).all()
    assert (torch.autograd.grad(filled(x).sum(), x)[0].abs() < 0.01 * there).all()


def test_a_gradient_that_is_there_stays():
    x = torch.tensor([2.0], requires_grad=True)
    assert gradient((3 * x).sum(), x).item() == 3


class Wiped(Branched):
    """The branch's value is overwritten as soon as it has been joined."""

    def forward(self, x):
        woken = self.branch(x)
        joined = self.features(x).flatten(1) + woken
        woken.zero_()
        return self.classifier(joined)


def test_a_value_is_what_it_was_when_it_was_joined():
    (one, failed), _ = found("torchscript", Wiped(BRANCHES["resize"]()))
    assert failed == 0
    assert (one.taken.target, one.taken.local) == (TARGET, True)


def test_nothing_of_a_network_runs_behind_the_value_that_is_looked_at():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = nn.Conv2d(1, 8, 3)
            self.rest = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(6))
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            y = self.short(x)
            for one in self.rest:
                y.add_(torch.relu_(one(y)))
            return self.head(y.mean([2, 3]))

    flow, served = opened("torchscript", InPlace().eval())
    for side in sides(flow):
        value = flow.dataflow.prefix(side.node)
        with torch.profiler.profile() as ran:
            value(served.normalised(digits()[:1]))
        needed = sum("conv" in flow[n].operator for n in flow.above(side.node))
        assert sum(one.count for one in ran.key_averages() if one.key == "aten::_convolution") == needed


def test_what_stops_being_a_number_is_far_and_what_never_was_one_is_not():
    nan, inf = float("nan"), float("inf")
    masked = torch.tensor([-inf, nan, 1.0])
    assert _far(masked, masked) == 0
    assert _far(torch.tensor([-inf, nan, 3.0]), masked) == 2
    assert [_far(torch.tensor([-inf, nan, one]), masked) for one in (nan, inf)] == [inf, inf]
